import { beforeEach, describe, expect, test } from '@jest/globals';
import type { WorldVm } from '../world/ec2.ts';
import {
  CONTEXT,
  enveloped,
  RECORDED_EVENTS,
  RECORDED_VM,
  recorded,
  sqsEvent,
  sqsRecord,
} from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

let world: World;
let vm: WorldVm;
beforeEach(() => {
  world = createWorld();
  vm = launch(world, 1, {
    id: RECORDED_VM,
    interfaces: [{ id: 'eni-0a1b2c3d4e5f60718', groups: ['sg-0123456789abcdef0'] }],
    volumes: [
      { id: 'vol-00000001', device: '/dev/xvda' },
      { id: 'vol-0f1e2d3c4b5a69780', device: '/dev/sdf' },
    ],
  });
});
const run = (...bodies: (string | object)[]) => world.handlers['observe-vm'](sqsEvent(...bodies), CONTEXT);
const hint = (resync: boolean, ...instanceIds: string[]) =>
  enveloped('casemate.sweep', 'VM Hint', { instanceIds, resync });
const stored = (id = RECORDED_VM) => world.rows.get(`vm#${id}`);
const throttled = () => Object.assign(new Error('Rate exceeded'), { name: 'RequestLimitExceeded' });

describe('every event that the rules of the default bus let through', () => {
  test.each(RECORDED_EVENTS)('%s has its VM observed and announced', async (name) => {
    await expect(run(recorded(name))).resolves.toEqual({ batchItemFailures: [] });
    expect(world.rejected).toEqual([]);
    expect(stored()).toMatchObject({ managed: true, version: 1, observation: { state: 'running' } });
    expect(world.announced).toEqual([
      {
        detailType: 'VM Changed',
        detail: {
          schemaVersion: 1,
          instanceId: RECORDED_VM,
          at: world.now().toISOString(),
          state: 'running',
          managed: true,
          leavingScope: false,
          gone: false,
        },
      },
    ]);
  });

  test('shows the present state, whatever state the event tells of', async () => {
    vm.state = 'stopped';
    await run(recorded('ec2-state-pending'));
    expect(stored()).toMatchObject({ observation: { state: 'stopped' } });
  });
});

describe('a VM that is the same as before', () => {
  beforeEach(async () => {
    await run(recorded('ec2-state-running'));
    world.announced.length = 0;
  });

  test('is neither written nor announced again', async () => {
    await run(recorded('ec2-state-running'), recorded('ebs-createVolume-available'));
    expect([stored()?.['version'], world.announced]).toEqual([1, []]);
  });

  test('is announced again when the message was delivered before: an earlier run may have died between', async () => {
    const redelivered = sqsRecord(recorded('ec2-state-running'), { receives: 2 });
    await world.handlers['observe-vm']({ Records: [redelivered] }, CONTEXT);
    expect(world.announced).toHaveLength(1);
    expect(stored()?.['version']).toBe(1);
  });

  test('is announced again when the sweep asks for it', async () => {
    await run(hint(true, RECORDED_VM));
    expect(world.announced).toHaveLength(1);
    await run(hint(false, RECORDED_VM));
    expect(world.announced).toHaveLength(1);
  });
});

describe('a VM that EC2 does not show', () => {
  test('is not made up by an event', async () => {
    await run({
      ...recorded('ec2-state-running'),
      detail: { 'instance-id': 'i-000000ff', state: 'running' },
    });
    expect([world.rows.size, world.announced]).toEqual([0, []]);
  });

  test('is gone after two sweeps 15 minutes apart, whatever events say, and is announced so', async () => {
    await run(recorded('ec2-state-running'));
    world.vms.delete(RECORDED_VM);
    world.announced.length = 0;
    world.advance(86_400);
    await run(recorded('ec2-state-terminated'));
    expect(stored()).toMatchObject({ gone: false, missingSince: null });
    await run(hint(false, RECORDED_VM));
    world.advance(899);
    await run(hint(false, RECORDED_VM), recorded('ec2-state-terminated'));
    expect(stored()).toMatchObject({ gone: false });
    world.advance(1);
    await run(hint(false, RECORDED_VM));
    expect(stored()).toMatchObject({ gone: true, managed: true });
    expect(world.announced.at(-1)?.detail).toMatchObject({ gone: true });
  });
});

describe('tags', () => {
  test('that are taken away keep the VM managed, and say that it wants to leave', async () => {
    await run(recorded('ec2-state-running'));
    vm.tags = {};
    await run(recorded('cloudtrail-DeleteTags'));
    expect(stored()).toMatchObject({
      managed: true,
      leavingScope: true,
      decision: { reasons: ['LEAVING_SCOPE'] },
    });
  });

  test('that do not ask for protection leave the VM alone, with the reason', async () => {
    vm.tags = { 'casemate:protect': 'no' };
    await run(recorded('ec2-state-running'));
    expect(stored()).toMatchObject({ managed: false, decision: { reasons: ['NOT_IN_SCOPE'], policies: [] } });
  });
});

