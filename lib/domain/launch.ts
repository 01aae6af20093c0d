import * as z from 'zod';
import { instanceId } from './ids.ts';
import type { IsolationItem } from './isolation.ts';
import type { VmItem } from './vm.ts';

/** The launch hook that holds VMs back; lib/constructs/fenced-launch.ts makes it under this name. */
export const LAUNCH_HOOK = 'casemate-probation';

/** https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html, launch */
export const launchAction = z.looseObject({
  EC2InstanceId: instanceId,
  AutoScalingGroupName: z.string(),
  LifecycleHookName: z.string(),
});

export type LaunchDecision =
  | { readonly kind: 'continue'; readonly autoScalingGroup: string }
  | {
      readonly kind: 'wait';
      readonly reason: 'NOT_OBSERVED' | 'NOT_IN_A_GROUP' | 'NOT_FENCED_YET' | 'IN_PROBATION' | 'NOT_APPLIED';
    };

/**
 * Whether a VM that its Auto Scaling group holds in `Pending:Wait` may go into service: once it was given its
 * groups, or where Casemate holds nothing back. One that does not prove itself waits until the hook gives it up.
 */
export function decideLaunch(vm: VmItem | undefined, isolation: IsolationItem | undefined): LaunchDecision {
  if (!vm) return { kind: 'wait', reason: 'NOT_OBSERVED' };
  const { autoScalingGroup } = vm.observation;
  if (autoScalingGroup === null) return { kind: 'wait', reason: 'NOT_IN_A_GROUP' };
  if (!vm.managed) return { kind: 'continue', autoScalingGroup };
  if (!isolation) return { kind: 'wait', reason: 'NOT_FENCED_YET' };
  if (isolation.mode === 'observe') return { kind: 'continue', autoScalingGroup };
  if (isolation.profile !== 'workload') return { kind: 'wait', reason: 'IN_PROBATION' };
  return isolation.applied ? { kind: 'continue', autoScalingGroup } : { kind: 'wait', reason: 'NOT_APPLIED' };
}
