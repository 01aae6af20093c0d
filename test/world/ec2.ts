import {
  AssociateAddressCommand,
  AuthorizeSecurityGroupEgressCommand,
  AuthorizeSecurityGroupIngressCommand,
  CreateSecurityGroupCommand,
  DeleteSecurityGroupCommand,
  DescribeAddressesCommand,
  DescribeInstancesCommand,
  DescribeNetworkInterfacesCommand,
  DescribeSecurityGroupsCommand,
  DescribeSnapshotsCommand,
  DescribeVolumesCommand,
  DisassociateAddressCommand,
  EC2Client,
  EC2ServiceException,
  type Filter,
  GetInstanceTpmEkPubCommand,
  type IpPermission,
  ModifyNetworkInterfaceAttributeCommand,
  RevokeSecurityGroupEgressCommand,
  RevokeSecurityGroupIngressCommand,
} from '@aws-sdk/client-ec2';
import type { Effects } from './effects.ts';

export interface WorldInterface {
  readonly id: string;
  groups: string[];
  /** The VM's, unless told. */
  readonly vpcId?: string;
  readonly requesterManaged?: boolean;
  /** One that EC2 gave it by itself. */
  readonly publicAddress?: boolean;
}

export interface WorldVm {
  readonly id: string;
  state: string;
  tags: Record<string, string>;
  launchTime: Date;
  /** `null` is EC2 not saying. */
  hibernation?: boolean | null;
  readonly vpcId?: string;
  readonly amdSevSnp: 'enabled' | 'disabled' | undefined;
  /** Its NitroTPM's endorsement keys by type, TPMT_PUBLIC. */
  readonly endorsementKeys?: Readonly<Record<string, Uint8Array>>;
  interfaces: WorldInterface[];
  volumes: {
    readonly id: string;
    readonly device: string;
    readonly snapshotId?: string;
    readonly multiAttach?: boolean;
    readonly tags?: Record<string, string>;
  }[];
}

export interface WorldGroup {
  readonly GroupId: string;
  readonly GroupName: string;
  readonly VpcId: string;
  readonly Tags: { Key?: string | undefined; Value?: string | undefined }[];
  IpPermissions: IpPermission[];
  IpPermissionsEgress: IpPermission[];
}

/** What EC2 shows. */
export interface Ec2State {
  readonly vms: ReadonlyMap<string, WorldVm>;
  readonly groups: ReadonlyMap<string, WorldGroup>;
}

export const ACCOUNT = '123456789012';
export const REGION = 'eu-west-1';
export const DEFAULT_VPC = 'vpc-0a1b2c3d4e5f60718';

