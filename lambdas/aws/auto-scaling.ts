import {
  type AutoScalingClient,
  CompleteLifecycleActionCommand,
  EnterStandbyCommand,
  ExitStandbyCommand,
} from '@aws-sdk/client-auto-scaling';

/** Where a VM is in its Auto Scaling group. */
export interface GroupMember {
  readonly autoScalingGroup: string;
  readonly instanceId: string;
}

/** Auto Scaling answers so about a VM that is not in the state that a call is for. */
function isOutOfPlace(error: unknown): boolean {
  return error instanceof Error && error.name === 'ValidationError';
}

/**
 * Has the group no longer count on a VM: neither does it end it, nor send it traffic.
 *
 * @param replaced the group starts another in its place
 */
export async function enterStandby(
  client: AutoScalingClient,
  { autoScalingGroup, instanceId }: GroupMember,
  replaced: boolean,
  abortSignal: AbortSignal,
): Promise<void> {
  await client.send(
    new EnterStandbyCommand({
      AutoScalingGroupName: autoScalingGroup,
      InstanceIds: [instanceId],
      ShouldDecrementDesiredCapacity: !replaced,
    }),
    { abortSignal },
  );
}

/** Has the group count on a VM again. One that is not in standby is left where it is. */
export async function exitStandby(
  client: AutoScalingClient,
  { autoScalingGroup, instanceId }: GroupMember,
): Promise<void> {
  try {
    await client.send(
      new ExitStandbyCommand({ AutoScalingGroupName: autoScalingGroup, InstanceIds: [instanceId] }),
    );
  } catch (error) {
    if (!isOutOfPlace(error)) throw error;
  }
}

/**
 * Lets a VM that waits in a launch hook into service.
 *
 * @returns false when it waits in no such hook (any more)
 */
export async function continueLaunch(
  client: AutoScalingClient,
  { autoScalingGroup, instanceId }: GroupMember,
  hookName: string,
): Promise<boolean> {
  try {
    await client.send(
      new CompleteLifecycleActionCommand({
        AutoScalingGroupName: autoScalingGroup,
        InstanceId: instanceId,
        LifecycleHookName: hookName,
        LifecycleActionResult: 'CONTINUE',
      }),
    );
    return true;
  } catch (error) {
    if (isOutOfPlace(error)) return false;
    throw error;
  }
}
