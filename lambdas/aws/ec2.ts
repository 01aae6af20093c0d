import {
  AssociateAddressCommand,
  DescribeAddressesCommand,
  DisassociateAddressCommand,
  type EC2Client,
  EC2ServiceException,
  type Filter,
  GetInstanceTpmEkPubCommand,
  type Instance,
  ModifyNetworkInterfaceAttributeCommand,
  paginateDescribeInstances,
  paginateDescribeNetworkInterfaces,
  paginateDescribeSecurityGroups,
  paginateDescribeSnapshots,
  paginateDescribeVolumes,
  type Volume,
} from '@aws-sdk/client-ec2';
import * as z from 'zod';
import type { ElasticIp } from '../../lib/domain/containment.ts';
import { type Observation, type ObservedInterface, observation } from '../../lib/domain/vm.ts';

/** A filter takes at most 200 values: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Filter.html */
const FILTER_VALUES_MAX = 200;

/** EC2 answered something that cannot be understood. Not retryable: nothing is decided on it. */
export class Ec2ShapeError extends Error {
  override readonly name = 'Ec2ShapeError';
}

/** What EC2 shows of VMs, by id. One that cannot be understood throws when asked for, and so fails alone. */
export interface Observations {
  /** @throws Ec2ShapeError */
  get(instanceId: string): Observation | undefined;
}

/**
 * Observes VMs by id with two calls for each 200. By filter, because one unknown id fails a call by id;
 * a VM that EC2 does not show is absent in the answer.
 */
export async function observeVms(
  client: EC2Client,
  region: string,
  instanceIds: readonly string[],
): Promise<Observations> {
  const [instances, volumes] = await Promise.all([
    describeInstances(client, instanceIds),
    describeVolumesOf(client, instanceIds),
  ]);
  const shown = new Map(instances.map((each) => [each.instance.InstanceId ?? '', each]));
  return {
    get(id) {
      const found = shown.get(id);
      return found && toObservation(found.instance, found.accountId, region, volumes.get(id) ?? []);
    },
  };
}

/** Ids of the VMs that these volumes are attached to. */
export async function instancesOfVolumes(
  client: EC2Client,
  volumeIds: readonly string[],
): Promise<readonly string[]> {
  const ids: string[] = [];
  for (const filter of filters('volume-id', volumeIds)) {
    for await (const page of paginateDescribeVolumes({ client }, { Filters: [filter] })) {
      for (const attachment of page.Volumes?.flatMap((volume) => volume.Attachments ?? []) ?? []) {
        if (attachment.InstanceId) ids.push(attachment.InstanceId);
      }
    }
  }
  return ids;
}

/** Ids of the VMs that these interfaces, or interfaces in these groups, are attached to. */
export async function instancesOfInterfaces(
  client: EC2Client,
  filterName: 'network-interface-id' | 'group-id',
  values: readonly string[],
): Promise<readonly string[]> {
  const ids: string[] = [];
  for (const filter of filters(filterName, values)) {
    for await (const page of paginateDescribeNetworkInterfaces({ client }, { Filters: [filter] })) {
      for (const eni of page.NetworkInterfaces ?? []) {
        if (eni.Attachment?.InstanceId) ids.push(eni.Attachment.InstanceId);
      }
    }
  }
  return ids;
}

/** Those of the volumes that EC2 shows. */
export async function volumesThatExist(
  client: EC2Client,
  volumeIds: readonly string[],
): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  for (const filter of filters('volume-id', volumeIds)) {
    for await (const page of paginateDescribeVolumes({ client }, { Filters: [filter] })) {
      for (const { VolumeId } of page.Volumes ?? []) if (VolumeId) found.add(VolumeId);
    }
  }
  return found;
}

/** How many snapshots EC2 shows of each of the volumes. */
export async function snapshotsOf(
  client: EC2Client,
  volumeIds: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const found = new Map<string, number>();
  for (const filter of filters('volume-id', volumeIds)) {
    for await (const page of paginateDescribeSnapshots(
      { client },
      { OwnerIds: ['self'], Filters: [filter] },
    )) {
      for (const { VolumeId } of page.Snapshots ?? [])
        if (VolumeId) found.set(VolumeId, (found.get(VolumeId) ?? 0) + 1);
    }
  }
  return found;
}

