import { type ContainmentStep, type StandbyStep, stepReasons } from '../../lib/domain/containment.ts';
import {
  type InterfaceRecord,
  type IsolationItem,
  type IsolationPlan,
  isolationEssence,
  knownOf,
  type Mode,
  nextIsolation,
  type ProfileDecision,
  planIsolation,
  settleIsolation,
  type Target,
  type WorkloadGroups,
} from '../../lib/domain/isolation.ts';
import type { OperatorItem } from '../../lib/domain/operator.ts';
import {
  configuredGroups,
  definitionFor,
  definitionNamed,
  fitting,
  type GroupSpec,
  groupsOfProfile,
  stageGroups,
} from '../../lib/domain/profiles.ts';
import type { Limits } from '../../lib/domain/quotas.ts';
import type { ObservedInterface, VmItem } from '../../lib/domain/vm.ts';
import { putVersioned } from '../aws/dynamodb.ts';
import { missingGroups, setInterfaceGroups } from '../aws/ec2.ts';
import type { OwnGroups } from '../aws/security-groups.ts';
import type { Deps, Run } from './deps.ts';
import { planStandby, standBy } from './standby.ts';

export type Fence = Extract<ProfileDecision, { kind: 'fence' }>;

/** A VM on its way to its profile. */
export interface Fencing {
  readonly vm: VmItem;
  readonly fence: Fence;
  readonly mode: Mode;
  readonly tenant: string | null;
  readonly tenantChanged: boolean;
  readonly operator: OperatorItem | undefined;
  /** As it was stored before this run. */
  readonly before: IsolationItem | undefined;
}

/** A fencing, and what its profile comes to. */
export interface Targeted extends Fencing {
  readonly definition: string;
  readonly target: Target;
  /** What interfaces get whose originals cannot be given back. */
  readonly named: WorkloadGroups;
  /** The profile comes to more groups than an interface takes. */
  readonly overQuota: boolean;
  /** What its groups were composed under; undefined where it gets none of Casemate's. */
  readonly limits: Limits | undefined;
  /** What kept groups of the profile from being made; thrown once everything that can be done is done. */
  readonly failures: unknown[];
}

/** A fencing that was recorded, and its groups changed. */
export interface Started extends Targeted {
  readonly plan: IsolationPlan;
  readonly item: IsolationItem;
  /** Originals that EC2 no longer has, by interface. */
  readonly gone: ReadonlyMap<string, readonly string[]>;
  /** What came of telling the Auto Scaling group. */
  readonly stoodBy: StandbyStep['state'] | undefined;
  /** Interfaces that were found in the group that lets everything through. */
  readonly stoodOpen: ReadonlySet<string>;
}

/** The groups that a VM's profile comes to, besides those of the stages that every VPC has. */
export function specsOf(run: Run, fencing: Fencing): ReturnType<typeof fitting> {
  const { profiles, limits } = run;
  const name = definitionFor(profiles, fencing.fence.profile, fencing.vm.observation, fencing.tenant);
  const definition = definitionNamed(profiles, name);
  return fitting(groupsOfProfile(name, definition, fencing.tenant, limits, run.probationEgress), limits);
}

/** The groups that every VPC has where a VM is enforced. */
export function commonSpecs(run: Run): readonly GroupSpec[] {
  return stageGroups(run.profiles, run.limits, run.probationEgress, run.cutTrackedFlows);
}

