import {
  AuthorizeSecurityGroupEgressCommand,
  CreateSecurityGroupCommand,
  type EC2Client,
  type Filter,
  type Instance,
  type IpPermission,
  ModifyNetworkInterfaceAttributeCommand,
  paginateDescribeInstances,
  paginateDescribeNetworkInterfaces,
  paginateDescribeSecurityGroups,
  paginateDescribeVolumes,
  RevokeSecurityGroupEgressCommand,
  RevokeSecurityGroupIngressCommand,
  type SecurityGroup,
  type Volume,
} from '@aws-sdk/client-ec2';
import * as z from 'zod';
import type { CasemateGroups } from '../../lib/domain/isolation.ts';
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

/** Ids of every instance that EC2 shows and that is not terminated. */
export async function listLiveInstanceIds(client: EC2Client): Promise<readonly string[]> {
  const ids: string[] = [];
  const states = ['pending', 'running', 'stopping', 'stopped', 'shutting-down'];
  const pages = paginateDescribeInstances(
    { client, pageSize: 1000 },
    { Filters: [{ Name: 'instance-state-name', Values: states }] },
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

/** What VMs in probation may reach: the interface endpoints that an agent needs, or HTTPS anywhere. */
export const probationEgress = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('endpoints'),
    securityGroupIds: z.array(z.string().startsWith('sg-')),
    prefixListIds: z.array(z.string().startsWith('pl-')),
  }),
  z.strictObject({ kind: z.literal('https-anywhere') }),
]);
export type ProbationEgress = z.infer<typeof probationEgress>;

const MANAGED_TAG = 'casemate:managed';
const PROFILE_TAG = 'casemate:profile';
const FENCES = ['probation', 'quarantine'] as const;

/** Casemate groups by VPC. One where they could not be made throws when asked for, and so fails alone. */
export interface GroupsByVpc {
  get(vpcId: string): CasemateGroups | undefined;
}

/** The Casemate groups of these VPCs by id, and by the name that they will have where they do not exist. */
export async function findGroups(
  client: EC2Client,
  vpcIds: readonly string[],
): Promise<ReadonlyMap<string, CasemateGroups>> {
  const found = await describeOwnGroups(client, vpcIds);
  const idOf = (vpcId: string, profile: (typeof FENCES)[number]) =>
    found.get(`${vpcId}/${profile}`)?.GroupId ?? groupName(profile);
  return new Map(
    vpcIds.map((id) => [id, { probation: idOf(id, 'probation'), quarantine: idOf(id, 'quarantine') }]),
  );
}

/**
 * Makes the two groups in each VPC where they are missing, and puts their rules right where somebody
 * changed them. A new group allows everything out, so its rules are put right before its id is returned.
 */
export async function ensureGroups(
  client: EC2Client,
  vpcIds: readonly string[],
  egress: ProbationEgress,
  onFault: (message: string) => void,
): Promise<GroupsByVpc> {
  const found = await describeOwnGroups(client, vpcIds);
  const outcomes = await Promise.allSettled(
    vpcIds.map(async (vpcId): Promise<CasemateGroups> => {
      const [probation, quarantine] = await Promise.all(
        FENCES.map(async (profile) => {
          const group = found.get(`${vpcId}/${profile}`) ?? (await createGroup(client, vpcId, profile));
          await healRules(client, group, profile === 'probation' ? egressRules(egress) : [], onFault);
          return group.GroupId ?? '';
        }),
      );
      if (!probation || !quarantine) throw new Ec2ShapeError(`${vpcId}: a security group has no id`);
      return { probation, quarantine };
    }),
  );
  const ensured = new Map(vpcIds.map((vpcId, i) => [vpcId, outcomes[i]]));
  return {
    get(vpcId) {
      const outcome = ensured.get(vpcId);
      if (outcome?.status === 'rejected') throw outcome.reason;
      return outcome?.value;
    },
  };
}

async function describeOwnGroups(
  client: EC2Client,
  vpcIds: readonly string[],
): Promise<ReadonlyMap<string, SecurityGroup>> {
  const groups = new Map<string, SecurityGroup>();
  for (const filter of filters('vpc-id', vpcIds)) {
    const pages = paginateDescribeSecurityGroups(
      { client },
      { Filters: [filter, { Name: `tag:${MANAGED_TAG}`, Values: ['true'] }] },
    );
    for await (const page of pages) {
      for (const group of page.SecurityGroups ?? []) {
        const profile = group.Tags?.find((tag) => tag.Key === PROFILE_TAG)?.Value;
        // The name is unique in a VPC and cannot be changed; a tag can be put on any group by anybody.
        if (profile && group.GroupName === groupName(profile)) groups.set(`${group.VpcId}/${profile}`, group);
      }
    }
  }
  return groups;
}

function groupName(profile: string): string {
  return `casemate-${profile}`;
}