/** The volume that a snapshot is of; undefined when the snapshot is gone, or EC2 does not know its volume. */
export async function volumeOfSnapshot(client: EC2Client, snapshotId: string): Promise<string | undefined> {
  const Filters = [{ Name: 'snapshot-id', Values: [snapshotId] }];
  for await (const page of paginateDescribeSnapshots({ client }, { OwnerIds: ['self'], Filters })) {
    const snapshot = page.Snapshots?.find((each) => each.SnapshotId === snapshotId);
    if (snapshot) return snapshot.VolumeId;
  }
  return undefined;
}

/** Ids of every instance that EC2 shows and that is not terminated. */
export async function listLiveInstanceIds(client: EC2Client): Promise<readonly string[]> {
  const ids: string[] = [];
  const pages = paginateDescribeInstances(
    { client, pageSize: 1000 },
    { Filters: [{ Name: 'instance-state-name', Values: LIVE_STATE_NAMES }] },
  );
  for await (const page of pages) {
    for (const reservation of page.Reservations ?? []) {
      for (const instance of reservation.Instances ?? []) {
        if (instance.InstanceId) ids.push(instance.InstanceId);
      }
    }
  }
  return ids;
}

/** How many VMs of a scope (`vpc/…`, `asg/…`, `tenant/…`) EC2 shows that are not terminated. */
export async function countVms(client: EC2Client, scope: string): Promise<number> {
  const slash = scope.indexOf('/');
  const [kind, name] = [scope.slice(0, slash), scope.slice(slash + 1)];
  const filterName = SCOPE_FILTERS[kind];
  if (!filterName) throw new RangeError(`${scope}: no such scope`);
  let count = 0;
  const pages = paginateDescribeInstances(
    { client, pageSize: 1000 },
    {
      Filters: [
        { Name: filterName, Values: [name] },
        { Name: 'instance-state-name', Values: LIVE_STATE_NAMES },
      ],
    },
  );
  for await (const page of pages) {
    for (const reservation of page.Reservations ?? []) count += reservation.Instances?.length ?? 0;
  }
  return count;
}

const SCOPE_FILTERS: Readonly<Record<string, string>> = {
  vpc: 'vpc-id',
  asg: 'tag:aws:autoscaling:groupName',
  tenant: 'tag:casemate:tenant',
};

const LIVE_STATE_NAMES = ['pending', 'running', 'stopping', 'stopped', 'shutting-down'];

async function describeInstances(
  client: EC2Client,
  instanceIds: readonly string[],
): Promise<readonly { readonly instance: Instance; readonly accountId: string }[]> {
  const found: { instance: Instance; accountId: string }[] = [];
  for (const filter of filters('instance-id', instanceIds)) {
    for await (const page of paginateDescribeInstances({ client }, { Filters: [filter] })) {
      for (const reservation of page.Reservations ?? []) {
        for (const instance of reservation.Instances ?? []) {
          found.push({ instance, accountId: reservation.OwnerId ?? '' });
        }
      }
    }
  }
  return found;
}

async function describeVolumesOf(
  client: EC2Client,
  instanceIds: readonly string[],
): Promise<ReadonlyMap<string, Volume[]>> {
  const byInstance = new Map<string, Volume[]>();
  for (const filter of filters('attachment.instance-id', instanceIds)) {
    for await (const page of paginateDescribeVolumes({ client }, { Filters: [filter] })) {
      for (const volume of page.Volumes ?? []) {
        for (const attachment of volume.Attachments ?? []) {
          if (!attachment.InstanceId) continue;
          const list = byInstance.get(attachment.InstanceId) ?? [];
          list.push(volume);
          byInstance.set(attachment.InstanceId, list);
        }
      }
    }
  }
  return byInstance;
}

