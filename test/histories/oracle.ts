import type { Ec2State, WorldInterface, WorldVm } from '../world/ec2.ts';
import { DEFAULT_VPC } from '../world/ec2.ts';

/** What ought to be, said once more and apart from the code under test: a mistake there must not excuse itself here. */

export type Fence = 'probation' | 'quarantine';
export type Row = { readonly [attribute: string]: unknown };
export type Rows = ReadonlyMap<string, Row>;

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
export type OwnGroups = ReadonlyMap<string, { readonly fence: Fence; readonly vpcId: string }>;

export function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return new Set(a).size === new Set(b).size && a.every((each) => b.includes(each));
}

/** Whether these are the groups of a fence in a VPC, and nothing else. */
export function isFence(own: OwnGroups, groups: readonly string[], fence: Fence, vpcId: string): boolean {
  const [id = ''] = groups;
  const group = own.get(id);
  return new Set(groups).size === 1 && group?.fence === fence && group.vpcId === vpcId;
}

interface Permission {
  readonly IpProtocol?: string | undefined;
  readonly FromPort?: number | undefined;
  readonly ToPort?: number | undefined;
  readonly IpRanges?: readonly { readonly CidrIp?: string | undefined }[] | undefined;
  readonly Ipv6Ranges?: readonly { readonly CidrIpv6?: string | undefined }[] | undefined;
}

/** One line a rule. */
export function rulesOf(permissions: readonly Permission[]): readonly string[] {
  return permissions
    .flatMap(({ IpProtocol, FromPort, ToPort, IpRanges = [], Ipv6Ranges = [] }) =>
      [...IpRanges.map((r) => r.CidrIp), ...Ipv6Ranges.map((r) => r.CidrIpv6)].map(
        (cidr) => `${IpProtocol} ${FromPort ?? ''}-${ToPort ?? ''} ${cidr}`,
      ),
    )
    .sort();
}

/** What a fence lets out, where probation may reach HTTPS anywhere; nothing may come in. */
export const EGRESS: { readonly [F in Fence]: readonly string[] } = {
  probation: ['tcp 443-443 0.0.0.0/0', 'tcp 443-443 ::/0'],
  quarantine: [],
};

/** Rules of a fence that ought not to be there, or are missing. */
export function wrongRules(
  state: Ec2State,
  id: string,
  fence: Fence,
): { readonly excess: readonly string[]; readonly missing: readonly string[] } {
  const group = state.groups.get(id);
  const egress = rulesOf(group?.IpPermissionsEgress ?? []);
  return {
    excess: [
      ...rulesOf(group?.IpPermissions ?? []).map((rule) => `in ${rule}`),
      ...egress.filter((rule) => !EGRESS[fence].includes(rule)).map((rule) => `out ${rule}`),
    ],
    missing: EGRESS[fence].filter((rule) => !egress.includes(rule)),
  };
}
