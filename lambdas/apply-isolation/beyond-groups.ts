import {
  type ContainmentStep,
  cutsDone,
  isStepReason,
  planAddresses,
  planCuts,
  stepReasons,
} from '../../lib/domain/containment.ts';
import { type IsolationItem, nextIsolation } from '../../lib/domain/isolation.ts';
import { CUT_GROUP } from '../../lib/domain/profiles.ts';
import type { ObservedInterface } from '../../lib/domain/vm.ts';
import {
  associateAddress,
  disassociateAddress,
  elasticIps,
  interfacesOf,
  setInterfaceGroups,
} from '../aws/ec2.ts';
import type { OwnGroups } from '../aws/security-groups.ts';
import { sendLater } from '../aws/sqs.ts';
import type { Deps } from './deps.ts';
import { type Started, settle, store } from './fencing.ts';
import { standDown } from './standby.ts';

export const REDRIVE_SOURCE = 'casemate.isolation';
export const REDRIVE_DETAIL_TYPE = 'Look Again';

/** A message of a worker that died is seen again after minutes; an interface must not stand open so long. */
const REDRIVE_AFTER_SECONDS = 10;

/** EC2 applies a change of groups to flows within about a second; shorter, and nothing would be cut. */
const OPEN_FOR_MS = 1000;

/**
 * What containing a VM does beyond its groups, as far as it was asked for: Elastic IP addresses are taken and given
 * back, tracked flows are cut. The quarantine was read back before: deny first, always.
 *
 * @returns the item as it is stored then
 */
export async function beyondGroups(
  deps: Deps,
  started: Started,
  item: IsolationItem,
  readBack: readonly ObservedInterface[],
  groups: OwnGroups,
): Promise<IsolationItem> {
  if (started.mode !== 'enforce') return item;
  const { item: now, taken } = await addresses(deps, started, item, readBack);
  // Without its address an interface can be cut, which it would otherwise only be at the next look.
  const seen = taken && deps.cutTrackedFlows ? await lookAgain(deps, item.instanceId) : readBack;
  const cut = await cuts(deps, started, now, seen, groups);
  if (!(await standDown(deps, cut))) return cut;
  return storeSteps(
    deps,
    cut,
    cut.steps.filter((step) => step.kind !== 'standby'),
  );
}

async function addresses(
  deps: Deps,
  started: Started,
  item: IsolationItem,
  readBack: readonly ObservedInterface[],
): Promise<{ readonly item: IsolationItem; readonly taken: boolean }> {
  const known = item.steps.flatMap((step) => (step.kind === 'elastic-ip' ? [step] : []));
  const quarantined = item.profile === 'quarantine' && item.applied && deps.detachElasticIps;
  // Given back also when taking was turned off meanwhile, but only once the fence itself is where it belongs.
  if (!quarantined && (known.length === 0 || item.profile === 'quarantine' || !item.applied)) {
    return { item, taken: false };
  }
  const { instanceId } = item;
  const found = await elasticIps(deps.ec2, {
    instanceId,
    allocationIds: known.map((step) => step.allocationId),
  });
  const plan = planAddresses(
    item.profile,
    item.steps,
    found,
    // Where another service manages the interface, it manages the address, too.
    new Set(readBack.flatMap((eni) => (eni.managedBy === 'customer' ? [eni.id] : []))),
    deps.now(),
  );
  // Record before change: where an address belongs must not be lost with a crash after it was taken.
  const planned = plan.take.length > 0 ? await storeSteps(deps, item, plan.steps) : item;
  for (const { associationId } of plan.take) await disassociateAddress(deps.ec2, associationId);
  // Given back before it is forgotten; once more does no harm.
  for (const step of plan.give) await associateAddress(deps.ec2, step);
  const given = new Set(plan.give.map((step) => step.allocationId));
  const steps = plan.steps.flatMap((step): ContainmentStep[] => {
    if (step.kind !== 'elastic-ip') return [step];
    if (given.has(step.allocationId)) return [];
    return [item.profile === 'quarantine' ? { ...step, state: 'done' } : step];
  });
  const elsewhere = plan.elsewhere.length > 0 ? ['ADDRESS_ELSEWHERE'] : [];
  if (elsewhere.length > 0) {
    deps.logger.warn('an Elastic IP address is on another interface now', {
      instanceId: started.vm.observation.instanceId,
      allocationIds: plan.elsewhere,
    });
  }
  return { item: await storeSteps(deps, planned, steps, elsewhere), taken: plan.take.length > 0 };
}