/** @throws Ec2ShapeError */
function toObservation(
  instance: Instance,
  accountId: string,
  region: string,
  volumes: readonly Volume[],
): Observation {
  const tags = Object.fromEntries((instance.Tags ?? []).map((tag) => [tag.Key ?? '', tag.Value ?? '']));
  const parsed = observation.safeParse({
    instanceId: instance.InstanceId,
    accountId,
    region,
    state: instance.State?.Name,
    launchTime: instance.LaunchTime?.toISOString(),
    instanceType: instance.InstanceType,
    imageId: instance.ImageId ?? '',
    vpcId: instance.VpcId ?? null,
    autoScalingGroup: tags['aws:autoscaling:groupName'] ?? null,
    tags,
    // CpuOptions without the member is an instance type that cannot have the feature; no CpuOptions at all
    // is EC2 not saying.
    amdSevSnp: instance.CpuOptions ? (instance.CpuOptions.AmdSevSnp ?? 'disabled') : null,
    nestedVirtualization: nestedVirtualization(instance),
    hibernation: hibernation(instance),
    threadsPerCore: instance.CpuOptions?.ThreadsPerCore ?? null,
    interfaces: (instance.NetworkInterfaces ?? [])
      .map((eni) => ({
        id: eni.NetworkInterfaceId,
        vpcId: eni.VpcId ?? '',
        groups: (eni.Groups ?? []).flatMap((group) => group.GroupId ?? []).sort(),
        managedBy: managedBy(eni.InterfaceType, eni.Operator?.Managed),
        publicAddress: eni.Association?.PublicIp !== undefined,
      }))
      .sort(byId),
    volumes: volumes
      .map((volume) => {
        const attachment = volume.Attachments?.find((a) => a.InstanceId === instance.InstanceId);
        return {
          id: volume.VolumeId,
          device: attachment?.Device ?? '',
          root: attachment?.Device !== undefined && attachment.Device === instance.RootDeviceName,
          sizeGiB: volume.Size,
          ...(volume.SnapshotId ? { snapshotId: volume.SnapshotId } : {}),
          multiAttach: volume.MultiAttachEnabled ?? false,
          ...volumeTags(volume),
        };
      })
      .sort(byId),
  });
  if (!parsed.success) {
    throw new Ec2ShapeError(`${instance.InstanceId ?? 'an instance'}: ${z.prettifyError(parsed.error)}`);
  }
  return parsed.data;
}

function nestedVirtualization(instance: Instance): 'enabled' | 'disabled' | null {
  const value = instance.CpuOptions?.NestedVirtualization;
  return value === 'enabled' || value === 'disabled' ? value : null;
}

function managedBy(
  interfaceType: string | undefined,
  managed: boolean | undefined,
): 'customer' | 'requester' {
  return managed || interfaceType === 'branch' ? 'requester' : 'customer';
}

/** The interfaces attached to VMs, by VM, with the groups that EC2 has for them now. */
export async function interfacesOf(
  client: EC2Client,
  instanceIds: readonly string[],
): Promise<ReadonlyMap<string, ObservedInterface[]>> {
  const byInstance = new Map<string, ObservedInterface[]>(instanceIds.map((id) => [id, []]));
  for (const filter of filters('attachment.instance-id', instanceIds)) {
    for await (const page of paginateDescribeNetworkInterfaces({ client }, { Filters: [filter] })) {
      for (const eni of page.NetworkInterfaces ?? []) {
        if (!eni.NetworkInterfaceId || !eni.Attachment?.InstanceId) continue;
        byInstance.get(eni.Attachment.InstanceId)?.push({
          id: eni.NetworkInterfaceId,
          vpcId: eni.VpcId ?? '',
          groups: (eni.Groups ?? []).flatMap((group) => group.GroupId ?? []).sort(),
          managedBy: eni.RequesterManaged ? 'requester' : managedBy(eni.InterfaceType, eni.Operator?.Managed),
          publicAddress: eni.Association?.PublicIp !== undefined,
        });
      }
    }
  }
  for (const list of byInstance.values()) list.sort(byId);
  return byInstance;
}

/** The Elastic IP addresses on VMs, and these, wherever they are. One that was released is absent. */
export async function elasticIps(
  client: EC2Client,
  of: { readonly instanceId: string; readonly allocationIds: readonly string[] },
): Promise<readonly ElasticIp[]> {
  const lookups = [
    { Name: 'instance-id', Values: [of.instanceId] },
    ...filters('allocation-id', of.allocationIds),
  ];
  const found = new Map<string, ElasticIp>();
  for (const filter of lookups) {
    const { Addresses = [] } = await client.send(new DescribeAddressesCommand({ Filters: [filter] }));
    for (const address of Addresses) {
      if (!address.AllocationId) continue;
      const { AssociationId, NetworkInterfaceId, PrivateIpAddress } = address;
      found.set(address.AllocationId, {
        allocationId: address.AllocationId,
        association:
          AssociationId && NetworkInterfaceId
            ? {
                associationId: AssociationId,
                interfaceId: NetworkInterfaceId,
                privateAddress: PrivateIpAddress ?? '',
              }
            : undefined,
      });
    }
  }
  return [...found.values()];
}

