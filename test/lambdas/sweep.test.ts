import { beforeEach, describe, expect, test } from '@jest/globals';
import { createAgent, enrolled, sealReport, sendReport } from '../world/agent.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

let world: World;
beforeEach(() => {
  world = createWorld();
});
const hints = () =>
  (world.queues.get('observe-vm') ?? []).map(
    (m) => JSON.parse(m.body).detail as { instanceIds: string[]; resync: boolean },
  );

describe('a sweep', () => {
  test('finds a VM whose events were all lost, and it gets everything', async () => {
    const vm = launch(world, 1);
    await expect(world.sweep()).resolves.toEqual({ hinted: 1, diverged: 0 });
    await world.drain();
    expect(await world.record(vm.id)).toMatchObject({ isolation: { profile: 'probation', applied: true } });
    expect(world.kmsContexts).toHaveLength(1);
  });

  test('closes a rule that somebody opened in a group of Casemate’s own', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    await world.drain();
    const [group] = [...world.groups.values()].filter((g) => vm.interfaces[0]?.groups.includes(g.GroupId));
    group?.IpPermissions.push({ IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] });
    await world.sweep();
    await world.drain();
    expect(group?.IpPermissions).toEqual([]);
  });

  test('drives one fenced VM of a VPC again, for its groups, and announces no other that converged', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    const other = launch(world, 2);
    world.stateChange(other);
    await world.drain();
    // CloudTrail tells of the change that the fence itself made; here the sweep does.
    await world.sweep();
    await world.drain();
    const announced = world.announced.length;
    await expect(world.sweep()).resolves.toEqual({ hinted: 2, diverged: 0 });
    await world.drain();
    expect(world.announced.slice(announced).map((e) => e.detail['instanceId'])).toEqual([other.id]);
  });

  test('drives a VM again whose key was never made', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    await world.deliver('observe-vm', world.queues.get('observe-vm') ?? []);
    for (const queue of world.queues.keys()) world.queues.set(queue, []); // lost on the way
    await expect(world.sweep()).resolves.toEqual({ hinted: 1, diverged: 1 });
    expect(hints()).toEqual([{ instanceIds: [vm.id], resync: true }]);
    await world.drain();
    expect((await world.record(vm.id))?.disks.size).toBe(1);
  });

  test('closes the fence of a VM that fell silent', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    await world.drain();
    const agent = createAgent(vm.id);
    enrolled(world, agent);
    sendReport(world, sealReport(world, agent, 1));
    await world.drain();
    expect(await world.record(vm.id)).toMatchObject({ isolation: { profile: 'workload' } });
    world.advance(901);
    await world.sweep();
    await world.drain();
    expect(await world.record(vm.id)).toMatchObject({
      posture: { verdict: 'unproven', reasons: ['REPORT_STALE'] },
      isolation: { profile: 'probation', applied: true },
    });
  });

  test('of a VM that vanished: the first misses it, one 15 minutes later ends it, and its key stays', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    await world.drain();
    const keys = () => [...world.rows.values()].filter((row) => 'generations' in row);
    const before = keys();
    world.vms.delete(vm.id);
    for (const [seconds, gone] of [
      [0, false],
      [300, false],
      [300, false],
      [299, false],
      [1, true],
    ] as const) {
      world.advance(seconds);
      await world.sweep();
      await world.drain();
      expect((await world.record(vm.id))?.vm.gone).toBe(gone);
    }
    expect(keys()).toEqual(before);
    await expect(world.sweep()).resolves.toEqual({ hinted: 0, diverged: 0 });
  });

  test('that cannot see EC2, the table or the queue fails loudly, and misses nobody', async () => {
    const vm = launch(world, 1);
    world.stateChange(vm);
    await world.drain();
    for (const call of ['DescribeInstances', 'Scan']) {
      const heal = world.fail(call, new Error(`${call}: slow down`));
      await expect(world.sweep()).rejects.toThrow('slow down');
      heal();
      expect(hints()).toEqual([]);
    }
    const heal = world.fail('SendMessageBatch', new Error('slow down'));
    await expect(world.sweep()).rejects.toThrow('slow down');
    heal();
    expect(await world.record(vm.id)).toMatchObject({ vm: { missingSince: null } });
  });
});
