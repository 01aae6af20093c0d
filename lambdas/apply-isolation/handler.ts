import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { EC2Client } from '@aws-sdk/client-ec2';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { operatorDecided, postureChanged, SOURCE } from '../../lib/domain/events.ts';
import {
  type CasemateGroups,
  decideProfile,
  type GroupsOf,
  type InterfaceRecord,
  type IsolationItem,
  type IsolationPlan,
  isolationItem,
  type Mode,
  nextIsolation,
  ownGroups,
  type Profile,
  type ProfileDecision,
  planIsolation,
  settleIsolation,
  type WorkloadGroups,
} from '../../lib/domain/isolation.ts';
import { type OperatorItem, operatorItem } from '../../lib/domain/operator.ts';
import { postureItem } from '../../lib/domain/posture.ts';
import { canonicalJson, type ObservedInterface, vmItem } from '../../lib/domain/vm.ts';
import { getItems, putVersioned, type Table } from '../aws/dynamodb.ts';
import {
  ensureGroups,
  findGroups,
  type GroupsByVpc,
  interfacesOf,
  missingGroups,
  type ProbationEgress,
  setInterfaceGroups,
} from '../aws/ec2.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { createQueueHandler, oncePerVm, type QueueDeps, type Work } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';

export interface Deps extends QueueDeps {
  readonly ec2: EC2Client;
  readonly table: Table;
  readonly announce: Announce;
  readonly mode: Mode;
  readonly probationEgress: ProbationEgress;
  readonly now: () => Date;
}

interface Occasion {
  readonly instanceId: string;
}

type Fence = Extract<ProfileDecision, { kind: 'fence' }>;

/** A VM on its way to its profile: what is recorded of it, and what is to be done. */
interface Fencing {
  readonly instanceId: string;
  readonly fence: Fence;
  readonly groupsOf: GroupsOf;
  readonly plan: IsolationPlan;
  readonly item: IsolationItem;
  /** As it was stored before this run. */
  readonly before: IsolationItem | undefined;
  readonly failures: readonly unknown[];
  /** What an operator named for interfaces whose originals cannot be given back. */
  readonly named: WorkloadGroups;
  /** Originals that EC2 no longer has, by interface. */
  readonly gone: ReadonlyMap<string, readonly string[]>;
}

/** Makes sure that every interface of a VM carries the groups of its isolation profile. */
export function createHandler(deps: Deps) {
  return createQueueHandler<Occasion>(deps, {
    name: 'apply-isolation',
    parse,
    async run(work) {
      const ids = [...new Set(work.map((item) => item.value.instanceId))];
      const keys = (kind: string) => ids.map((id) => `${kind}#${id}`);
      const [vms, postures, isolations, operators] = await Promise.all([
        getItems(deps.table, keys('vm'), vmItem),
        getItems(deps.table, keys('posture'), postureItem),
        getItems(deps.table, keys('isolation'), isolationItem),
        getItems(deps.table, keys('operator'), operatorItem),
      ]);
      const decided = await eachSettled(ids, (id) => {
        const vm = vms.get(`vm#${id}`);
        const facts = {
          posture: postures.get(`posture#${id}`),
          isolation: isolations.get(`isolation#${id}`),
          operator: operators.get(`operator#${id}`),
        };
        return vm && decideProfile({ vm, ...facts }, deps.now());
      });
      const fences = new Map<string, Fence>();
      for (const [id, result] of decided) {
        if (result.status === 'fulfilled' && result.value?.kind === 'fence') fences.set(id, result.value);
      }
      const interfaces = await interfacesOf(deps.ec2, [...fences.keys()]);
      const vpcs = [...new Set([...interfaces.values()].flat().map((eni) => eni.vpcId))];
      const groups = await groupsIn(deps, vpcs);

      const started = await eachSettled(fences.keys(), (id) =>
        start(deps, {
          instanceId: id,
          fence: fences.get(id),
          interfaces: interfaces.get(id) ?? [],
          groups,
          before: isolations.get(`isolation#${id}`),
          operator: operators.get(`operator#${id}`),
        }),
      );
      // One look serves all of the batch: what was changed is believed only when it was read back.
      const changed = [...started].flatMap(([, result]) =>
        result.status === 'fulfilled' &&
        result.value &&
        (result.value.plan.changes.length > 0 || result.value.item !== result.value.before)
          ? [result.value]
          : [],
      );
      const readBack = deps.mode === 'enforce' ? await readUntilSettled(deps.ec2, changed) : interfaces;
      return oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        async (id, items) => {
          const decision = decided.get(id);
          if (decision?.status === 'rejected') throw decision.reason;
          const result = started.get(id);
          if (!result) return;
          if (result.status === 'rejected') throw result.reason;
          if (result.value)
            await finish(deps, result.value, readBack.get(id) ?? interfaces.get(id) ?? [], items);
        },
      );
    },
  });
}

