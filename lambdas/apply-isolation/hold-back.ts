import { MetricUnit } from '@aws-lambda-powertools/metrics';
import {
  admit,
  type GuardItem,
  type GuardState,
  guardItem,
  guardScopes,
  heldBack,
  isContainment,
  isProtected,
  needsPopulation,
} from '../../lib/domain/guard.ts';
import { getItems, putVersioned } from '../aws/dynamodb.ts';
import { countVms } from '../aws/ec2.ts';
import type { Deps } from './deps.ts';
import type { Fencing } from './fencing.ts';

/**
 * Holds back what policy may not contain: protected VMs, and more of a VPC, an Auto Scaling group or a tenant than
 * the guards allow. Operators are never held back, and neither is a refused key: that is another function.
 *
 * What was admitted is stored before anything is done. Two workers that admit at once conflict on the version, and
 * the second counts again.
 *
 * @returns the VMs whose admission could not be stored, with the reason
 */
export async function holdBack(deps: Deps, fencings: Map<string, Fencing>): Promise<Map<string, unknown>> {
  const failed = new Map<string, unknown>();
  const containments: Fencing[] = [];
  for (const [id, fencing] of fencings) {
    const { fence, before, vm } = fencing;
    if (fencing.mode !== 'enforce' || fence.by === 'operator') continue;
    if (fence.profile !== 'workload' && isProtected(vm.observation, deps.guards)) {
      fencings.set(id, { ...fencing, fence: heldBack(fence, before, 'PROTECTED_FROM_POLICY') });
    } else if (isContainment(fence, before)) containments.push(fencing);
  }
  if (containments.length === 0) return failed;

  const scopesOf = (fencing: Fencing) => guardScopes(fencing.vm.observation, fencing.tenant);
  const scopes = [...new Set(containments.flatMap(scopesOf))];
  const stored = await getItems(
    deps.table,
    scopes.map((scope) => `guard#${scope}`),
    guardItem,
  );
  const before = new Map<string, GuardItem | undefined>(
    scopes.map((scope) => [scope, stored.get(`guard#${scope}`)]),
  );
  const populations = await countWhereNeeded(deps, before, containments.length);
  const states = new Map<string, GuardState | undefined>(before);
  const admittedIn = new Map<string, string[]>();
  for (const fencing of containments) {
    const id = fencing.vm.observation.instanceId;
    const admission = admit(
      { instanceId: id, scopes: scopesOf(fencing) },
      states,
      (scope) => populations.get(scope) ?? 0,
      deps.guards,
      deps.now(),
    );
    for (const [scope, state] of admission.next) states.set(scope, state);
    if (admission.admitted) {
      for (const scope of scopesOf(fencing)) admittedIn.set(scope, [...(admittedIn.get(scope) ?? []), id]);
      continue;
    }
    deps.logger.error('a guard is reached: policy contains no more', {
      instanceId: id,
      scopes: admission.reached,
    });
    deps.metrics.addMetric('GuardReached', MetricUnit.Count, 1);
    fencings.set(id, { ...fencing, fence: heldBack(fencing.fence, fencing.before, 'GUARD_REACHED') });
  }
  await Promise.all(
    scopes.map(async (scope) => {
      const state = states.get(scope);
      if (!state || state === before.get(scope)) return;
      try {
        await putVersioned(deps.table, `guard#${scope}`, before.get(scope)?.version, state);
      } catch (error) {
        for (const id of admittedIn.get(scope) ?? []) failed.set(id, error);
      }
    }),
  );
  return failed;
}

/** Counting costs calls: only where the minimum may be used up by this batch. */
async function countWhereNeeded(
  deps: Deps,
  states: ReadonlyMap<string, GuardItem | undefined>,
  more: number,
): Promise<ReadonlyMap<string, number>> {
  const scopes = [...states].filter(([, state]) => needsPopulation(state, more, deps.guards, deps.now()));
  const counts = await Promise.all(
    scopes.map(async ([scope]) => [scope, await countVms(deps.ec2, scope)] as const),
  );
  return new Map(counts);
}
