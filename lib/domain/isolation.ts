import * as z from 'zod';
import { containmentStep, inOrder } from './containment.ts';
import { groupId, instanceId, interfaceId, utcTime } from './ids.ts';
import type { OperatorItem } from './operator.ts';
import { type PostureItem, standingVerdict } from './posture.ts';
import { limits } from './quotas.ts';
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

/** Somebody else changed an interface. */
export const drift = z.strictObject({
  at: utcTime,
  interfaceId,
  /** What it carried. */
  found: z.array(groupId),
  /** `fought`: it was put back too often, and is left until somebody looks. */
  action: z.enum(['put-back', 'reported', 'fought']),
});
export type Drift = z.infer<typeof drift>;

export const DRIFT_REASONS = {
  'put-back': 'DRIFT_PUT_BACK',
  reported: 'DRIFT_REPORTED',
  fought: 'DRIFT_FOUGHT',
} as const satisfies Record<Drift['action'], string>;

/** Put back so often within the window, an interface is left as it is: somebody has to find out who fights. */
export const DRIFTS_PUT_BACK = 3;
export const DRIFT_WINDOW_SECONDS = 10 * 60;
const DRIFTS_KEPT = 10;

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
  /** Newest first, at most DRIFTS_KEPT. */
  drift: z.array(drift).default([]),
  /** What containing it does beyond its groups. */
  steps: z.array(containmentStep).default([]),
  /** The profile's name in policies/profiles.json. */
  definition: z.string().optional(),
  /** What its groups were composed under; absent where it has none of Casemate's. */
  limits: limits.optional(),
  /** Whose VM it was when it was first seen, or as an operator confirmed since. */
  tenant: z.string().nullable().optional(),
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

/** What a profile comes to on interfaces: the groups that they came with, or groups of Casemate's own. */
export interface Target {
  readonly kind: 'originals' | 'groups';
  readonly profile: Profile;
  /** The groups of the profile in a VPC; undefined where they could not be made. */
  groupsIn(vpcId: string): readonly string[] | undefined;
  /** Whether a group is one that Casemate made. */
  isOwn(groupId: string): boolean;
}

/** What was known of a VM before it is looked at again. */
export interface Known {
  readonly records: readonly InterfaceRecord[];
  /** All of it was read back in this very profile: what is different now, somebody else did. */
  readonly settled: boolean;
  /** In this very profile, newest first. */
  readonly drift: readonly Drift[];
}

/** What an item says about the way to a profile. */
export function knownOf(
  item: IsolationItem | undefined,
  wanted: Pick<IsolationItem, 'profile' | 'definition'>,
): Known {
  if (!item) return { records: [], settled: false, drift: [] };
  const same =
    item.profile === wanted.profile && item.definition === wanted.definition && item.mode === 'enforce';
  return {
    records: item.interfaces,
    settled: same && item.applied,
    drift: same ? item.drift : [],
  };
}

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
    readonly reason:
      | 'REQUESTER_MANAGED'
      | 'NO_ORIGINAL_GROUPS'
      | 'ORIGINAL_GROUP_GONE'
      | 'NO_GROUPS_IN_VPC'
      | 'DRIFT_FOUGHT';
  }[];
  /** What somebody else changed since the interfaces were last read back. */
  readonly drift: readonly Drift[];
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
 * What must change so that every interface carries the groups of its profile.
 *
 * The original groups are taken down the first time that Casemate takes an interface, never again until
 * they are given back, and never with a group of Casemate's own among them: an interface that started in
 * the probation group has no originals of its own and stays until somebody configures them. In `workload`
 * an interface whose originals were given back is somebody else's to change: what it carries now is right.
 * Where EC2 shows a Casemate group on an interface that has none of its own recorded, its answer is older than
 * the last change, and what was last read back counts. What somebody else changed since is put back, but not
 * for ever; in `workload` it is theirs to change, and is reported. `named` are the groups that an operator named for
 * interfaces whose originals cannot be given back.
 */
export function planIsolation(
  target: Target,
  interfaces: readonly ObservedInterface[],
  known: Known,
  options: { readonly named?: WorkloadGroups; readonly now: Date },
): IsolationPlan {
  const { named = {}, now } = options;
  const last = new Map(known.records.map((record) => [record.id, record]));
  const records: InterfaceRecord[] = [];
  const changes: InterfaceChange[] = [];
  const left: IsolationPlan['left'][number][] = [];
  const drifted: Drift[] = [];
  const notOwn = (groups: readonly string[]) => groups.filter((group) => !target.isOwn(group));
  for (const eni of interfaces) {
    const before = last.get(eni.id);
    const taken = before?.originals ?? givenBack(before, eni, target);
    const moved = known.settled && before !== undefined && !sameGroups(before.groups, eni.groups);
    const note = (action: Drift['action']) =>
      drifted.push({ at: now.toISOString(), interfaceId: eni.id, found: [...eni.groups], action });
    if (eni.managedBy === 'requester') {
      records.push({ id: eni.id, originals: before?.originals ?? null, groups: eni.groups });
      if (target.kind === 'groups') left.push({ interfaceId: eni.id, reason: 'REQUESTER_MANAGED' });
      continue;
    }
    if (target.kind === 'originals') {
      const carriesOwn = eni.groups.some((group) => target.isOwn(group));
      const record = { ...before, id: eni.id, originals: taken && [...taken], groups: eni.groups };
      records.push(record);
      if (moved) note('reported');
      // Nothing on record, or nothing that can be given, and yet in a group of ours: an operator has to say.
      const groups = groupsToGive(record, named) ?? (carriesOwn ? (named[eni.id] ?? []) : eni.groups);
      if (groups.length > 0) {
        if (!sameGroups(eni.groups, groups)) changes.push({ interfaceId: eni.id, groups });
      } else if (carriesOwn || record.gone) {
        const reason = record.gone ? 'ORIGINAL_GROUP_GONE' : 'NO_ORIGINAL_GROUPS';
        left.push({ interfaceId: eni.id, reason });
      }
      continue;
    }
    const wanted = target.groupsIn(eni.vpcId);
    if (!wanted) {
      // Not taken: without a group to put it into there is nothing to give back.
      records.push({ id: eni.id, originals: taken && [...taken], groups: eni.groups });
      left.push({ interfaceId: eni.id, reason: 'NO_GROUPS_IN_VPC' });
      continue;
    }
    const theirs = notOwn(eni.groups);
    const originals = taken ?? (theirs.length > 0 ? theirs : notOwn(before?.groups ?? []));
    records.push({ id: eni.id, originals: [...originals], groups: eni.groups });
    if (sameGroups(eni.groups, wanted)) continue;
    if (foughtOver(eni.id, known.drift, now)) {
      left.push({ interfaceId: eni.id, reason: 'DRIFT_FOUGHT' });
      if (moved) note('fought');
      continue;
    }
    if (moved) note('put-back');
    changes.push({ interfaceId: eni.id, groups: wanted });
  }
  return {
    records: [...records, ...detached(known.records, interfaces)],
    changes,
    left,
    drift: drifted,
  };
}

