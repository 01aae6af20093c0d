import {
  AuthorizeSecurityGroupEgressCommand,
  AuthorizeSecurityGroupIngressCommand,
  CreateSecurityGroupCommand,
  DeleteSecurityGroupCommand,
  type EC2Client,
  type IpPermission,
  paginateDescribeNetworkInterfaces,
  paginateDescribeSecurityGroups,
  RevokeSecurityGroupEgressCommand,
  RevokeSecurityGroupIngressCommand,
  type SecurityGroup,
} from '@aws-sdk/client-ec2';
import { GROUP_PREFIX, type GroupSpec, type ResolvedRule } from '../../lib/domain/profiles.ts';
import { Ec2ShapeError, filters } from './ec2.ts';

const MANAGED_TAG = 'casemate:managed';
const PROFILE_TAG = 'casemate:profile';
/** Only a group that was made with this can be opened to the inside: lib/constructs/isolation-powers.ts. */
const INGRESS_TAG = 'casemate:ingress';

/** The Casemate groups that there are, by VPC. */
export interface OwnGroups {
  /** Undefined where it does not exist. */
  idOf(vpcId: string, name: string): string | undefined;
  isOwn(groupId: string): boolean;
  readonly all: readonly { readonly vpcId: string; readonly name: string; readonly groupId: string }[];
}

/** The groups of these VPCs as they are. */
export async function findGroups(client: EC2Client, vpcIds: readonly string[]): Promise<OwnGroups> {
  return ownGroups([...(await describeOwnGroups(client, vpcIds)).values()]);
}

function ownGroups(found: readonly SecurityGroup[]): OwnGroups {
  const all = found.map(({ VpcId = '', GroupName = '', GroupId = '' }) => ({
    vpcId: VpcId,
    name: GroupName,
    groupId: GroupId,
  }));
  const ids = new Map(all.map((group) => [`${group.vpcId}/${group.name}`, group.groupId]));
  const own = new Set(all.map((group) => group.groupId));
  return {
    all,
    idOf: (vpcId, name) => ids.get(`${vpcId}/${name}`),
    isOwn: (groupId) => own.has(groupId),
  };
}

/** Groups that were made or put right, each with its own outcome. */
export interface EnsuredGroups extends OwnGroups {
  /** @throws what kept it from being made or put right */
  idOf(vpcId: string, name: string): string | undefined;
}

/**
 * Makes groups where they are missing, and puts their rules right where somebody changed them. A new group allows
 * everything out, so its rules are put right before its id is returned.
 */
export async function ensureGroups(
  client: EC2Client,
  wanted: ReadonlyMap<string, readonly GroupSpec[]>,
  onFault: (message: string) => void,
): Promise<EnsuredGroups> {
  const found = await describeOwnGroups(client, [...wanted.keys()]);
  const outcomes = new Map<string, PromiseSettledResult<SecurityGroup>>();
  await Promise.all(
    [...wanted].flatMap(([vpcId, specs]) =>
      specs.map(async (spec) => {
        const key = `${vpcId}/${spec.name}`;
        const [outcome] = await Promise.allSettled([ensure(client, vpcId, spec, found.get(key), onFault)]);
        outcomes.set(key, outcome);
      }),
    ),
  );
  const made = [...outcomes.values()].flatMap((o) => (o.status === 'fulfilled' ? [o.value] : []));
  const all = ownGroups([...found.values(), ...made]);
  return {
    ...all,
    idOf(vpcId, name) {
      const outcome = outcomes.get(`${vpcId}/${name}`);
      if (outcome?.status === 'rejected') throw outcome.reason;
      return outcome?.value.GroupId;
    },
  };
}

async function ensure(
  client: EC2Client,
  vpcId: string,
  spec: GroupSpec,
  found: SecurityGroup | undefined,
  onFault: (message: string) => void,
): Promise<SecurityGroup> {
  const group = found ?? (await createGroup(client, vpcId, spec));
  if (!group.GroupId) throw new Ec2ShapeError(`${vpcId}: a security group has no id`);
  await healRules(client, group, spec, onFault);
  return group;
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
        // The name is unique in a VPC and cannot be changed; a tag can be put on any group by anybody.
        if (group.GroupName?.startsWith(GROUP_PREFIX)) groups.set(`${group.VpcId}/${group.GroupName}`, group);
      }
    }
  }
  return groups;
}

