import { expect, test } from '@jest/globals';
import { divergences } from '../lib/domain/convergence.ts';
import { createAgent, enrolled, fact, GOOD_FACTS, sealReport, sendReport } from './world/agent.ts';
import { launch } from './world/vm.ts';
import { createWorld } from './world/world.ts';

test('a launched VM gets a key for its data volume, a closed fence, proves itself, and the fence opens', async () => {
  const world = createWorld();
  const vm = launch(world, 1);
  const originals = [...(vm.interfaces[0]?.groups ?? [])];
  world.stateChange(vm);
  await world.drain();

  const fenced = await world.record(vm.id);
  expect(fenced?.vm.managed).toBe(true);
  expect([...(fenced?.disks.keys() ?? [])]).toEqual(['vol-b0000001']);
  expect(fenced?.disks.get('vol-b0000001')?.generations).toMatchObject([{ generation: 1, state: 'issued' }]);
  expect(fenced?.isolation).toMatchObject({ profile: 'probation', applied: true });
  expect(vm.interfaces[0]?.groups).toEqual([fencing(world, 'casemate-probation')]);

  const agent = createAgent(vm.id);
  enrolled(world, agent);
  sendReport(world, sealReport(world, agent, 1));
  await world.drain();
  const proven = await world.record(vm.id);
  expect(proven?.posture).toMatchObject({ verdict: 'compliant', reasons: ['POSTURE_PROVEN'] });
  expect(proven?.isolation).toMatchObject({ profile: 'workload', applied: true });
  expect(new Set(vm.interfaces[0]?.groups)).toEqual(new Set(originals));
  expect(proven && divergences(proven, 'enforce', world.now())).toEqual([]);
  expect(world.kmsContexts).toHaveLength(1);
  expect(world.kmsContexts[0]).toEqual({
    'casemate:disk': proven?.disks.get('vol-b0000001')?.disk,
    'casemate:generation': '1',
    'casemate:vm': vm.id,
  });
});

test('a VM that is not in scope is left alone', async () => {
  const world = createWorld();
  const vm = launch(world, 1, { tags: {} });
  world.stateChange(vm);
  await world.drain();
  const record = await world.record(vm.id);
  expect(record?.vm.managed).toBe(false);
  expect(record?.disks.size).toBe(0);
  expect(record?.isolation).toBeUndefined();
  expect(vm.interfaces[0]?.groups).toEqual(['sg-0000aaaa', 'sg-0000bbbb']);
});

test('a compliant VM that starts to swap to plain storage is fenced again', async () => {
  const world = createWorld();
  const vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  const agent = createAgent(vm.id);
  enrolled(world, agent);
  sendReport(world, sealReport(world, agent, 1));
  await world.drain();
  const swapping = [...GOOD_FACTS.filter((f) => f.id !== 'mem.swap'), fact('mem.swap', 'present', 'plain')];
  sendReport(world, sealReport(world, agent, 2, { facts: swapping }));
  await world.drain();
  const record = await world.record(vm.id);
  expect(record?.posture).toMatchObject({ verdict: 'unproven', reasons: ['SWAP_NOT_ENCRYPTED'] });
  expect(record?.isolation).toMatchObject({ profile: 'probation', applied: true });
});

test('observe mode records and announces, and changes no interface', async () => {
  const world = createWorld({ mode: 'observe' });
  const vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  const record = await world.record(vm.id);
  expect(record?.isolation).toMatchObject({ profile: 'probation', applied: false, mode: 'observe' });
  expect(vm.interfaces[0]?.groups).toEqual(['sg-0000aaaa', 'sg-0000bbbb']);
  expect(world.groups.size).toBe(0);
  expect(world.calls.filter((call) => !call.startsWith('Describe'))).toEqual([]);
  expect(world.announced.map((e) => e.detailType)).toContain('Isolation Changed');
});

function fencing(world: ReturnType<typeof createWorld>, name: string): string | undefined {
  return [...world.groups.values()].find((group) => group.GroupName === name)?.GroupId;
}