/** What a VM's interfaces are to carry. In observe mode a group that does not exist stands there by its name. */
export function targeted(
  run: Run,
  fencing: Fencing,
  interfaces: readonly ObservedInterface[],
  groups: OwnGroups,
): Targeted {
  const { fence, mode, vm, tenant } = fencing;
  const failures: unknown[] = [];
  const definition = definitionFor(run.profiles, fence.profile, vm.observation, tenant);
  const { originals } = definitionNamed(run.profiles, definition);
  const { groups: specs, leftOut } = specsOf(run, fencing);
  const byVpc = new Map<string, readonly string[] | undefined>();
  for (const vpcId of new Set(interfaces.map((eni) => eni.vpcId))) {
    try {
      const ids = specs.map(
        ({ name }) => groups.idOf(vpcId, name) ?? (mode === 'observe' ? name : undefined),
      );
      byVpc.set(vpcId, ids.every((id) => id !== undefined) ? ids : undefined);
    } catch (fault) {
      // A VPC where they could not be made fails its own interfaces alone.
      failures.push(fault);
    }
  }
  const configured = configuredGroups(run.profiles, vm.observation, tenant);
  const named: WorkloadGroups = {
    ...(configured.length > 0 ? Object.fromEntries(interfaces.map((eni) => [eni.id, configured])) : {}),
    ...fencing.operator?.workloadGroups,
  };
  return {
    ...fencing,
    definition,
    named,
    overQuota: leftOut.length > 0,
    limits: originals ? undefined : run.limits,
    failures,
    target: {
      kind: originals ? 'originals' : 'groups',
      profile: fence.profile,
      groupsIn: (vpcId) => byVpc.get(vpcId),
      isOwn: (groupId) => groups.isOwn(groupId),
    },
  };
}

/** What has to change on a VM, as far as is known without asking anybody. */
export function planOf(
  deps: Deps,
  on: Targeted,
  interfaces: readonly ObservedInterface[],
  records: readonly InterfaceRecord[] = on.before?.interfaces ?? [],
): IsolationPlan {
  const known = knownOf(on.before, { profile: on.fence.profile, definition: on.definition });
  return planIsolation(on.target, interfaces, { ...known, records }, { named: on.named, now: deps.now() });
}

/** Records what is about to be done, then does it. */
export async function start(
  deps: Deps,
  on: Targeted,
  interfaces: readonly ObservedInterface[],
  cutGroups: ReadonlySet<string>,
): Promise<Started> {
  const { before, fence, mode, failures } = on;
  const { instanceId } = on.vm.observation;
  const plan = planOf(deps, on, interfaces, await withoutReturned(deps, on));
  const known = knownOf(before, { profile: fence.profile, definition: on.definition });
  const standby = await planStandby(deps, on);
  const kept = standby ? [standby] : (before?.steps ?? []).filter((step) => step.kind === 'standby');
  const planned = nextIsolation(
    before,
    {
      instanceId,
      profile: fence.profile,
      definition: on.definition,
      limits: on.limits,
      tenant: on.tenant,
      reasons: [
        ...fence.reasons,
        ...(on.overQuota ? ['PROFILE_OVER_QUOTA'] : []),
        ...(on.tenantChanged ? ['TENANT_CHANGED'] : []),
        ...plan.left.map((l) => l.reason),
        ...(fence.profile === 'quarantine' ? stepReasons(before?.steps ?? []) : []),
      ],
      mode,
      applied: isWhole(plan) && known.settled,
      interfaces: mode === 'enforce' ? plan.records : notTaken(plan, on),
      drift: mode === 'enforce' ? [...plan.drift, ...known.drift] : [],
      steps: [...(before?.steps ?? []).filter((step) => step.kind !== 'standby'), ...kept],
    },
    deps.now(),
  );
  // Record before change: originals that were not stored before the swap are lost with a crash after it.
  // The condition on the version also makes the second of two workers look again.
  const item = await store(deps, before, planned);
  // Before it is contained: a group that finds it unhealthy would end it.
  const stoodBy = await standBy(deps, standby, instanceId);
  const gone = new Map<string, readonly string[]>();
  if (mode === 'enforce') {
    // Every interface is tried: one that fails must not leave the others open.
    const outcomes = await Promise.allSettled(
      plan.changes.map((change) => setInterfaceGroups(deps.ec2, change.interfaceId, change.groups)),
    );
    for (const [i, outcome] of outcomes.entries()) {
      const change = plan.changes[i];
      if (outcome.status !== 'rejected' || !change) continue;
      const missing = isGroupNotFound(outcome.reason) ? await missingGroups(deps.ec2, change.groups) : [];
      // Trying again gives back no group that was deleted: it is recorded, and an operator has to say.
      if (missing.length > 0 && on.target.kind === 'originals') gone.set(change.interfaceId, missing);
      else failures.push(outcome.reason);
    }
  }
  const stoodOpen = new Set(
    interfaces.filter((eni) => eni.groups.some((group) => cutGroups.has(group))).map((eni) => eni.id),
  );
  return { ...on, plan, item, gone, stoodOpen, stoodBy };
}