/**
 * What an interface was read back with after its originals were given back, where it is in a group of Casemate's
 * again: a worker that had decided otherwise before put it there meanwhile. It is owed the same groups once more.
 */
function givenBack(
  before: InterfaceRecord | undefined,
  eni: ObservedInterface,
  target: Target,
): readonly string[] | null {
  if (target.kind !== 'originals' || !before || !eni.groups.some((group) => target.isOwn(group))) return null;
  const theirs = before.groups.length > 0 && !before.groups.some((group) => target.isOwn(group));
  return theirs ? before.groups : null;
}

/** Whether an interface was put back so often lately that doing it again is a fight. */
function foughtOver(id: string, past: readonly Drift[], now: Date): boolean {
  const from = now.getTime() - DRIFT_WINDOW_SECONDS * 1000;
  const putBack = past.filter(
    ({ interfaceId: of, action, at }) => of === id && action === 'put-back' && Date.parse(at) > from,
  );
  return putBack.length >= DRIFTS_PUT_BACK;
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
  target: Target,
  planned: readonly InterfaceRecord[],
  readBack: readonly ObservedInterface[],
  named: WorkloadGroups = {},
): { readonly records: readonly InterfaceRecord[]; readonly applied: boolean } {
  const now = new Map(readBack.map((eni) => [eni.id, eni]));
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
    if (target.kind === 'originals') {
      const given = groupsToGive(record, named);
      const closed = eni.groups.some((group) => target.isOwn(group));
      // Without anything to give, what somebody else put in the place of our group is right.
      const back =
        given === undefined || (given.length > 0 ? sameGroups(eni.groups, given) : !closed && !record.gone);
      applied &&= back && !closed;
      records.push(
        back ? { id: record.id, originals: null, groups: eni.groups } : { ...record, groups: eni.groups },
      );
    } else {
      const wanted = target.groupsIn(eni.vpcId);
      applied &&= wanted !== undefined && sameGroups(eni.groups, wanted);
      records.push({ ...record, groups: eni.groups });
    }
  }
  // An interface that was attached while the plan ran is not in it yet.
  applied &&= readBack.every((eni) => records.some((record) => record.id === eni.id));
  return { records, applied };
}

export type IsolationState = Omit<IsolationItem, 'pk' | 'version' | 'changedAt' | 'decisions'>;

/** What of an item counts as a change of it. */
export function isolationEssence(item: IsolationState): string {
  const {
    instanceId: id,
    profile,
    applied,
    mode: how,
    interfaces,
    reasons,
    steps,
    definition,
    limits: under,
    tenant,
  } = item;
  const kept = item.drift.slice(0, DRIFTS_KEPT);
  return canonicalJson([
    id,
    profile,
    applied,
    how,
    interfaces,
    reasons,
    kept,
    steps,
    definition,
    under,
    tenant,
  ]);
}

/** The next `isolation#` item; the very same object when nothing of it changes. */
export function nextIsolation(
  before: IsolationItem | undefined,
  wanted: {
    readonly [K in keyof IsolationState]: IsolationState[K] extends readonly (infer E)[]
      ? readonly E[]
      : IsolationState[K];
  },
  now: Date,
): Omit<IsolationItem, 'pk' | 'version'> {
  const state: IsolationState = {
    ...wanted,
    interfaces: [...wanted.interfaces],
    reasons: [...new Set(wanted.reasons)],
    drift: wanted.drift.slice(0, DRIFTS_KEPT),
    steps: inOrder(wanted.steps),
  };
  if (before && isolationEssence(before) === isolationEssence(state)) return before;
  const last = before?.decisions[0];
  const repeated =
    last?.profile === state.profile &&
    last.mode === state.mode &&
    last.reasons.join() === state.reasons.join();
  const at = now.toISOString();
  const decision = { at, profile: state.profile, mode: state.mode, reasons: [...state.reasons] };
  return {
    ...state,
    changedAt: at,
    decisions: repeated
      ? (before?.decisions ?? [])
      : [decision, ...(before?.decisions ?? [])].slice(0, DECISIONS_KEPT),
  };
}