async function cuts(
  deps: Deps,
  started: Started,
  item: IsolationItem,
  readBack: readonly ObservedInterface[],
  groups: OwnGroups,
): Promise<IsolationItem> {
  if (!deps.cutTrackedFlows || (item.profile === 'quarantine' && !item.applied)) return item;
  const plan = planCuts(item.profile, item.steps, readBack, started.stoodOpen, deps.now());
  const reasons = item.profile === 'quarantine' ? stepReasons(plan.steps) : [];
  if (plan.cut.length === 0) return storeSteps(deps, item, plan.steps, reasons);
  // From here until it was read back closed again, it is not contained.
  const planned = await store(
    deps,
    item,
    nextIsolation(item, { ...item, applied: false, steps: plan.steps }, deps.now()),
  );
  // Before it is opened: this worker may die over it.
  await sendLater(deps.sqs, deps.ownQueueUrl, redrive(item.instanceId), REDRIVE_AFTER_SECONDS);
  const byId = new Map(readBack.map((eni) => [eni.id, eni]));
  const opened = await Promise.allSettled(
    plan.cut.map(async (id) => {
      const vpcId = byId.get(id)?.vpcId ?? '';
      const open = groups.idOf(vpcId, CUT_GROUP.name);
      const closed = started.target.groupsIn(vpcId);
      if (!open || !closed) throw new RangeError(`${vpcId} has no group to cut with`);
      try {
        await setInterfaceGroups(deps.ec2, id, [open]);
        await new Promise((resolve) => setTimeout(resolve, OPEN_FOR_MS));
      } finally {
        // Also where opening failed: its answer may have been lost, and not its effect.
        await setInterfaceGroups(deps.ec2, id, closed);
      }
      return id;
    }),
  );
  const fault = opened.find((outcome) => outcome.status === 'rejected');
  if (fault) started.failures.push(fault.reason);
  const again = await lookAgain(deps, item.instanceId);
  const closed = opened.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  const isClosed = (id: string) => {
    const eni = again.find((one) => one.id === id);
    return eni !== undefined && !eni.groups.some((group) => group === groups.idOf(eni.vpcId, CUT_GROUP.name));
  };
  const steps = cutsDone(plan.steps, new Set(closed.filter(isClosed)), deps.now());
  return settle(deps, { ...started, item: planned }, again, { steps, reasons: stepReasons(steps) });
}

async function lookAgain(deps: Deps, instanceId: string): Promise<readonly ObservedInterface[]> {
  return (await interfacesOf(deps.ec2, [instanceId])).get(instanceId) ?? [];
}

function storeSteps(
  deps: Deps,
  item: IsolationItem,
  steps: readonly ContainmentStep[],
  reasons: readonly string[] = [],
): Promise<IsolationItem> {
  // What was said of a step goes with it: its interface may be gone.
  const left: readonly string[] = item.profile === 'quarantine' ? stepReasons(steps) : [];
  const still = item.reasons.filter((reason) => !isStepReason(reason) || left.includes(reason));
  const all = [...new Set([...still, ...reasons])];
  return store(deps, item, nextIsolation(item, { ...item, steps: [...steps], reasons: all }, deps.now()));
}

/** A message to this very function. */
function redrive(instanceId: string): string {
  return JSON.stringify({
    source: REDRIVE_SOURCE,
    'detail-type': REDRIVE_DETAIL_TYPE,
    detail: { instanceId },
  });
}