function parse(event: Envelope): Parsed<Occasion> {
  if (event.source === SOURCE && event['detail-type'] === 'Posture Changed')
    return parseDetail(event, postureChanged);
  if (event.source === SOURCE && event['detail-type'] === 'Operator Decided')
    return parseDetail(event, operatorDecided);
  return parseVmChanged(event);
}

/** In observe mode nothing is made, so groups that do not exist yet stand in the plan by their names. */
async function groupsIn(deps: Deps, vpcIds: readonly string[]): Promise<GroupsByVpc> {
  if (deps.mode === 'enforce')
    return ensureGroups(deps.ec2, vpcIds, deps.probationEgress, (fault) => {
      deps.logger.error('probation is closed too far', { fault });
    });
  return findGroups(deps.ec2, vpcIds);
}

/** Records what is about to be done, then does it. Undefined when the VM has no interface. */
async function start(
  deps: Deps,
  vm: {
    readonly instanceId: string;
    readonly fence: Fence | undefined;
    readonly interfaces: readonly ObservedInterface[];
    readonly groups: GroupsByVpc;
    readonly before: IsolationItem | undefined;
    readonly operator: OperatorItem | undefined;
  },
): Promise<Fencing | undefined> {
  const { instanceId, fence, interfaces, before } = vm;
  if (!fence || interfaces.length === 0) return undefined;
  const failures: unknown[] = [];
  const groupsOf = knownGroups(interfaces, vm.groups, failures);
  const named = vm.operator?.workloadGroups ?? {};
  const known = await withoutReturned(deps, fence.profile, before?.interfaces ?? []);
  const plan = planIsolation(fence.profile, interfaces, known, groupsOf, named);
  const planned = nextIsolation(before, {
    instanceId,
    profile: fence.profile,
    reasons: [...fence.reasons, ...plan.left.map((l) => l.reason)],
    mode: deps.mode,
    now: deps.now(),
    applied: isWhole(plan) && (before?.applied ?? false),
    interfaces:
      deps.mode === 'enforce' ? plan.records : notTaken(plan, before, ownGroups(interfaces, groupsOf)),
  });
  // Record before change: originals that were not stored before the swap are lost with a crash after it.
  // The condition on the version also makes the second of two workers look again.
  const item =
    planned === before
      ? before
      : await putVersioned(deps.table, `isolation#${instanceId}`, before?.version, planned);
  const gone = new Map<string, readonly string[]>();
  if (deps.mode === 'enforce') {
    // Every interface is tried: one that fails must not leave the others open.
    const outcomes = await Promise.allSettled(
      plan.changes.map((change) => setInterfaceGroups(deps.ec2, change.interfaceId, change.groups)),
    );
    for (const [i, outcome] of outcomes.entries()) {
      const change = plan.changes[i];
      if (outcome.status !== 'rejected' || !change) continue;
      const missing = isGroupNotFound(outcome.reason) ? await missingGroups(deps.ec2, change.groups) : [];
      // Trying again gives back no group that was deleted: it is recorded, and an operator has to say.
      if (missing.length > 0) gone.set(change.interfaceId, missing);
      else failures.push(outcome.reason);
    }
  }
  return { instanceId, fence, groupsOf, named, plan, item, before, failures, gone };
}

/** EC2 says both, by whether the id was ever one of a group. */
function isGroupNotFound(error: unknown): boolean {
  return (
    error instanceof Error &&
    (error.name === 'InvalidGroup.NotFound' || error.name === 'InvalidSecurityGroupID.NotFound')
  );
}

/** The records on the way to `workload`, with what is gone of their originals looked up again. */
async function withoutReturned(
  deps: Deps,
  profile: Profile,
  known: readonly InterfaceRecord[],
): Promise<readonly InterfaceRecord[]> {
  const gone = known.flatMap((record) => record.gone ?? []);
  if (profile !== 'workload' || gone.length === 0) return known;
  const missing = new Set(await missingGroups(deps.ec2, gone));
  return known.map(({ gone: before, ...record }) => {
    const still = (before ?? []).filter((id) => missing.has(id));
    return still.length > 0 ? { ...record, gone: still } : record;
  });
}

/** Nothing is to be changed, and nothing that Casemate may change is left as it should not be. */
function isWhole(plan: IsolationPlan): boolean {
  return plan.changes.length === 0 && plan.left.every((left) => left.reason === 'REQUESTER_MANAGED');
}

