import { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { createHandler } from '../../lambdas/complete-launch/handler.ts';
import { decideLaunch } from '../../lib/domain/launch.ts';
import { AT, anIsolation, aVm, VM_ID } from '../world/items.ts';
import { CONTEXT, enveloped, sqsEvent } from '../world/recorded.ts';
import { createWorld, type World } from '../world/world.ts';

const inGroup = (overrides: Parameters<typeof aVm>[0] = {}) =>
  aVm({ ...overrides, observation: { autoScalingGroup: 'web', ...overrides?.observation } });

describe('a VM that its Auto Scaling group holds', () => {
  test.each([
    ['goes on once its groups were given back', inGroup(), anIsolation(), 'continue'],
    ['goes on when it is not in scope', inGroup({ managed: false }), undefined, 'continue'],
    [
      'goes on in observe mode',
      inGroup(),
      anIsolation({ profile: 'probation', mode: 'observe' }),
      'continue',
    ],
    ['waits when nobody observed it', undefined, undefined, 'wait'],
    ['waits when it is in no group', aVm(), anIsolation(), 'wait'],
    ['waits before it was fenced', inGroup(), undefined, 'wait'],
    ['waits in probation', inGroup(), anIsolation({ profile: 'probation' }), 'wait'],
    ['waits in quarantine', inGroup(), anIsolation({ profile: 'quarantine' }), 'wait'],
    ['waits until its groups were read back', inGroup(), anIsolation({ applied: false }), 'wait'],
  ] as const)('%s', (_, vm, isolation, kind) => {
    expect(decideLaunch(vm, isolation)).toMatchObject({ kind });
  });
});

describe('complete-launch', () => {
  let world: World;
  let asked: Record<string, unknown>[];
  let answer: () => Promise<unknown>;
  beforeEach(() => {
    world = createWorld();
    asked = [];
    answer = async () => ({});
    world.rows.set(`vm#${VM_ID}`, { ...inGroup() });
    world.rows.set(`isolation#${VM_ID}`, { ...anIsolation() });
  });
  const run = (...bodies: object[]) => {
    const autoScaling = Object.create(AutoScalingClient.prototype) as AutoScalingClient;
    autoScaling.send = (async (command: { input: Record<string, unknown> }) => {
      asked.push(command.input);
      return answer();
    }) as never;
    return createHandler({ ...world.common(), autoScaling })(sqsEvent(...bodies), CONTEXT);
  };
  const changed = enveloped('casemate', 'Isolation Changed', {
    schemaVersion: 1,
    instanceId: VM_ID,
    at: AT,
    profile: 'workload',
    applied: true,
    mode: 'enforce',
    interfaces: [],
    reasons: [],
  });
  const waiting = enveloped('aws.autoscaling', 'EC2 Instance-launch Lifecycle Action', {
    LifecycleActionToken: '87654321-4321-4321-4321-210987654321',
    AutoScalingGroupName: 'web',
    LifecycleHookName: 'casemate-probation',
    EC2InstanceId: VM_ID,
    LifecycleTransition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
    Origin: 'EC2',
    Destination: 'AutoScalingGroup',
  });
  const CONTINUE = {
    AutoScalingGroupName: 'web',
    InstanceId: VM_ID,
    LifecycleHookName: 'casemate-probation',
    LifecycleActionResult: 'CONTINUE',
  };

  test.each([
    ['the change of its isolation', changed],
    ['the event that it began to wait', waiting],
  ])('lets a VM into service by %s', async (_, event) => {
    await expect(run(event)).resolves.toEqual({ batchItemFailures: [] });
    expect(asked).toEqual([CONTINUE]);
  });

  test('believes the table, not the event', async () => {
    world.rows.set(`isolation#${VM_ID}`, { ...anIsolation({ profile: 'probation' }) });
    await run(changed);
    expect(asked).toEqual([]);
  });

  test('takes it that a VM does not wait any more', async () => {
    answer = async () => {
      throw Object.assign(new Error('No active Lifecycle Action found'), { name: 'ValidationError' });
    };
    await expect(run(changed, waiting)).resolves.toEqual({ batchItemFailures: [] });
    expect(asked).toHaveLength(1);
  });

  test('tries again what Auto Scaling did not take', async () => {
    answer = async () => {
      throw Object.assign(new Error('Rate exceeded'), { name: 'Throttling' });
    };
    await expect(run(changed)).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
  });

  test('rejects what belongs to another function', async () => {
    await run(enveloped('casemate', 'VM Changed', {}));
    expect(world.rejected).toMatchObject([{ reason: 'EVENT_UNKNOWN' }]);
  });
});
