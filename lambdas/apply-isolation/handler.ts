import { MetricUnit } from '@aws-lambda-powertools/metrics';
import * as z from 'zod';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { operatorDecided, postureChanged, SOURCE } from '../../lib/domain/events.ts';
import { modeFor } from '../../lib/domain/guard.ts';
import { instanceId } from '../../lib/domain/ids.ts';
import {
  DRIFT_REASONS,
  decideProfile,
  type IsolationItem,
  isolationItem,
} from '../../lib/domain/isolation.ts';
import { operatorItem } from '../../lib/domain/operator.ts';
import { postureItem } from '../../lib/domain/posture.ts';
import { CUT_GROUP, type GroupSpec, tenantOf } from '../../lib/domain/profiles.ts';
import { type Limits, limitsInForce, QUOTA_PK } from '../../lib/domain/quotas.ts';
import { type ObservedInterface, vmItem } from '../../lib/domain/vm.ts';
import { getTogether, kindsOf, readTogether, VersionConflictError } from '../aws/dynamodb.ts';
import { interfacesOf } from '../aws/ec2.ts';
import { ensureGroups, findGroups, type OwnGroups, removeUnused } from '../aws/security-groups.ts';
import { createQueueHandler, oncePerVm, type Work } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';
import { beyondGroups, REDRIVE_DETAIL_TYPE, REDRIVE_SOURCE } from './beyond-groups.ts';
import type { Deps, Run } from './deps.ts';
import {
  commonSpecs,
  differs,
  type Fencing,
  isUnsettled,
  planOf,
  type Started,
  settle,
  specsOf,
  start,
  type Targeted,
  targeted,
} from './fencing.ts';
import { holdBack } from './hold-back.ts';

export type { Deps } from './deps.ts';

interface Occasion {
  readonly instanceId: string;
}

/** Makes sure that every interface of a VM carries the groups of its isolation profile. */
export function createHandler(deps: Deps) {
  const tidied = new Map<string, number>();
  return createQueueHandler<Occasion>(deps, {
    name: 'apply-isolation',
    parse,
    async run(work) {
      const ids = [...new Set(work.map((item) => item.value.instanceId))];
      const failed = new Map<string, unknown>();
      const { fencings, limits } = await decideAll(deps, ids, failed);
      const on: Run = { ...deps, limits };
      for (const [id, reason] of await holdBack(deps, fencings)) {
        failed.set(id, reason);
        fencings.delete(id);
      }
      const interfaces = new Map(await interfacesOf(deps.ec2, [...fencings.keys()]));
      const groups = await groupsFor(on, fencings, interfaces);
      const targets = new Map<string, Targeted>();
      for (const [id, fencing] of fencings) {
        const own = interfaces.get(id) ?? [];
        if (own.length > 0) targets.set(id, targeted(on, fencing, own, groups));
      }
      // EC2 may answer with what was before: what looks like somebody else's change is looked at twice.
      const drifted = [...targets].filter(([id, on]) => {
        return on.mode === 'enforce' && planOf(deps, on, interfaces.get(id) ?? []).drift.length > 0;
      });
      if (drifted.length > 0) {
        const again = await interfacesOf(
          deps.ec2,
          drifted.map(([id]) => id),
        );
        for (const [id, seen] of again) interfaces.set(id, seen);
      }
      const cutGroups = new Set(
        groups.all.filter((group) => group.name === CUT_GROUP.name).map((group) => group.groupId),
      );
      const started = await eachSettled(targets, (id, on) =>
        start(deps, on, interfaces.get(id) ?? [], cutGroups),
      );
      // One look serves all of the batch: what was changed is believed only when it was read back.
      const changed = [...started.values()].flatMap((result) =>
        result.status === 'fulfilled' && isChanged(result.value) ? [result.value] : [],
      );
      const readBack = await readUntilSettled(deps, changed);
      const outcomes = oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        async (id, items) => {
          if (failed.has(id)) throw failed.get(id);
          const result = started.get(id);
          if (!result) return;
          if (result.status === 'rejected') throw result.reason;
          await finish(deps, result.value, readBack.get(id) ?? interfaces.get(id) ?? [], groups, items);
        },
      );
      await Promise.allSettled(outcomes);
      await tidy(on, tidied, fencings, groups);
      return outcomes;
    },
  });
}

const lookAgain = z.strictObject({ instanceId });

