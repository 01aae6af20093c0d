import * as z from 'zod';
import { groupId, instanceId, interfaceId, utcTime } from './ids.ts';
import type { OperatorItem } from './operator.ts';
import { type PostureItem, standingVerdict } from './posture.ts';
import { canonicalJson, LIVE_STATES, type ObservedInterface, type VmItem } from './vm.ts';

/** `probation` until proven, `workload` (exactly the groups it came with), `quarantine`. */
export const profileName = z.enum(['probation', 'workload', 'quarantine']);
export type Profile = z.infer<typeof profileName>;

/** `observe` plans and announces; `enforce` also changes network interfaces. */
export const mode = z.enum(['observe', 'enforce']);
export type Mode = z.infer<typeof mode>;

export const interfaceRecord = z.strictObject({
  id: interfaceId,
  /** What the interface had before Casemate first changed it; null while it has that now. */
  originals: z.array(groupId).nullable(),
  /** As last read back from EC2. */
  groups: z.array(groupId),
  /** Of the originals, those that EC2 no longer has. */
  gone: z.array(groupId).optional(),
});
export type InterfaceRecord = z.infer<typeof interfaceRecord>;

/** The `isolation#` item. */
export const isolationItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  profile: profileName,
  /** Every interface was read back with the groups of `profile`. */
  applied: z.boolean(),
  mode,
  interfaces: z.array(interfaceRecord),
  reasons: z.array(z.string()),
  changedAt: utcTime,
  /** Newest first, at most DECISIONS_KEPT. */
  decisions: z.array(
    z.strictObject({ at: utcTime, profile: profileName, mode, reasons: z.array(z.string()) }),
  ),
});
export type IsolationItem = z.infer<typeof isolationItem>;

export const DECISIONS_KEPT = 10;

export type ProfileDecision =
  | { readonly kind: 'leave-alone'; readonly reason: 'VM_NOT_MANAGED' | 'VM_NOT_LIVE' | 'VM_GONE' }
  | {
      readonly kind: 'fence';
      readonly profile: Profile;
      /** Who wants it there: what policy wants may be held back, what an operator wants never is. */
      readonly by: 'policy' | 'operator';
      readonly reasons: readonly string[];
    };

/** What decides the profile of a VM. */
export interface ProfileFacts {
  readonly vm: VmItem;
  readonly posture: PostureItem | undefined;
  readonly operator: OperatorItem | undefined;
  readonly isolation: IsolationItem | undefined;
}

/**
 * Which profile a VM belongs in. An operator's quarantine goes before everything. Else posture decides;
 * anything but a standing `compliant` keeps the fence closed, so a missing, stale or unreadable posture is
 * probation. A VM that is not in scope, or no longer, gets back what was taken from it.
 */
export function decideProfile(facts: ProfileFacts, now: Date): ProfileDecision {
  const { vm, posture, operator, isolation } = facts;
  if (vm.gone) return { kind: 'leave-alone', reason: 'VM_GONE' };
  if (!LIVE_STATES.has(vm.observation.state)) return { kind: 'leave-alone', reason: 'VM_NOT_LIVE' };
  if (operator?.quarantine) {
    return { kind: 'fence', profile: 'quarantine', by: 'operator', reasons: ['OPERATOR_QUARANTINE'] };
  }
  if (!vm.managed) {
    const taken = isolation?.interfaces.some((record) => record.originals !== null) ?? false;
    return taken
      ? { kind: 'fence', profile: 'workload', by: 'policy', reasons: ['VM_NOT_MANAGED'] }
      : { kind: 'leave-alone', reason: 'VM_NOT_MANAGED' };
  }
  const standing = standingVerdict(posture, now);
  const fence = (profile: Profile): ProfileDecision => ({
    kind: 'fence',
    profile,
    by: 'policy',
    reasons: standing.reasons,
  });
  switch (standing.verdict) {
    case 'compliant':
      return fence('workload');
    case 'noncompliant':
      return fence('quarantine');
    case 'unproven':
      return fence('probation');
  }
}

/** The groups that Casemate made in one VPC. */
export interface CasemateGroups {
  readonly probation: string;
  readonly quarantine: string;
}

/** The Casemate groups of a VPC; undefined where they could not be made. */
export type GroupsOf = (vpcId: string) => CasemateGroups | undefined;