/** EC2 at the edge of the client: a few VMs, their volumes, interfaces and groups. */
export function fakeEc2(effects: Effects) {
  const vms = new Map<string, WorldVm>();
  /** The volume that each snapshot is of. */
  const snapshots = new Map<string, string>();
  const groups = new Map<string, WorldGroup>();
  /** Groups of the customer that were deleted. Every other group that an interface had is there. */
  const deletedGroups = new Set<string>();
  /** Elastic IP addresses, and the interface that each is on. */
  const addresses = new Map<string, { readonly allocationId: string; interfaceId: string | undefined }>();
  const calls: string[] = [];
  const client = Object.create(EC2Client.prototype) as EC2Client; // it sends nothing anywhere
  let groupCount = 0;

  const matches = (vm: WorldVm, filters: readonly Filter[] | undefined): boolean =>
    (filters ?? []).every(({ Name, Values = [] }) => {
      if (Values.length > 200) throw new Error('a filter takes at most 200 values');
      switch (Name) {
        case 'instance-id':
        case 'attachment.instance-id':
          return Values.includes(vm.id);
        case 'instance-state-name':
          return Values.includes(vm.state);
        case 'vpc-id':
          return Values.includes(vm.vpcId ?? DEFAULT_VPC);
        case 'tag:aws:autoscaling:groupName':
        case 'tag:casemate:tenant':
          return Values.includes(vm.tags[Name.slice('tag:'.length)] ?? '');
        case 'volume-id':
          return vm.volumes.some((v) => Values.includes(v.id));
        case 'network-interface-id':
          return vm.interfaces.some((i) => Values.includes(i.id));
        case 'group-id':
          return vm.interfaces.some((i) => i.groups.some((g) => Values.includes(g)));
        default:
          throw new Error(`EC2 here does not know the filter ${Name}`);
      }
    });

  const isPublic = (eni: WorldInterface) =>
    eni.publicAddress || [...addresses.values()].some(({ interfaceId }) => interfaceId === eni.id);
  const findInterface = (id: string | undefined) =>
    [...vms.values()].flatMap((vm) => vm.interfaces).find((eni) => eni.id === id);

  const send = async (command: unknown, shown: Ec2State = { vms, groups }): Promise<unknown> => {
    const name = (command as object).constructor.name.replace(/Command$/, '');
    calls.push(name);
    if (command instanceof DescribeInstancesCommand) {
      await effects.read();
      const found = [...shown.vms.values()].filter((vm) => matches(vm, command.input.Filters));
      return { Reservations: found.map((vm) => ({ OwnerId: ACCOUNT, Instances: [describe(vm, isPublic)] })) };
    }
    if (command instanceof DescribeVolumesCommand) {
      await effects.read();
      const found = [...shown.vms.values()].filter((vm) => matches(vm, command.input.Filters));
      return {
        Volumes: found.flatMap((vm) =>
          vm.volumes.map((v) => ({
            VolumeId: v.id,
            Size: 8,
            SnapshotId: v.snapshotId ?? '',
            MultiAttachEnabled: v.multiAttach ?? false,
            Tags: Object.entries(v.tags ?? {}).map(([Key, Value]) => ({ Key, Value })),
            Attachments: [{ InstanceId: vm.id, Device: v.device }],
          })),
        ),
      };
    }
    if (command instanceof DescribeSnapshotsCommand) {
      await effects.read();
      const asked = new Map(command.input.Filters?.map(({ Name, Values = [] }) => [Name, new Set(Values)]));
      const found = [...snapshots].filter(
        ([id, volume]) =>
          (asked.get('snapshot-id')?.has(id) ?? true) && (asked.get('volume-id')?.has(volume) ?? true),
      );
      return { Snapshots: found.map(([SnapshotId, VolumeId]) => ({ SnapshotId, VolumeId })) };
    }
    if (command instanceof DescribeNetworkInterfacesCommand) {
      await effects.read();
      const found = [...shown.vms.values()].filter((vm) => matches(vm, command.input.Filters));
      return {
        NetworkInterfaces: found.flatMap((vm) =>
          vm.interfaces.map((eni) => ({
            NetworkInterfaceId: eni.id,
            VpcId: eni.vpcId ?? vm.vpcId ?? DEFAULT_VPC,
            InterfaceType: 'interface',
            RequesterManaged: eni.requesterManaged ?? false,
            Groups: eni.groups.map((GroupId) => ({ GroupId })),
            Attachment: { InstanceId: vm.id },
            ...(isPublic(eni) ? { Association: { PublicIp: '203.0.113.7' } } : {}),
          })),
        ),
      };
    }
    if (command instanceof DescribeSecurityGroupsCommand) {
      await effects.read();
      const byId = command.input.Filters?.find(({ Name }) => Name === 'group-id')?.Values;
      if (byId) {
        const there = byId.filter((id) => groups.has(id) || !deletedGroups.has(id));
        return { SecurityGroups: there.map((GroupId) => ({ GroupId })) };
      }
      const vpcs = command.input.Filters?.find(({ Name }) => Name === 'vpc-id')?.Values ?? [];
      const found = [...shown.groups.values()].filter((group) => vpcs.includes(group.VpcId));
      return { SecurityGroups: found.map((group) => structuredClone(group)) };
    }
    if (command instanceof CreateSecurityGroupCommand) {
      const { GroupName = '', VpcId = '', TagSpecifications } = command.input;
      return effects.write(`create ${GroupName}`, () => {
        if ([...groups.values()].some((group) => group.GroupName === GroupName && group.VpcId === VpcId)) {
          throw named('InvalidGroup.Duplicate');
        }
        const GroupId = `sg-${String(++groupCount).padStart(8, '0')}`;
        groups.set(GroupId, {
          GroupId,
          GroupName,
          VpcId,
          Tags: TagSpecifications?.[0]?.Tags ?? [],
          IpPermissions: [],
          IpPermissionsEgress: [{ IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] }],
        });
        return { GroupId };
      });
    }
    if (command instanceof RevokeSecurityGroupEgressCommand) {
      return effects.write('revoke egress', () => {
        const group = groups.get(command.input.GroupId ?? '');
        const gone = new Set(command.input.IpPermissions?.map((p) => JSON.stringify(p)));
        if (!group) return {};
        const left = group.IpPermissionsEgress.filter((p) => !gone.has(JSON.stringify(p)));
        // In a VPC that is not the default one: all of them or none.
        if (left.length > group.IpPermissionsEgress.length - gone.size)
          throw named('InvalidPermission.NotFound');
        group.IpPermissionsEgress = left;
        return {};
      });
    }
    if (command instanceof RevokeSecurityGroupIngressCommand) {
      return effects.write('revoke ingress', () => {
        const group = groups.get(command.input.GroupId ?? '');
        const gone = new Set(command.input.IpPermissions?.map((p) => JSON.stringify(p)));
        if (group) group.IpPermissions = group.IpPermissions.filter((p) => !gone.has(JSON.stringify(p)));
        return {};
      });
    }
    if (command instanceof AuthorizeSecurityGroupIngressCommand) {
      return effects.write('authorize ingress', () => {
        groups.get(command.input.GroupId ?? '')?.IpPermissions.push(...(command.input.IpPermissions ?? []));
        return {};
      });
    }
    if (command instanceof DeleteSecurityGroupCommand) {
      const { GroupId = '' } = command.input;
      return effects.write(`delete ${groups.get(GroupId)?.GroupName}`, () => {
        const used = [...vms.values()].some((vm) =>
          vm.interfaces.some((eni) => eni.groups.includes(GroupId)),
        );
        if (used) throw named('DependencyViolation');
        groups.delete(GroupId);
        return {};
      });
    }
    if (command instanceof DescribeAddressesCommand) {
      await effects.read();
      const [filter] = command.input.Filters ?? [];
      const found = [...addresses.values()].filter((address) => {
        if (filter?.Name === 'allocation-id') return filter.Values?.includes(address.allocationId);
        const vm = [...vms.values()].find((v) => v.interfaces.some((eni) => eni.id === address.interfaceId));
        return vm !== undefined && filter?.Values?.includes(vm.id);
      });
      return {
        Addresses: found.map(({ allocationId, interfaceId }) => ({
          AllocationId: allocationId,
          ...(interfaceId
            ? {
                AssociationId: `eipassoc-${allocationId}`,
                NetworkInterfaceId: interfaceId,
                PrivateIpAddress: '10.0.0.7',
              }
            : {}),
        })),
      };
    }
    if (command instanceof DisassociateAddressCommand) {
      return effects.write('disassociate address', () => {
        const id = command.input.AssociationId?.replace('eipassoc-', '') ?? '';
        const address = addresses.get(id);
        if (!address?.interfaceId) throw named('InvalidAssociationID.NotFound');
        address.interfaceId = undefined;
        return {};
      });
    }
    if (command instanceof AssociateAddressCommand) {
      return effects.write('associate address', () => {
        const address = addresses.get(command.input.AllocationId ?? '');
        if (!address) throw named('InvalidAllocationID.NotFound');
        const there = address.interfaceId;
        if (there && there !== command.input.NetworkInterfaceId) throw named('Resource.AlreadyAssociated');
        address.interfaceId = command.input.NetworkInterfaceId;
        return {};
      });
    }
    if (command instanceof AuthorizeSecurityGroupEgressCommand) {
      return effects.write('authorize egress', () => {
        const group = groups.get(command.input.GroupId ?? '');
        const there = new Set(group?.IpPermissionsEgress.map((p) => JSON.stringify(p)));
        const added = command.input.IpPermissions ?? [];
        if (added.some((p) => there.has(JSON.stringify(p)))) throw named('InvalidPermission.Duplicate');
        group?.IpPermissionsEgress.push(...added);
        return {};
      });
    }
    if (command instanceof ModifyNetworkInterfaceAttributeCommand) {
      const { NetworkInterfaceId, Groups = [] } = command.input;
      return effects.write(`groups of ${NetworkInterfaceId}`, () => {
        const eni = findInterface(NetworkInterfaceId);
        if (!eni) throw named('InvalidNetworkInterfaceID.NotFound');
        if (Groups.some((id) => deletedGroups.has(id))) throw named('InvalidGroup.NotFound');
        eni.groups = [...Groups];
        return {};
      });
    }
    if (command instanceof GetInstanceTpmEkPubCommand) {
      await effects.read();
      const { InstanceId = '', KeyType = '', KeyFormat } = command.input;
      if (KeyFormat !== 'tpmt') throw new Error('EC2 here knows the format tpmt alone');
      const key = vms.get(InstanceId)?.endorsementKeys?.[KeyType];
      if (!key) {
        throw new EC2ServiceException({
          name: 'UnsupportedOperation',
          message: 'no TPM',
          $fault: 'client',
          $metadata: {},
        });
      }
      return { InstanceId, KeyType, KeyFormat, KeyValue: Buffer.from(key).toString('base64') };
    }
    throw new Error(`EC2 here does not know ${name}`);
  };
  client.send = send as typeof client.send;

  return { client, vms, snapshots, groups, deletedGroups, addresses, calls };
}

function named(name: string): Error {
  return Object.assign(new Error(name), { name });
}

function describe(vm: WorldVm, isPublic: (eni: WorldInterface) => unknown) {
  return {
    InstanceId: vm.id,
    State: { Name: vm.state },
    LaunchTime: vm.launchTime,
    InstanceType: 'm6a.large',
    ImageId: 'ami-0123456789abcdef0',
    VpcId: vm.vpcId ?? DEFAULT_VPC,
    RootDeviceName: '/dev/xvda',
    Tags: Object.entries(vm.tags).map(([Key, Value]) => ({ Key, Value })),
    HibernationOptions: vm.hibernation === null ? {} : { Configured: vm.hibernation ?? false },
    CpuOptions: vm.amdSevSnp === undefined ? {} : { AmdSevSnp: vm.amdSevSnp },
    NetworkInterfaces: vm.interfaces.map((eni) => ({
      NetworkInterfaceId: eni.id,
      VpcId: eni.vpcId ?? vm.vpcId ?? DEFAULT_VPC,
      InterfaceType: 'interface',
      Groups: eni.groups.map((GroupId) => ({ GroupId })),
      ...(isPublic(eni) ? { Association: { PublicIp: '203.0.113.7' } } : {}),
    })),
  };
}
