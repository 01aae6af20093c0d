import { createHash } from 'node:crypto';
import type { Ec2State, WorldInterface, WorldVm } from '../world/ec2.ts';
import { DEFAULT_VPC } from '../world/ec2.ts';

/** What ought to be, said once more and apart from the code under test: a mistake there must not excuse itself here. */

export type Fence = 'probation' | 'quarantine';
export type Mode = 'observe' | 'enforce';
export type Row = { readonly [attribute: string]: unknown };
export type Rows = ReadonlyMap<string, Row>;

/** How a deployment is set up, beyond its mode. */
export interface Setup {
  readonly cut: boolean;
  readonly addresses: boolean;
  /** VMs are of an Auto Scaling group, which is told before they are contained, and holds launches. */
  readonly group: boolean;
  /** So many may policy contain within an hour; null is any number. */
  readonly guard: number | null;
  /** Policy never contains the second VM. */
  readonly protects: boolean;
  /** Of the fleet, that is enforced. */
  readonly share: number;
  /** VMs of the tenant acme share a micro-segment once they are proven. */
  readonly segments: boolean;
}

export const PLAIN: Setup = {
  cut: false,
  addresses: false,
  group: false,
  guard: null,
  protects: false,
  share: 1,
  segments: false,
};

export const GUARD_SECONDS = 3600;
export const GUARD_SHARE = 0.25;
export const REPLACED_PER_HOUR = 1;
export const PROTECTED = 'i-00000002';
export const SEGMENTED_TENANT = 'acme';
export const AUTO_SCALING_GROUP = 'web';

const LIVE = ['pending', 'running', 'stopping', 'stopped'];

interface Record {
  readonly id: string;
  readonly originals: readonly string[] | null;
  readonly groups: readonly string[];
}

/** What the isolation item of a VM says of its interfaces. */
export const records = (row: Row | undefined): readonly Record[] =>
  (row?.['interfaces'] ?? []) as readonly Record[];

const taken = (rows: Rows, id: string) =>
  records(rows.get(`isolation#${id}`)).some((record) => record.originals !== null);

/** The profile that a VM belongs in by what the table says of it, whether it is fenced at all or not. */
export function profileOf(rows: Rows, id: string, now: Date): Fence | 'workload' {
  const posture = rows.get(`posture#${id}`);
  if (rows.get(`operator#${id}`)?.['quarantine'] !== undefined) return 'quarantine';
  if (rows.get(`vm#${id}`)?.['managed'] !== true) return 'workload';
  switch (posture?.['verdict']) {
    case 'noncompliant':
      return 'quarantine';
    case 'compliant': {
      const until = posture['validUntil'] as string | null;
      return until !== null && new Date(until) >= now ? 'workload' : 'probation';
    }
    default:
      return 'probation';
  }
}

/** Whether Casemate has anything to do with the VM's interfaces. */
export function fenced(rows: Rows, id: string): boolean {
  const vm = rows.get(`vm#${id}`);
  const state = (vm?.['observation'] as { state: string } | undefined)?.state ?? '';
  if (vm?.['gone'] !== false || !LIVE.includes(state)) return false;
  return (
    vm['managed'] === true || rows.get(`operator#${id}`)?.['quarantine'] !== undefined || taken(rows, id)
  );
}

/** Whether policy alone may not contain a VM. */
export const isProtected = (setup: Setup, rows: Rows, id: string): boolean =>
  setup.protects && id === PROTECTED && !isHeld(rows, id);

/** Whether an operator wants it in quarantine. */
export const isHeld = (rows: Rows, id: string): boolean =>
  rows.get(`operator#${id}`)?.['quarantine'] !== undefined;

/** Whether only the rest of the fleet is enforced. */
export const isBeyondShare = (setup: Setup, id: string): boolean =>
  createHash('sha256').update(id).digest().readUInt32BE(0) / 2 ** 32 >= setup.share;

/** The modes that are right for a VM: what was given back may stay marked so until the next sweep. */
export function modesOf(setup: Setup, mode: Mode, rows: Rows, id: string): readonly Mode[] {
  if (mode === 'observe') return ['observe'];
  if (!isBeyondShare(setup, id) || isHeld(rows, id) || taken(rows, id)) return ['enforce'];
  return rows.get(`isolation#${id}`)?.['profile'] === 'workload' ? ['observe', 'enforce'] : ['observe'];
}

/** The groups of a stage by their names, without what all begin with; undefined where it is the VM's own. */
export function fenceIn(setup: Setup, row: Row | undefined): readonly string[] | undefined {
  const stage = String(row?.['profile']);
  if (stage !== 'workload') return [stage];
  if (!setup.segments || row?.['tenant'] !== SEGMENTED_TENANT) return undefined;
  const hash = createHash('sha256').update(SEGMENTED_TENANT).digest('hex').slice(0, 16);
  return ['segmented', `segmented.t-${hash}`];
}

export const tightness = (profile: unknown): number =>
  ['workload', 'probation', 'quarantine'].indexOf(String(profile));