export interface InterfaceChange {
  readonly interfaceId: string;
  readonly groups: readonly string[];
}

export interface IsolationPlan {
  /** Every interface of the VM, as it must be recorded before the first change is made. */
  readonly records: readonly InterfaceRecord[];
  readonly changes: readonly InterfaceChange[];
  /** Interfaces that are not as the profile wants them and that Casemate does not change, with the reason. */
  readonly left: readonly {
    readonly interfaceId: string;
    readonly reason: 'REQUESTER_MANAGED' | 'NO_ORIGINAL_GROUPS' | 'ORIGINAL_GROUP_GONE' | 'NO_GROUPS_IN_VPC';
  }[];
}

/** What interfaces get in `workload` that have no groups of their own to be given back, by interface id. */
export type WorkloadGroups = Readonly<Record<string, readonly string[]>>;

/**
 * What an interface gets in `workload`; undefined where Casemate took nothing from it, empty where nobody can
 * say. What an operator named counts only where the originals cannot be given back.
 */
function groupsToGive(
  record: Pick<InterfaceRecord, 'id' | 'originals' | 'gone'>,
  named: WorkloadGroups,
): readonly string[] | undefined {
  if (record.originals === null) return undefined;
  const whole = record.originals.length > 0 && (record.gone ?? []).length === 0;
  return whole ? record.originals : (named[record.id] ?? []);
}

export function sameGroups(a: readonly string[], b: readonly string[]): boolean {
  const set = new Set(a);
  return set.size === new Set(b).size && b.every((g) => set.has(g));
}

/**
 * What must change so that every interface carries the groups of `profile`.
 *
 * The original groups are taken down the first time that Casemate takes an interface, never again until
 * they are given back, and never with a group of Casemate's own among them: an interface that started in
 * the probation group has no originals of its own and stays until somebody configures them. In `workload`
 * an interface whose originals were given back is somebody else's to change: what it carries now is right.
 * Where EC2 shows a Casemate group on an interface that has none of its own recorded, its answer is older than
 * the last change, and what was last read back counts. `named` are the groups that an operator named for
 * interfaces whose originals cannot be given back.
 */
export function planIsolation(
  profile: Profile,
  interfaces: readonly ObservedInterface[],
  known: readonly InterfaceRecord[],
  groupsOf: GroupsOf,
  named: WorkloadGroups = {},
): IsolationPlan {
  const own = ownGroups(interfaces, groupsOf);
  const last = new Map(known.map((record) => [record.id, record]));
  const records: InterfaceRecord[] = [];
  const changes: InterfaceChange[] = [];
  const left: IsolationPlan['left'][number][] = [];
  for (const eni of interfaces) {
    const taken = last.get(eni.id)?.originals ?? null;
    if (eni.managedBy === 'requester') {
      records.push({ id: eni.id, originals: taken, groups: eni.groups });
      if (profile !== 'workload') left.push({ interfaceId: eni.id, reason: 'REQUESTER_MANAGED' });
      continue;
    }
    if (profile === 'workload') {
      const carriesOwn = eni.groups.some((g) => own.has(g));
      const record = { ...last.get(eni.id), id: eni.id, originals: taken, groups: eni.groups };
      records.push(record);
      // Nothing on record, or nothing that can be given, and yet in a group of ours: an operator has to say.
      const groups = groupsToGive(record, named) ?? (carriesOwn ? (named[eni.id] ?? []) : eni.groups);
      if (groups.length > 0) {
        if (!sameGroups(eni.groups, groups)) changes.push({ interfaceId: eni.id, groups });
      } else if (carriesOwn || record.gone) {
        left.push({
          interfaceId: eni.id,
          reason: record.gone ? 'ORIGINAL_GROUP_GONE' : 'NO_ORIGINAL_GROUPS',
        });
      }
      continue;
    }
    const notOwn = (groups: readonly string[]) => groups.filter((g) => !own.has(g));
    const now = notOwn(eni.groups);
    const originals = taken ?? (now.length > 0 ? now : notOwn(last.get(eni.id)?.groups ?? []));
    const groups = groupsOf(eni.vpcId);
    if (!groups) {
      // Not taken: without a group to put it into there is nothing to give back.
      records.push({ id: eni.id, originals: taken, groups: eni.groups });
      left.push({ interfaceId: eni.id, reason: 'NO_GROUPS_IN_VPC' });
      continue;
    }
    const wanted = [groups[profile]];
    records.push({ id: eni.id, originals, groups: eni.groups });
    if (!sameGroups(eni.groups, wanted)) changes.push({ interfaceId: eni.id, groups: wanted });
  }
  return { records: [...records, ...detached(known, interfaces)], changes, left };
}