async function createGroup(client: EC2Client, vpcId: string, spec: GroupSpec): Promise<SecurityGroup> {
  try {
    await client.send(
      new CreateSecurityGroupCommand({
        GroupName: spec.name,
        Description: `Casemate: ${spec.profile}. Made and repaired by Casemate; changes are undone.`,
        VpcId: vpcId,
        TagSpecifications: [
          {
            ResourceType: 'security-group',
            Tags: [
              { Key: MANAGED_TAG, Value: 'true' },
              { Key: PROFILE_TAG, Value: spec.profile },
              ...(spec.ingress.length > 0 ? [{ Key: INGRESS_TAG, Value: 'true' }] : []),
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
    const group = (await describeOwnGroups(client, [vpcId])).get(`${vpcId}/${spec.name}`);
    if (group) return group;
  }
  throw new Ec2ShapeError(
    `${vpcId}: a group ${spec.name} is there and not ours (no tag ${MANAGED_TAG}=true): rename or tag it`,
  );
}

/** As EC2 takes a rule. */
export function permission(rule: ResolvedRule, self: string): IpPermission {
  const protocol =
    rule.protocol === 'all'
      ? { IpProtocol: '-1' }
      : rule.ports
        ? { IpProtocol: rule.protocol, FromPort: rule.ports[0], ToPort: rule.ports[1] }
        : // Every type and code.
          { IpProtocol: rule.protocol, FromPort: -1, ToPort: -1 };
  const { peer } = rule;
  if (peer === 'self') return { ...protocol, UserIdGroupPairs: [{ GroupId: self }] };
  if ('cidr' in peer) return { ...protocol, IpRanges: [{ CidrIp: peer.cidr }] };
  if ('cidr6' in peer) return { ...protocol, Ipv6Ranges: [{ CidrIpv6: peer.cidr6 }] };
  if ('prefixList' in peer) return { ...protocol, PrefixListIds: [{ PrefixListId: peer.prefixList }] };
  return { ...protocol, UserIdGroupPairs: [{ GroupId: peer.securityGroup }] };
}

/** What has to change for a group to have the rules of its spec. */
function ruleChanges(group: SecurityGroup, spec: GroupSpec) {
  const compare = (is: readonly IpPermission[] | undefined, should: readonly ResolvedRule[]) => {
    const there = singleRules(is ?? []);
    const wanted = singleRules(should.map((rule) => permission(rule, group.GroupId ?? '')));
    return {
      excess: [...there].filter(([key]) => !wanted.has(key)).map(([, rule]) => rule),
      missing: [...wanted].filter(([key]) => !there.has(key)).map(([, rule]) => rule),
    };
  };
  return {
    ingress: compare(group.IpPermissions, spec.ingress),
    egress: compare(group.IpPermissionsEgress, spec.egress),
  };
}

/** A call that would be made, as AWS names it. */
export interface PlannedCall {
  readonly call: string;
  readonly parameters: Readonly<Record<string, unknown>>;
}

/** EC2 gives it to each new group. */
const LETS_EVERYTHING_OUT: IpPermission = { IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] };

/** The calls that `ensureGroups` would make. Where a group does not exist yet, its name stands for its id. */
export async function planGroups(
  client: EC2Client,
  wanted: ReadonlyMap<string, readonly GroupSpec[]>,
): Promise<readonly PlannedCall[]> {
  const found = await describeOwnGroups(client, [...wanted.keys()]);
  return [...wanted].flatMap(([VpcId, specs]) =>
    specs.flatMap((spec) => {
      const there = found.get(`${VpcId}/${spec.name}`);
      const made = { GroupId: spec.name, IpPermissionsEgress: [LETS_EVERYTHING_OUT] };
      const { GroupId = spec.name } = there ?? made;
      const { ingress, egress } = ruleChanges(there ?? made, spec);
      const calls: PlannedCall[] = there
        ? []
        : [{ call: 'ec2:CreateSecurityGroup', parameters: { GroupName: spec.name, VpcId } }];
      const change = (call: string, rules: readonly IpPermission[]) => {
        if (rules.length > 0)
          calls.push({ call: `ec2:${call}`, parameters: { GroupId, IpPermissions: rules } });
      };
      change('RevokeSecurityGroupIngress', ingress.excess);
      change('RevokeSecurityGroupEgress', egress.excess);
      for (const rule of ingress.missing) change('AuthorizeSecurityGroupIngress', [rule]);
      for (const rule of egress.missing) change('AuthorizeSecurityGroupEgress', [rule]);
      return calls;
    }),
  );
}

const HEAL_ATTEMPTS = 3;

async function healRules(
  client: EC2Client,
  group: SecurityGroup,
  spec: GroupSpec,
  onFault: (message: string) => void,
  attempt = 1,
): Promise<void> {
  const GroupId = group.GroupId ?? '';
  const { ingress, egress } = ruleChanges(group, spec);
  try {
    // Close before opening.
    if (ingress.excess.length > 0) {
      await client.send(new RevokeSecurityGroupIngressCommand({ GroupId, IpPermissions: ingress.excess }));
    }
    if (egress.excess.length > 0) {
      await client.send(new RevokeSecurityGroupEgressCommand({ GroupId, IpPermissions: egress.excess }));
    }
    // One rule a call: a peer that does not exist in this VPC must not keep the others closed.
    const opened = await Promise.allSettled([
      ...ingress.missing.map((rule) =>
        client.send(new AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions: [rule] })),
      ),
      ...egress.missing.map((rule) =>
        client.send(new AuthorizeSecurityGroupEgressCommand({ GroupId, IpPermissions: [rule] })),
      ),
    ]);
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
    await healRules(client, again, spec, onFault, attempt + 1);
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

/**
 * Deletes those of these groups that no interface carries. EC2 itself refuses to delete one that is in use, so a
 * worker that puts one on an interface at this moment is not harmed.
 *
 * @returns the ids of what was deleted
 */
export async function removeUnused(client: EC2Client, groupIds: readonly string[]): Promise<string[]> {
  const used = new Set<string>();
  for (const filter of filters('group-id', groupIds)) {
    for await (const page of paginateDescribeNetworkInterfaces({ client }, { Filters: [filter] })) {
      for (const eni of page.NetworkInterfaces ?? []) {
        for (const { GroupId } of eni.Groups ?? []) if (GroupId) used.add(GroupId);
      }
    }
  }
  const removed: string[] = [];
  for (const GroupId of groupIds.filter((id) => !used.has(id))) {
    try {
      await client.send(new DeleteSecurityGroupCommand({ GroupId }));
      removed.push(GroupId);
    } catch (error) {
      const passed =
        error instanceof Error &&
        (error.name === 'DependencyViolation' || error.name === 'InvalidGroup.NotFound');
      if (!passed) throw error;
    }
  }
  return removed;
}