describe('when AWS says no', () => {
  test('to the look, every message of it is returned and nothing is written', async () => {
    world.fail('DescribeInstances', throttled());
    await expect(run(recorded('ec2-state-running'), 'nonsense')).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(world.rows.size).toBe(0);
    expect(world.rejected).toHaveLength(1);
  });

  test('to the write of one VM, its message alone is returned and it is not announced', async () => {
    const other = launch(world, 2);
    world.fail('PutItem', throttled(), (input) =>
      JSON.stringify(input['Item']).includes(`vm#${RECORDED_VM}`),
    );
    const about = { ...recorded('ec2-state-running'), detail: { 'instance-id': other.id, state: 'running' } };
    await expect(run(recorded('ec2-state-running'), about)).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(world.announced.map((e) => e.detail['instanceId'])).toEqual([other.id]);
  });

  test('to the announcement, the message is returned, and its redelivery announces what was stored', async () => {
    const heal = world.fail('PutEvents', throttled());
    await expect(run(recorded('ec2-state-running'))).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(stored()).toBeDefined();
    heal();
    const again = sqsRecord(recorded('ec2-state-running'), { receives: 2 });
    await world.handlers['observe-vm']({ Records: [again] }, CONTEXT);
    expect(world.announced).toHaveLength(1);
  });
});

test('of two workers that saw different things, one wins and the other looks again', async () => {
  await run(recorded('ec2-state-running'));
  world.announced.length = 0;
  vm.state = 'stopped';
  const answers = await Promise.all([run(recorded('ec2-state-stopped')), run(recorded('ec2-state-stopped'))]);
  expect(answers.flatMap((a) => a.batchItemFailures)).toEqual([]);
  expect(stored()?.['version']).toBe(2);
  // The one that lost found nothing to write and announced again, as after a redelivery.
  expect(world.announced.map((e) => e.detail['state'])).toEqual(['stopped', 'stopped']);
});

test('one instance that EC2 shows in a shape nobody knows does not hold up the others', async () => {
  const odd = launch(world, 2, { state: 'hibernating' });
  const about = (id: string) => ({
    ...recorded('ec2-state-running'),
    detail: { 'instance-id': id, state: 'running' },
  });
  await expect(run(about(odd.id), about(RECORDED_VM))).resolves.toEqual({
    batchItemFailures: [{ itemIdentifier: 'm-1' }],
  });
  expect(stored()).toBeDefined();
  expect(stored(odd.id)).toBeUndefined();
});

test('a burst of 450 VMs costs three looks at instances and three at volumes', async () => {
  const ids = Array.from({ length: 450 }, (_, i) => launch(world, 100 + i).id);
  world.calls.length = 0;
  await run(
    hint(false, ...ids.slice(0, 200)),
    hint(false, ...ids.slice(200, 400)),
    hint(false, ...ids.slice(400)),
  );
  expect(world.calls.filter((call) => call === 'DescribeInstances')).toHaveLength(3);
  expect(world.calls.filter((call) => call === 'DescribeVolumes')).toHaveLength(3);
  expect([...world.rows.keys()].filter((pk) => pk.startsWith('vm#'))).toHaveLength(450);
});

describe('what the tags of a VM demand', () => {
  const tagged = async (value: string | undefined) => {
    vm.tags = { 'casemate:protect': 'true', ...(value === undefined ? {} : { 'casemate:require': value }) };
    await run(recorded('ec2-state-running'));
    return stored()?.['demands'];
  };
  const confirm = (...requirements: string[]) => {
    const demandLess = {
      at: world.now().toISOString(),
      by: 'arn:aws:iam::123456789012:user/olga',
      reason: 'moved to another host',
      requirements,
    };
    const pk = `operator#${RECORDED_VM}`;
    world.rows.set(pk, { pk, version: 1, instanceId: RECORDED_VM, demandLess, history: [] });
  };

  test('stands when a tag no longer says it, until an operator confirms that', async () => {
    expect(await tagged('iommu smt-off')).toEqual({ standing: ['iommu', 'smt-off'], fewerSince: null });
    const kept = { standing: ['iommu', 'smt-off'], fewerSince: world.now().toISOString() };
    expect(await tagged('iommu')).toEqual(kept);
    world.advance(60);
    confirm('iommu');
    expect(await tagged('iommu')).toEqual(kept);
    confirm('smt-off');
    expect(await tagged('iommu')).toEqual({ standing: ['iommu'], fewerSince: null });
  });

  test('is nothing where no tag says anything', async () => {
    expect(await tagged(undefined)).toBeUndefined();
  });
});