/** Nothing is to be changed, and nothing that Casemate may change is left as it should not be. */
function isWhole(plan: IsolationPlan): boolean {
  return plan.changes.length === 0 && plan.left.every((left) => left.reason === 'REQUESTER_MANAGED');
}

/** EC2 says both, by whether the id was ever one of a group. */
function isGroupNotFound(error: unknown): boolean {
  return (
    error instanceof Error &&
    (error.name === 'InvalidGroup.NotFound' || error.name === 'InvalidSecurityGroupID.NotFound')
  );
}

/** The records on the way to `workload`, with what is gone of their originals looked up again. */
async function withoutReturned(deps: Deps, on: Targeted): Promise<readonly InterfaceRecord[]> {
  const known = on.before?.interfaces ?? [];
  const gone = known.flatMap((record) => record.gone ?? []);
  if (on.target.kind !== 'originals' || gone.length === 0) return known;
  const missing = new Set(await missingGroups(deps.ec2, gone));
  return known.map(({ gone: before, ...record }) => {
    const still = (before ?? []).filter((id) => missing.has(id));
    return still.length > 0 ? { ...record, gone: still } : record;
  });
}

/**
 * In observe mode no interface is taken, so none has originals that it did not have before; and one that
 * somebody gave its groups back by hand has none any more, or the next `enforce` would overwrite what was
 * set since.
 */
function notTaken(plan: IsolationPlan, on: Targeted): readonly InterfaceRecord[] {
  const known = new Map(on.before?.interfaces.map((record) => [record.id, record.originals]));
  return plan.records.map((record) => ({
    ...record,
    originals: record.groups.some((group) => on.target.isOwn(group)) ? (known.get(record.id) ?? null) : null,
  }));
}

/** Whether another look may show more of what was changed. */
export function isUnsettled(started: Started, readBack: readonly ObservedInterface[]): boolean {
  const { failures, gone, plan, target, item, named } = started;
  if (started.mode !== 'enforce' || failures.length > 0 || gone.size > 0 || plan.left.length > 0)
    return false;
  return !settleIsolation(target, item.interfaces, readBack, named).applied;
}

/** Stores what was read back. */
export async function settle(
  deps: Deps,
  started: Started,
  readBack: readonly ObservedInterface[],
  changed: { readonly steps?: readonly ContainmentStep[]; readonly reasons?: readonly string[] } = {},
): Promise<IsolationItem> {
  const { item, gone } = started;
  if (started.mode !== 'enforce') return item;
  const planned = item.interfaces.map((record) => {
    const missing = gone.get(record.id);
    return missing ? { ...record, gone: [...missing] } : record;
  });
  const { records, applied } = settleIsolation(started.target, planned, readBack, started.named);
  const steps = (changed.steps ?? item.steps).map((step) =>
    step.kind === 'standby' && started.stoodBy ? { ...step, state: started.stoodBy } : step,
  );
  const reasons = [
    ...item.reasons,
    ...(gone.size > 0 ? ['ORIGINAL_GROUP_GONE'] : []),
    ...(item.profile === 'quarantine' ? stepReasons(steps) : []),
    ...(changed.reasons ?? []),
  ];
  const next = nextIsolation(
    item,
    {
      ...item,
      applied,
      interfaces: records,
      reasons: [...new Set(reasons)],
      steps,
    },
    deps.now(),
  );
  return store(deps, item, next);
}

/** Writes an item where something of it changed. */
export async function store(
  deps: Pick<Deps, 'table'>,
  before: IsolationItem | undefined,
  next: Omit<IsolationItem, 'pk' | 'version'>,
): Promise<IsolationItem> {
  if (next === before) return before;
  return putVersioned(deps.table, `isolation#${next.instanceId}`, before?.version, next);
}

export function differs(item: IsolationItem, before: IsolationItem | undefined): boolean {
  return before === undefined || isolationEssence(item) !== isolationEssence(before);
}