/** Every Casemate group in the VPCs of these interfaces: a VM can have interfaces in several. */
export function ownGroups(interfaces: readonly ObservedInterface[], groupsOf: GroupsOf): ReadonlySet<string> {
  return new Set(
    interfaces.flatMap((eni) => {
      const groups = groupsOf(eni.vpcId);
      return groups ? [groups.probation, groups.quarantine] : [];
    }),
  );
}

/** Records of interfaces that are not attached now but whose originals are still to be given back. */
function detached(
  known: readonly InterfaceRecord[],
  present: readonly ObservedInterface[],
): readonly InterfaceRecord[] {
  const ids = new Set(present.map((eni) => eni.id));
  return known.filter((record) => record.originals !== null && !ids.has(record.id));
}

/**
 * The records after EC2 was read back, and whether the profile holds on every interface that Casemate may
 * change. Originals are forgotten only once they were read back in place.
 */
export function settleIsolation(
  profile: Profile,
  planned: readonly InterfaceRecord[],
  readBack: readonly ObservedInterface[],
  groupsOf: GroupsOf,
  named: WorkloadGroups = {},
): { readonly records: readonly InterfaceRecord[]; readonly applied: boolean } {
  const now = new Map(readBack.map((eni) => [eni.id, eni]));
  const own = ownGroups(readBack, groupsOf);
  let applied = true;
  const records: InterfaceRecord[] = [];
  for (const record of planned) {
    const eni = now.get(record.id);
    if (!eni) {
      if (record.originals !== null) records.push(record); // detached: it must not lose its originals
      continue;
    }
    if (eni.managedBy === 'requester') {
      records.push({ ...record, groups: eni.groups });
      continue;
    }
    if (profile === 'workload') {
      const given = groupsToGive(record, named);
      const closed = eni.groups.some((g) => own.has(g));
      // Without anything to give, what somebody else put in the place of our group is right.
      const back =
        given === undefined || (given.length > 0 ? sameGroups(eni.groups, given) : !closed && !record.gone);
      applied &&= back && !closed;
      records.push(
        back ? { id: record.id, originals: null, groups: eni.groups } : { ...record, groups: eni.groups },
      );
    } else {
      const wanted = groupsOf(eni.vpcId)?.[profile];
      applied &&= wanted !== undefined && sameGroups(eni.groups, [wanted]);
      records.push({ ...record, groups: eni.groups });
    }
  }
  // An interface that was attached while the plan ran is not in it yet.
  applied &&= readBack.every((eni) => records.some((record) => record.id === eni.id));
  return { records, applied };
}

/** The next `isolation#` item; the very same object when nothing of it changes. */
export function nextIsolation(
  before: IsolationItem | undefined,
  change: {
    readonly instanceId: string;
    readonly profile: Profile;
    readonly applied: boolean;
    readonly mode: Mode;
    readonly interfaces: readonly InterfaceRecord[];
    readonly reasons: readonly string[];
    readonly now: Date;
  },
): Omit<IsolationItem, 'pk' | 'version'> {
  const { now, ...wanted } = change;
  const essence = (
    of: Pick<IsolationItem, 'profile' | 'applied' | 'mode'> & { interfaces: unknown; reasons: unknown },
  ) => canonicalJson([of.profile, of.applied, of.mode, of.interfaces, of.reasons]);
  if (before && essence(before) === essence(wanted)) return before;
  const last = before?.decisions[0];
  const repeated =
    last?.profile === wanted.profile &&
    last.mode === wanted.mode &&
    last.reasons.join() === wanted.reasons.join();
  const decision = {
    at: now.toISOString(),
    profile: wanted.profile,
    mode: wanted.mode,
    reasons: [...wanted.reasons],
  };
  return {
    ...wanted,
    interfaces: [...wanted.interfaces],
    reasons: [...wanted.reasons],
    changedAt: now.toISOString(),
    decisions: repeated
      ? (before?.decisions ?? [])
      : [decision, ...(before?.decisions ?? [])].slice(0, DECISIONS_KEPT),
  };
}