function parse(event: Envelope): Parsed<Occasion> {
  const { source } = event;
  const type = event['detail-type'];
  if (source === REDRIVE_SOURCE && type === REDRIVE_DETAIL_TYPE) return parseDetail(event, lookAgain);
  if (source === SOURCE && type === 'Posture Changed') return parseDetail(event, postureChanged);
  if (source === SOURCE && type === 'Operator Decided') return parseDetail(event, operatorDecided);
  return parseVmChanged(event);
}

/** What says where a VM belongs. */
const DECIDED_BY = ['vm', 'posture', 'operator'];
const KINDS = { vm: vmItem, posture: postureItem, isolation: isolationItem, operator: operatorItem };

/** Where each VM belongs, and what groups are composed under. A VM whose items cannot be read fails alone. */
async function decideAll(
  deps: Deps,
  ids: readonly string[],
  failed: Map<string, unknown>,
): Promise<{ readonly fencings: Map<string, Fencing>; readonly limits: Limits }> {
  // Service Quotas itself is not asked: refresh-quotas did, and containing must not hang on it.
  let kept: unknown;
  // The isolation item is not among the keys: it is written on the condition of its version.
  const { items, moved } = await readTogether(
    deps.table,
    DECIDED_BY.flatMap((kind) => ids.map((id) => `${kind}#${id}`)),
    async () => {
      const quotas = { keys: [QUOTA_PK], schema: z.unknown() };
      const { quota, ...decisive } = await getTogether(deps.table, { ...kindsOf(ids, KINDS), quota: quotas });
      kept = quota.get(QUOTA_PK);
      return decisive;
    },
  );
  const fencings = new Map<string, Fencing>();
  for (const id of ids) {
    try {
      const vm = items.vm.get(`vm#${id}`);
      if (!vm) continue;
      const isolation = items.isolation.get(`isolation#${id}`);
      const operator = items.operator.get(`operator#${id}`);
      const posture = items.posture.get(`posture#${id}`);
      const written = DECIDED_BY.map((kind) => `${kind}#${id}`).find((pk) => moved.has(pk));
      if (written) throw new VersionConflictError(written);
      const fence = decideProfile({ vm, posture, operator, isolation }, deps.now());
      if (fence.kind === 'leave-alone') continue;
      const { tenant, changed } = tenantOf(vm.observation.tags, isolation?.tenant, operator?.tenant?.tenant);
      const mode = modeFor(deps.enforcement, { instanceId: id, by: fence.by, isolation });
      fencings.set(id, { vm, fence, mode, tenant, tenantChanged: changed, operator, before: isolation });
    } catch (error) {
      failed.set(id, error);
    }
  }
  return { fencings, limits: limitsInForce(deps.profiles.limits, kept, deps.now()) };
}

/** Makes the groups that VMs need where they are enforced. Where all are observed, nothing is made. */
async function groupsFor(
  run: Run,
  fencings: ReadonlyMap<string, Fencing>,
  interfaces: ReadonlyMap<string, readonly ObservedInterface[]>,
): Promise<OwnGroups> {
  const wanted = new Map<string, Map<string, GroupSpec>>();
  const observed = new Set<string>();
  for (const [id, fencing] of fencings) {
    for (const { vpcId } of interfaces.get(id) ?? []) {
      if (fencing.mode === 'observe') {
        observed.add(vpcId);
        continue;
      }
      const specs = wanted.get(vpcId) ?? new Map<string, GroupSpec>();
      for (const spec of [...commonSpecs(run), ...specsOf(run, fencing).groups]) specs.set(spec.name, spec);
      wanted.set(vpcId, specs);
    }
  }
  const looked = [...observed].filter((vpcId) => !wanted.has(vpcId));
  if (wanted.size === 0) return findGroups(run.ec2, looked);
  const [made, found] = await Promise.all([
    ensureGroups(
      run.ec2,
      new Map([...wanted].map(([vpcId, specs]) => [vpcId, [...specs.values()]])),
      (fault) => run.logger.error('a group is closed too far', { fault }),
    ),
    looked.length > 0 ? findGroups(run.ec2, looked) : undefined,
  ]);
  if (!found) return made;
  return {
    all: [...made.all, ...found.all],
    idOf: (vpcId, name) => (wanted.has(vpcId) ? made.idOf(vpcId, name) : found.idOf(vpcId, name)),
    isOwn: (groupId) => made.isOwn(groupId) || found.isOwn(groupId),
  };
}