/** Where a VM was before policy contains it further: what observe mode decided has contained nobody. */
export function standing(before: Row | undefined): string {
  if (!before || (before['mode'] === 'observe' && before['profile'] === 'quarantine')) return 'probation';
  return String(before['profile']);
}

/** In which guards a VM counts. */
export const scopesOf = (vm: WorldVm, tenant: unknown): readonly string[] => [
  `vpc/${vm.vpcId ?? DEFAULT_VPC}`,
  ...(vm.tags['aws:autoscaling:groupName'] ? [`asg/${vm.tags['aws:autoscaling:groupName']}`] : []),
  ...(tenant ? [`tenant/${tenant}`] : []),
];

/**
 * What an interface is to have in `workload`: its originals, or what an operator named where they cannot be given
 * back; empty where nobody can say, undefined where nothing was taken from it.
 */
export function toGive(
  rows: Rows,
  vmId: string,
  eni: WorldInterface,
  own: OwnGroups,
  deleted: ReadonlySet<string>,
): readonly string[] | undefined {
  const originals =
    records(rows.get(`isolation#${vmId}`)).find((record) => record.id === eni.id)?.originals ?? null;
  const named = rows.get(`operator#${vmId}`)?.['workloadGroups'] as { [id: string]: string[] } | undefined;
  if (originals === null) return eni.groups.some((id) => own.has(id)) ? (named?.[eni.id] ?? []) : undefined;
  const whole = originals.length > 0 && !originals.some((id) => deleted.has(id));
  return whole ? originals : (named?.[eni.id] ?? []);
}

export const vpcOf = (vm: WorldVm, eni: WorldInterface): string => eni.vpcId ?? vm.vpcId ?? DEFAULT_VPC;

/** Ids of Casemate's own groups, in all VPCs. Group ids are never used again, so those that were deleted count. */
export type OwnGroups = ReadonlyMap<string, { readonly name: string; readonly vpcId: string }>;

export function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return new Set(a).size === new Set(b).size && a.every((each) => b.includes(each));
}

/** Whether these are the groups of these names in a VPC, and nothing else. */
export function isFence(
  own: OwnGroups,
  groups: readonly string[],
  names: readonly string[],
  vpcId: string,
): boolean {
  const found = groups.map((id) => own.get(id)).filter((group) => group?.vpcId === vpcId);
  return (
    found.length === groups.length &&
    sameSet(
      found.map((group) => group?.name ?? ''),
      names,
    )
  );
}

interface Permission {
  readonly IpProtocol?: string | undefined;
  readonly FromPort?: number | undefined;
  readonly ToPort?: number | undefined;
  readonly IpRanges?: readonly { readonly CidrIp?: string | undefined }[] | undefined;
  readonly Ipv6Ranges?: readonly { readonly CidrIpv6?: string | undefined }[] | undefined;
  readonly UserIdGroupPairs?: readonly { readonly GroupId?: string | undefined }[] | undefined;
}

/** One line a rule. */
function rulesOf(permissions: readonly Permission[]): readonly string[] {
  return permissions
    .flatMap(({ IpProtocol, FromPort, ToPort, IpRanges = [], Ipv6Ranges = [], UserIdGroupPairs = [] }) =>
      [
        ...IpRanges.map((r) => r.CidrIp),
        ...Ipv6Ranges.map((r) => r.CidrIpv6),
        ...UserIdGroupPairs.map((r) => r.GroupId),
      ].map((peer) => `${IpProtocol} ${FromPort ?? ''}-${ToPort ?? ''} ${peer}`),
    )
    .sort();
}

const HTTPS = ['tcp 443-443 0.0.0.0/0', 'tcp 443-443 ::/0'];
const EVERYTHING = ['-1 - 0.0.0.0/0', '-1 - ::/0'];

/** What a group lets in and out, where probation may reach HTTPS anywhere. */
function rightRules(
  name: string,
  id: string,
): { readonly in: readonly string[]; readonly out: readonly string[] } {
  if (name === 'cut') return { in: EVERYTHING, out: EVERYTHING };
  if (name.startsWith('segmented.t-')) return { in: [`-1 - ${id}`], out: [`-1 - ${id}`] };
  return { in: [], out: name === 'quarantine' ? [] : HTTPS };
}

/** Rules of a group of Casemate's that ought not to be there, or are missing. */
export function wrongRules(
  state: Ec2State,
  id: string,
  name: string,
): { readonly excess: readonly string[]; readonly missing: readonly string[] } {
  const group = state.groups.get(id);
  const right = rightRules(name, id);
  const wanted = [...right.in.map((rule) => `in ${rule}`), ...right.out.map((rule) => `out ${rule}`)];
  const there = [
    ...rulesOf(group?.IpPermissions ?? []).map((rule) => `in ${rule}`),
    ...rulesOf(group?.IpPermissionsEgress ?? []).map((rule) => `out ${rule}`),
  ];
  return {
    excess: there.filter((rule) => !wanted.includes(rule)),
    missing: wanted.filter((rule) => !there.includes(rule)),
  };
}
