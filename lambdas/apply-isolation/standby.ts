import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { StandbyStep } from '../../lib/domain/containment.ts';
import { admit, guardItem } from '../../lib/domain/guard.ts';
import type { IsolationItem } from '../../lib/domain/isolation.ts';
import { enterStandby, exitStandby } from '../aws/auto-scaling.ts';
import { getItems, putVersioned } from '../aws/dynamodb.ts';
import type { Deps } from './deps.ts';
import type { Fencing } from './fencing.ts';

/** Containment waits no longer than this for the group to be told. */
const STANDBY_TIMEOUT_MS = 2000;

const REPLACEMENT_WINDOW_SECONDS = 3600;

/**
 * The step that is to be recorded before a VM of an Auto Scaling group is contained; undefined when there is none.
 * Whether the group may start another in its place is up to a breaker: a bad image would otherwise be launched and
 * contained for ever. Without an answer of the table there is no replacement, and containment goes on.
 */
export async function planStandby(deps: Deps, fencing: Fencing): Promise<StandbyStep | undefined> {
  const { autoScalingGroup, instanceId } = fencing.vm.observation;
  const known = fencing.before?.steps.find((step) => step.kind === 'standby');
  const wanted = fencing.mode === 'enforce' && fencing.fence.profile === 'quarantine';
  if (!deps.autoScaling || autoScalingGroup === null || !wanted) return undefined;
  if (known) return known;
  const at = deps.now().toISOString();
  const replaced = await mayBeReplaced(deps, autoScalingGroup, instanceId).catch((error: unknown) => {
    deps.logger.warn('the breaker on replacements cannot be asked', { instanceId, error: error as Error });
    return false;
  });
  if (!replaced) deps.metrics.addMetric('ReplacementsHalted', MetricUnit.Count, 1);
  return { kind: 'standby', autoScalingGroup, replaced, state: 'planned', at };
}

async function mayBeReplaced(deps: Deps, group: string, instanceId: string): Promise<boolean> {
  const scope = `replacements/${group}`;
  const pk = `guard#${scope}`;
  const before = (await getItems(deps.table, [pk], guardItem)).get(pk);
  const breaker = {
    share: Number.MIN_VALUE,
    minimum: deps.replacementsPerHour,
    windowSeconds: REPLACEMENT_WINDOW_SECONDS,
    protected: { instanceIds: [], autoScalingGroups: [] },
  };
  const admission = admit(
    { instanceId, scopes: [scope] },
    new Map([[scope, before]]),
    () => 0,
    breaker,
    deps.now(),
  );
  const next = admission.next.get(scope);
  if (next) await putVersioned(deps.table, pk, before?.version, next);
  return admission.admitted;
}

/** Tells the group. That it cannot be told is recorded and said, and keeps no VM from being contained. */
export async function standBy(
  deps: Deps,
  step: StandbyStep | undefined,
  instanceId: string,
): Promise<StandbyStep['state'] | undefined> {
  if (!deps.autoScaling || step?.state !== 'planned') return step?.state;
  const member = { autoScalingGroup: step.autoScalingGroup, instanceId };
  try {
    await enterStandby(deps.autoScaling, member, step.replaced, AbortSignal.timeout(STANDBY_TIMEOUT_MS));
    return 'done';
  } catch (error) {
    deps.logger.warn('the VM could not be put into standby', { instanceId, error: error as Error });
    return 'failed';
  }
}

/**
 * Has the group count on a VM again whose groups were given back.
 *
 * @returns whether the step can be forgotten
 */
export async function standDown(deps: Deps, item: IsolationItem): Promise<boolean> {
  const step = item.steps.find((one) => one.kind === 'standby');
  if (!step || !deps.autoScaling) return false;
  if (item.profile === 'quarantine' || !item.applied) return false;
  const { instanceId } = item;
  try {
    await exitStandby(deps.autoScaling, { autoScalingGroup: step.autoScalingGroup, instanceId });
    return true;
  } catch (error) {
    // The VM is back in its groups; the sweep has another look.
    deps.logger.warn('the VM could not be taken out of standby', { instanceId, error: error as Error });
    return false;
  }
}