/** The groups of each VPC of a VM. A VPC where they could not be made fails its own interfaces alone. */
function knownGroups(
  interfaces: readonly ObservedInterface[],
  groupsByVpc: GroupsByVpc,
  failures: unknown[],
): GroupsOf {
  const groups = new Map<string, CasemateGroups | undefined>();
  for (const vpcId of new Set(interfaces.map((eni) => eni.vpcId))) {
    try {
      groups.set(vpcId, groupsByVpc.get(vpcId));
    } catch (fault) {
      failures.push(fault); // thrown once everything that can be done is done
    }
  }
  return (vpcId) => groups.get(vpcId);
}

const READ_BACK_WAITS_MS = [300, 900];

/** EC2 may answer with what was before the change: it is asked again shortly before that is believed. */
async function readUntilSettled(
  ec2: EC2Client,
  fencings: readonly Fencing[],
): Promise<ReadonlyMap<string, readonly ObservedInterface[]>> {
  const ids = fencings.map((fencing) => fencing.instanceId);
  let readBack = await interfacesOf(ec2, ids);
  for (const waitMs of READ_BACK_WAITS_MS) {
    const unsettled = fencings.some(
      ({ instanceId, fence, item, groupsOf, named, failures, gone, plan }) =>
        failures.length === 0 &&
        gone.size === 0 &&
        plan.left.length === 0 &&
        !settleIsolation(fence.profile, item.interfaces, readBack.get(instanceId) ?? [], groupsOf, named)
          .applied,
    );
    if (!unsettled) break;
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    readBack = await interfacesOf(ec2, ids);
  }
  return readBack;
}

/**
 * In observe mode no interface is taken, so none has originals that it did not have before; and one that
 * somebody gave its groups back by hand has none any more, or the next `enforce` would overwrite what was
 * set since.
 */
function notTaken(
  plan: IsolationPlan,
  before: IsolationItem | undefined,
  own: ReadonlySet<string>,
): IsolationPlan['records'] {
  const known = new Map(before?.interfaces.map((record) => [record.id, record.originals]));
  return plan.records.map((record) => ({
    ...record,
    originals: record.groups.some((group) => own.has(group)) ? (known.get(record.id) ?? null) : null,
  }));
}

/** Stores what was read back, says so, and returns the message when an interface could not be changed. */
async function finish(
  deps: Deps,
  fencing: Fencing,
  readBack: readonly ObservedInterface[],
  work: readonly Work<Occasion>[],
): Promise<void> {
  const { instanceId, fence, item, before } = fencing;
  let settled = item;
  if (deps.mode === 'enforce') {
    const planned = item.interfaces.map((record) => {
      const gone = fencing.gone.get(record.id);
      return gone ? { ...record, gone: [...gone] } : record;
    });
    const { records, applied } = settleIsolation(
      fence.profile,
      planned,
      readBack,
      fencing.groupsOf,
      fencing.named,
    );
    const next = nextIsolation(item, {
      instanceId,
      profile: fence.profile,
      reasons: [
        ...item.reasons,
        ...(fencing.gone.size > 0 && !item.reasons.includes('ORIGINAL_GROUP_GONE')
          ? ['ORIGINAL_GROUP_GONE']
          : []),
      ],
      mode: deps.mode,
      now: deps.now(),
      applied,
      interfaces: records,
    });
    if (next !== item)
      settled = await putVersioned(deps.table, `isolation#${instanceId}`, item.version, next);
  }
  if (essence(settled) !== essence(before) || work.some((w) => w.redelivered)) {
    deps.metrics.addMetric('IsolationChanged', MetricUnit.Count, 1);
    await deps.announce({
      detailType: 'Isolation Changed',
      detail: {
        schemaVersion: 1,
        instanceId,
        at: deps.now().toISOString(),
        profile: settled.profile,
        applied: settled.applied,
        mode: settled.mode,
        interfaces: settled.interfaces.map(({ id, groups }) => ({ id, groups })),
        reasons: settled.reasons,
      },
    });
  }
  if (fencing.failures.length > 0) throw fencing.failures[0];
}

function essence(item: IsolationItem | undefined): string {
  return item ? canonicalJson([item.profile, item.applied, item.mode, item.interfaces, item.reasons]) : '';
}

/** Runs for each key, and gives each its own outcome, also when it throws. */
async function eachSettled<R>(
  keys: Iterable<string>,
  run: (key: string) => R | Promise<R>,
): Promise<ReadonlyMap<string, PromiseSettledResult<R>>> {
  const all = [...keys];
  const results = await Promise.allSettled(all.map(async (key) => run(key)));
  return new Map(all.map((key, i) => [key, results[i] as PromiseSettledResult<R>]));
}