function isChanged(started: Started): boolean {
  return started.mode === 'enforce' && (started.plan.changes.length > 0 || started.item !== started.before);
}

const READ_BACK_WAITS_MS = [300, 900];

/** EC2 may answer with what was before the change: it is asked again shortly before that is believed. */
async function readUntilSettled(
  deps: Deps,
  changed: readonly Started[],
): Promise<ReadonlyMap<string, readonly ObservedInterface[]>> {
  const ids = changed.map((started) => started.vm.observation.instanceId);
  let readBack = await interfacesOf(deps.ec2, ids);
  for (const waitMs of READ_BACK_WAITS_MS) {
    const unsettled = changed.some((started) =>
      isUnsettled(started, readBack.get(started.vm.observation.instanceId) ?? []),
    );
    if (!unsettled) break;
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    readBack = await interfacesOf(deps.ec2, ids);
  }
  return readBack;
}

/** Stores what was read back, says so, and returns the message when an interface could not be changed. */
async function finish(
  deps: Deps,
  started: Started,
  readBack: readonly ObservedInterface[],
  groups: OwnGroups,
  work: readonly Work<Occasion>[],
): Promise<void> {
  const settled = await settle(deps, started, readBack);
  const item = await beyondGroups(deps, started, settled, readBack, groups);
  if (differs(item, started.before) || work.some((w) => w.redelivered)) await announce(deps, started, item);
  if (started.failures.length > 0) throw started.failures[0];
}

async function announce(deps: Deps, started: Started, item: IsolationItem): Promise<void> {
  deps.metrics.addMetric('IsolationChanged', MetricUnit.Count, 1);
  const drift = new Set(started.plan.drift.map(({ action }) => action));
  if (item.reasons.includes('DRIFT_FOUGHT')) deps.metrics.addMetric('DriftFought', MetricUnit.Count, 1);
  await deps.announce({
    detailType: 'Isolation Changed',
    detail: {
      schemaVersion: 1,
      instanceId: item.instanceId,
      at: deps.now().toISOString(),
      profile: item.profile,
      applied: item.applied,
      mode: item.mode,
      interfaces: item.interfaces.map(({ id, groups }) => ({ id, groups })),
      reasons: [...new Set([...item.reasons, ...[...drift].map((action) => DRIFT_REASONS[action])])],
    },
  });
}

const TIDY_EVERY_MS = 10 * 60 * 1000;

/** Removes groups of VPCs that no profile of a VM here needs and no interface carries, now and then. */
async function tidy(
  run: Run,
  tidied: Map<string, number>,
  fencings: ReadonlyMap<string, Fencing>,
  groups: OwnGroups,
): Promise<void> {
  const now = run.now().getTime();
  const enforced = [...fencings.values()].filter((fencing) => fencing.mode === 'enforce');
  const kept = new Set(
    [...commonSpecs(run), ...enforced.flatMap((fencing) => specsOf(run, fencing).groups)].map((s) => s.name),
  );
  const due = new Set(
    enforced
      .flatMap((fencing) => fencing.vm.observation.vpcId ?? [])
      .filter((vpcId) => now - (tidied.get(vpcId) ?? 0) >= TIDY_EVERY_MS),
  );
  const spare = groups.all.filter((group) => due.has(group.vpcId) && !kept.has(group.name));
  for (const vpcId of due) tidied.set(vpcId, now);
  if (spare.length === 0) return;
  try {
    const removed = await removeUnused(
      run.ec2,
      spare.map((group) => group.groupId),
    );
    if (removed.length > 0) run.logger.info('removed groups that nothing carries', { groupIds: removed });
  } catch (error) {
    // The VMs are where they belong; the next time is soon enough.
    run.logger.warn('could not remove groups that nothing carries', { error: error as Error });
  }
}

/** Runs for each entry, and gives each its own outcome, also when it throws. */
async function eachSettled<V, R>(
  entries: ReadonlyMap<string, V>,
  run: (key: string, value: V) => Promise<R>,
): Promise<ReadonlyMap<string, PromiseSettledResult<R>>> {
  const all = [...entries];
  const results = await Promise.allSettled(all.map(async ([key, value]) => run(key, value)));
  return new Map(all.map(([key], i) => [key, results[i] as PromiseSettledResult<R>]));
}
