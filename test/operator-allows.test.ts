import { beforeEach, describe, expect, test } from '@jest/globals';
import { nextOperator, type OperatorChange, type OperatorItem } from '../lib/domain/operator.ts';
import { createAgent, enrolled, sealReport, sendReport, type TestAgent } from './world/agent.ts';
import { createApi } from './world/api.ts';
import { diskAgent } from './world/disks.ts';
import type { WorldVm } from './world/ec2.ts';
import { launch } from './world/vm.ts';
import { createWorld, type World } from './world/world.ts';

let world: World;
let vm: WorldVm;
let agent: TestAgent;
let api: Awaited<ReturnType<typeof createApi>>;

/** A VM that started a moment ago, and was seen. */
beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  agent = createAgent(vm.id);
  api = await createApi(world);
});

/** What `casemate allow …` writes, by the function that it writes it with. */
function allow(set: (said: OperatorChange['decision']) => OperatorChange['set']): void {
  const pk = `operator#${vm.id}`;
  const before = world.rows.get(pk) as OperatorItem | undefined;
  const decision = {
    at: world.now().toISOString(),
    by: 'arn:aws:iam::123456789012:user/ada',
    reason: 'asked for in a ticket',
  };
  const change = { instanceId: vm.id, what: 'allow', decision, set: set(decision) };
  world.rows.set(pk, { pk, version: (before?.version ?? 0) + 1, ...nextOperator(before, change) });
}

describe('allow enrol', () => {
  const forMinutes = (minutes: number) =>
    allow((said) => ({
      enrol: { ...said, until: new Date(world.now().getTime() + minutes * 60_000).toISOString() },
    }));
  const key = () => world.rows.get(`enrol#${vm.id}`)?.['publicKey'];

  test('opens the window of a VM that was launched long ago, until it closes again', async () => {
    world.advance(86_400);
    forMinutes(15);
    world.advance(15 * 60);
    await expect(api.enrol(agent)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ENROL_WINDOW_CLOSED' },
    });
    forMinutes(15);
    world.advance(15 * 60 - 1);
    await expect(api.enrol(agent)).resolves.toMatchObject({ status: 201 });
    expect(key()).toBe(agent.spki.toString('base64'));
  });

  test('lets another key take the place of the enrolled one, once, and the old one open nothing more', async () => {
    await api.enrol(agent);
    const rebuilt = createAgent(vm.id);
    await expect(api.enrol(rebuilt)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ENROL_OTHER_KEY' },
    });
    world.advance(60);
    forMinutes(15);
    await expect(api.enrol(rebuilt)).resolves.toMatchObject({ status: 201 });
    world.advance(60);
    await expect(api.enrol(createAgent(vm.id))).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ENROL_OTHER_KEY' },
    });
    expect(key()).toBe(rebuilt.spki.toString('base64'));
    await expect(diskAgent(api, agent).list()).resolves.toMatchObject({ status: 403 });
    await expect(diskAgent(api, rebuilt).list()).resolves.toMatchObject({ status: 200 });
  });

  test('that was taken back allows nothing', async () => {
    world.advance(86_400);
    forMinutes(15);
    allow(() => ({ enrol: undefined }));
    await expect(api.enrol(agent)).resolves.toMatchObject({ status: 403 });
    expect(key()).toBeUndefined();
  });

  test('of a VM that EC2 does not show running allows nothing', async () => {
    vm.state = 'stopped';
    world.stateChange(vm);
    await world.drain();
    forMinutes(15);
    await expect(api.enrol(agent)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ENROL_VM_NOT_RUNNING' },
    });
  });
});

describe('allow leave-scope', () => {
  let originals: readonly string[];
  /** Two sweeps: what the first one changes, the second one finds settled. */
  const settle = async () => {
    await sweep();
    await sweep();
  };
  const sweep = async () => {
    world.advance(300);
    await world.sweep();
    await world.drain();
  };
  const untag = async () => {
    vm.tags = {};
    await settle();
  };
  beforeEach(async () => {
    originals = ['sg-0000aaaa', 'sg-0000bbbb'];
    expect(vm.interfaces[0]?.groups).not.toEqual(originals); // in probation
  });

  test('lets go of a VM whose tags say so: fence and policy go, and its keys stay', async () => {
    await untag();
    expect((await world.record(vm.id))?.vm).toMatchObject({ managed: true, leavingScope: true });
    expect(vm.interfaces[0]?.groups).not.toEqual(originals);

    allow((said) => ({ leaveScope: said }));
    await sweep();
    expect((await world.record(vm.id))?.vm.decision.reasons).toEqual(['LEAVE_SCOPE_ALLOWED', 'NOT_IN_SCOPE']);
    await settle();
    const left = await world.record(vm.id);
    expect(left?.vm).toMatchObject({ managed: false, leavingScope: false });
    expect(new Set(vm.interfaces[0]?.groups)).toEqual(new Set(originals));
    expect(left?.disks.get('vol-b0000001')?.generations).toHaveLength(1);
    expect(left?.disks.get('vol-b0000001')?.generations[0]).toHaveProperty('wrappedKey');
  });

  test('said before the tags were taken away was about another change', async () => {
    allow((said) => ({ leaveScope: said }));
    world.advance(60);
    await untag();
    expect((await world.record(vm.id))?.vm).toMatchObject({ managed: true, leavingScope: true });
    expect(vm.interfaces[0]?.groups).not.toEqual(originals);
  });

  test('that was taken back keeps the fence', async () => {
    await untag();
    allow((said) => ({ leaveScope: said }));
    allow(() => ({ leaveScope: undefined }));
    await settle();
    expect((await world.record(vm.id))?.vm).toMatchObject({ managed: true, leavingScope: true });
  });

  test('does not hold for a VM that came back into scope and wants to leave again', async () => {
    await untag();
    allow((said) => ({ leaveScope: said }));
    await settle();
    vm.tags = { 'casemate:protect': 'true' };
    await settle();
    expect((await world.record(vm.id))?.vm).toMatchObject({ managed: true, leavingScope: false });
    await untag();
    expect((await world.record(vm.id))?.vm).toMatchObject({ managed: true, leavingScope: true });
  });

  test('has a VM that left be given no key, whatever it reported', async () => {
    enrolled(world, agent);
    sendReport(world, sealReport(world, agent, 1));
    await world.drain();
    const disk = world.rows.get('disk#vol-b0000001')?.['disk'] as string;
    await untag();
    allow((said) => ({ leaveScope: said }));
    await settle();
    const { status, key } = await diskAgent(api, agent).release(disk, 1);
    expect([status, key]).toEqual([403, undefined]);
    expect(world.announced.at(-1)).toMatchObject({
      detailType: 'Key Release Decided',
      detail: { outcome: 'refused', reasons: ['VM_NOT_MANAGED'] },
    });
  });
});