/** Takes an Elastic IP address from its interface. That it is not there any more is what was wanted. */
export async function disassociateAddress(client: EC2Client, associationId: string): Promise<void> {
  try {
    await client.send(new DisassociateAddressCommand({ AssociationId: associationId }));
  } catch (error) {
    if (!(error instanceof Error && error.name === 'InvalidAssociationID.NotFound')) throw error;
  }
}

/** Puts an Elastic IP address on an interface, and takes it from no other. */
export async function associateAddress(
  client: EC2Client,
  to: { readonly allocationId: string; readonly interfaceId: string; readonly privateAddress: string },
): Promise<void> {
  await client.send(
    new AssociateAddressCommand({
      AllocationId: to.allocationId,
      NetworkInterfaceId: to.interfaceId,
      ...(to.privateAddress ? { PrivateIpAddress: to.privateAddress } : {}),
      AllowReassociation: false,
    }),
  );
}

/** Of these groups, those that EC2 does not have. */
export async function missingGroups(client: EC2Client, groupIds: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const filter of filters('group-id', groupIds)) {
    for await (const page of paginateDescribeSecurityGroups({ client }, { Filters: [filter] })) {
      for (const group of page.SecurityGroups ?? []) if (group.GroupId) found.add(group.GroupId);
    }
  }
  return [...new Set(groupIds)].filter((id) => !found.has(id));
}

/** Replaces the groups of one interface. */
export async function setInterfaceGroups(
  client: EC2Client,
  interfaceId: string,
  groups: readonly string[],
): Promise<void> {
  await client.send(
    new ModifyNetworkInterfaceAttributeCommand({ NetworkInterfaceId: interfaceId, Groups: [...groups] }),
  );
}

/** As many filters as the values need. */
export function filters(name: string, values: readonly string[]): Filter[] {
  const unique = [...new Set(values)];
  const all: Filter[] = [];
  for (let i = 0; i < unique.length; i += FILTER_VALUES_MAX) {
    all.push({ Name: name, Values: unique.slice(i, i + FILTER_VALUES_MAX) });
  }
  return all;
}

/** EC2 says it of every instance; an answer without it says nothing. */
function hibernation(instance: Instance): 'configured' | 'absent' | null {
  const { Configured } = instance.HibernationOptions ?? {};
  return Configured === undefined ? null : Configured ? 'configured' : 'absent';
}

/** The tags that say something to Casemate; other people's would be a change of the VM with each edit. */
function volumeTags(volume: Volume): { tags?: Record<string, string> } {
  const own = (volume.Tags ?? []).filter((tag) => tag.Key?.startsWith('casemate:'));
  return own.length === 0
    ? {}
    : { tags: Object.fromEntries(own.map((tag) => [tag.Key ?? '', tag.Value ?? ''])) };
}

function byId(a: { id?: string | undefined }, b: { id?: string | undefined }): number {
  return (a.id ?? '') < (b.id ?? '') ? -1 : 1;
}

/** What EC2 answers where there is no such instance, or none with a TPM; it documents no code of its own. */
const NO_TPM = /^(?:Invalid|Unsupported|IncorrectInstanceState|OperationNotPermitted)/;

/**
 * The public endorsement key of an instance's NitroTPM as EC2 itself says it, a TPMT_PUBLIC; undefined when EC2
 * reports no TPM. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetInstanceTpmEkPub.html
 */
export async function endorsementKeyOf(
  client: EC2Client,
  instanceId: string,
  keyType: 'rsa-2048' | 'ecc-sec-p384',
): Promise<Buffer | undefined> {
  try {
    const answer = await client.send(
      new GetInstanceTpmEkPubCommand({ InstanceId: instanceId, KeyType: keyType, KeyFormat: 'tpmt' }),
    );
    return answer.KeyValue ? Buffer.from(answer.KeyValue, 'base64') : undefined;
  } catch (error) {
    if (error instanceof EC2ServiceException && NO_TPM.test(error.name)) return undefined;
    throw error;
  }
}