async function createGroup(
  client: EC2Client,
  vpcId: string,
  profile: (typeof FENCES)[number],
): Promise<SecurityGroup> {
  try {
    await client.send(
      new CreateSecurityGroupCommand({
        GroupName: groupName(profile),
        Description: `Casemate: ${profile}. Made and repaired by Casemate; changes are undone.`,
        VpcId: vpcId,
        TagSpecifications: [
          {
            ResourceType: 'security-group',
            Tags: [
              { Key: MANAGED_TAG, Value: 'true' },
              { Key: PROFILE_TAG, Value: profile },
            ],
          },
        ],
      }),
    );
  } catch (error) {
    // Another worker made it first: the one that is there serves both.
    if (!(error instanceof Error && error.name === 'InvalidGroup.Duplicate')) throw error;
  }
  // EC2 shows a new group a moment later.
  for (const waitMs of [0, 200, 500, 1000, 2000]) {
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    const group = (await describeOwnGroups(client, [vpcId])).get(`${vpcId}/${profile}`);
    if (group) return group;
  }
  throw new Ec2ShapeError(
    `${vpcId}: a group ${groupName(profile)} is there and not ours (no tag ${MANAGED_TAG}=true): rename or tag it`,
  );
}

function egressRules(egress: ProbationEgress): IpPermission[] {
  const https = { IpProtocol: 'tcp', FromPort: 443, ToPort: 443 };
  switch (egress.kind) {
    case 'https-anywhere':
      return [
        { ...https, IpRanges: [{ CidrIp: '0.0.0.0/0' }] },
        { ...https, Ipv6Ranges: [{ CidrIpv6: '::/0' }] },
      ];
    case 'endpoints':
      return [
        ...egress.securityGroupIds.map((GroupId) => ({ ...https, UserIdGroupPairs: [{ GroupId }] })),
        ...egress.prefixListIds.map((PrefixListId) => ({ ...https, PrefixListIds: [{ PrefixListId }] })),
      ];
  }
}

const HEAL_ATTEMPTS = 3;

async function healRules(
  client: EC2Client,
  group: SecurityGroup,
  wanted: readonly IpPermission[],
  onFault: (message: string) => void,
  attempt = 1,
): Promise<void> {
  const GroupId = group.GroupId ?? '';
  const ingress = singleRules(group.IpPermissions ?? []);
  const egress = singleRules(group.IpPermissionsEgress ?? []);
  const wantedRules = singleRules(wanted);
  const excess = [...egress].filter(([key]) => !wantedRules.has(key)).map(([, rule]) => rule);
  const missing = [...wantedRules].filter(([key]) => !egress.has(key)).map(([, rule]) => rule);
  try {
    // Close before opening.
    if (ingress.size > 0) {
      await client.send(
        new RevokeSecurityGroupIngressCommand({ GroupId, IpPermissions: [...ingress.values()] }),
      );
    }
    if (excess.length > 0) {
      await client.send(new RevokeSecurityGroupEgressCommand({ GroupId, IpPermissions: excess }));
    }
    // One rule a call: a peer that does not exist in this VPC must not keep the others closed.
    const opened = await Promise.allSettled(
      missing.map((rule) =>
        client.send(new AuthorizeSecurityGroupEgressCommand({ GroupId, IpPermissions: [rule] })),
      ),
    );
    const faults = opened.flatMap((outcome) =>
      outcome.status === 'rejected' ? [outcome.reason as Error] : [],
    );
    const duplicate = faults.find((fault) => fault.name === 'InvalidPermission.Duplicate');
    if (duplicate) throw duplicate;
    // Too closed is safe, and quarantine must not wait for an opening rule: said, not thrown.
    for (const fault of faults) onFault(`${group.VpcId}: ${group.GroupName}: ${fault.message}`);
  } catch (error) {
    // Another worker puts the same group right: what it left to do is seen by looking again.
    const overtaken =
      error instanceof Error &&
      (error.name === 'InvalidPermission.NotFound' || error.name === 'InvalidPermission.Duplicate');
    if (!overtaken || attempt === HEAL_ATTEMPTS) throw error;
    const own = await describeOwnGroups(client, [group.VpcId ?? '']);
    const again = [...own.values()].find((other) => other.GroupId === GroupId);
    if (!again) throw error;
    await healRules(client, again, wanted, onFault, attempt + 1);
  }
}

/** One entry a rule: EC2 folds rules of the same protocol and ports into one permission. */
function singleRules(permissions: readonly IpPermission[]): Map<string, IpPermission> {
  const rules = new Map<string, IpPermission>();
  for (const { IpProtocol, FromPort, ToPort, ...peers } of permissions) {
    const ports = IpProtocol === '-1' ? { IpProtocol } : { IpProtocol, FromPort, ToPort };
    const add = (peer: string, rule: Partial<IpPermission>) => {
      rules.set(`${IpProtocol} ${ports.FromPort ?? ''}-${ports.ToPort ?? ''} ${peer}`, { ...ports, ...rule });
    };
    for (const { CidrIp } of peers.IpRanges ?? []) add(`${CidrIp}`, { IpRanges: [{ CidrIp }] });
    for (const { CidrIpv6 } of peers.Ipv6Ranges ?? []) add(`${CidrIpv6}`, { Ipv6Ranges: [{ CidrIpv6 }] });
    for (const { GroupId } of peers.UserIdGroupPairs ?? [])
      add(`${GroupId}`, { UserIdGroupPairs: [{ GroupId }] });
    for (const { PrefixListId } of peers.PrefixListIds ?? []) {
      add(`${PrefixListId}`, { PrefixListIds: [{ PrefixListId }] });
    }
  }
  return rules;
}

function filters(name: string, values: readonly string[]): Filter[] {
  const unique = [...new Set(values)];
  const all: Filter[] = [];
  for (let i = 0; i < unique.length; i += FILTER_VALUES_MAX) {
    all.push({ Name: name, Values: unique.slice(i, i + FILTER_VALUES_MAX) });
  }
  return all;
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
