import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { EC2Client } from '@aws-sdk/client-ec2';
import { type Hints, hintsOf } from '../../lib/domain/hints.ts';
import { type OperatorItem, operatorItem } from '../../lib/domain/operator.ts';
import { nextVm, type Observation, type ScopeDecision, type VmItem, vmItem } from '../../lib/domain/vm.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import { getKinds, putVersioned, type Table } from '../aws/dynamodb.ts';
import { instancesOfInterfaces, instancesOfVolumes, observeVms } from '../aws/ec2.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { awaitedLater, createQueueHandler, oncePerVm, type QueueDeps, type Work } from '../queue-function.ts';

export interface Deps extends QueueDeps {
  readonly ec2: EC2Client;
  readonly table: Table;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
  readonly region: string;
  readonly now: () => Date;
}

/** Looks at the VMs that events hint at, stores what EC2 shows of them, and says which ones changed. */
export function createHandler(deps: Deps) {
  return createQueueHandler(deps, {
    name: 'observe-vm',
    parse: hintsOf,
    async run(work) {
      const users = await usersOfHinted(deps.ec2, work);
      const vmsOf = (hints: Hints): readonly string[] =>
        hints.instanceIds.length > 0 ? hints.instanceIds : users.ids;
      const ids = [...new Set(work.flatMap((item) => vmsOf(item.value)))];
      // Read before looking: whoever wrote after this has looked no earlier, and this write then fails.
      const items = await getKinds(deps.table, ids, { vm: vmItem, operator: operatorItem });
      const seen = await observeVms(deps.ec2, deps.region, ids);
      const outcomes = oncePerVm(work, vmsOf, (id, own) =>
        converge(deps, id, items.vm.get(keyOf(id)), seen.get(id), items.operator.get(`operator#${id}`), own),
      );
      // Messages that name their VM do not wait for the call that the others need.
      return outcomes.map((outcome, i) =>
        users.fault !== undefined && work[i]?.value.instanceIds.length === 0
          ? awaitedLater(Promise.reject(users.fault))
          : outcome,
      );
    },
  });
}

async function converge(
  deps: Deps,
  id: string,
  known: VmItem | undefined,
  observation: Observation | undefined,
  operator: OperatorItem | undefined,
  work: readonly Work<Hints>[],
): Promise<void> {
  const now = deps.now();
  const update = nextVm(
    known,
    observation
      ? { kind: 'seen', observation }
      : { kind: 'not-seen', bySweep: work.some((item) => item.value.sweep) },
    observation && decideScope(deps.policy, observation),
    now,
    operator,
  );
  // Store before announce: an announcement can be repeated, a look at what was announced and never stored
  // finds nothing.
  const vm =
    update.kind === 'write' ? await putVersioned(deps.table, keyOf(id), known?.version, update.item) : known;
  if (!vm) return;
  if (update.kind === 'unchanged' && !work.some((item) => item.redelivered || item.value.resync)) return;
  deps.metrics.addMetric('VmChanged', MetricUnit.Count, 1);
  await deps.announce({
    detailType: 'VM Changed',
    detail: {
      schemaVersion: 1,
      instanceId: id,
      at: now.toISOString(),
      state: vm.observation.state,
      managed: vm.managed,
      leavingScope: vm.leavingScope,
      gone: vm.gone,
    },
  });
}

function decideScope(policy: PolicyEngine, vm: Observation): ScopeDecision {
  const decision = policy.decide('Manage', vm, { type: 'Fleet', id: `${vm.accountId}/${vm.region}` }, {});
  return {
    inScope: decision.allowed,
    reasons: decision.reasons.map((code) => (code === 'NO_POLICY_PERMITS' ? 'NOT_IN_SCOPE' : code)),
    policies: decision.policies,
  };
}

/**
 * The VMs behind the messages that name none. A message that names a VM is about that VM; only one that
 * names a volume, an interface or a group alone costs a call to find its users.
 */
async function usersOfHinted(
  ec2: EC2Client,
  work: readonly Work<Hints>[],
): Promise<{ readonly ids: readonly string[]; readonly fault?: unknown }> {
  const indirect = work.map((item) => item.value).filter((hints) => hints.instanceIds.length === 0);
  try {
    const users = await Promise.all([
      instancesOfVolumes(
        ec2,
        indirect.flatMap((hints) => hints.volumeIds),
      ),
      instancesOfInterfaces(
        ec2,
        'network-interface-id',
        indirect.flatMap((hints) => hints.interfaceIds),
      ),
      instancesOfInterfaces(
        ec2,
        'group-id',
        indirect.flatMap((hints) => hints.groupIds),
      ),
    ]);
    return { ids: [...new Set(users.flat())] };
  } catch (fault) {
    return { ids: [], fault };
  }
}

function keyOf(instanceId: string): string {
  return `vm#${instanceId}`;
}
