import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { divergences } from '../lib/domain/convergence.ts';
import {
  createAgent,
  enrolled,
  fact,
  GOOD_FACTS,
  sealReport,
  sendReport,
  type TestAgent,
} from './world/agent.ts';
import type { WorldVm } from './world/ec2.ts';
import { launch } from './world/vm.ts';
import { createWorld, type Message, QUEUES, type World } from './world/world.ts';

/** One thing that happens to a VM, in EC2 or through its agent. */
type Happening =
  | {
      readonly kind:
        | 'stop'
        | 'start'
        | 'terminate'
        | 'attach-interface'
        | 'attach-volume'
        | 'untag'
        | 'sweep';
    }
  | { readonly kind: 'report'; readonly facts: 'good' | 'swap' | 'contradicting' };

const happening: fc.Arbitrary<Happening> = fc.oneof(
  {
    weight: 1,
    arbitrary: fc
      .constantFrom('stop', 'start', 'attach-interface', 'attach-volume', 'untag', 'sweep')
      .map((kind) => ({ kind }) as Happening),
  },
  {
    weight: 2,
    arbitrary: fc
      .constantFrom('good', 'swap', 'contradicting')
      .map((facts) => ({ kind: 'report', facts }) as Happening),
  },
);
const history = fc
  .tuple(fc.array(happening, { maxLength: 8 }), fc.boolean())
  .map(([list, terminated]) => (terminated ? [...list, { kind: 'terminate' } as Happening] : list));

/** How the messages of a run are disturbed: which are lost, doubled, and in which order they come. */
const disturbance = fc.record({
  losses: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
  doubles: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
  order: fc.array(fc.nat({ max: 1000 }), { minLength: 16, maxLength: 16 }),
  batch: fc.integer({ min: 1, max: 6 }),
});
type Disturbance = typeof disturbance extends fc.Arbitrary<infer T> ? T : never;

const agents = new Map<string, TestAgent>();
const agentOf = (id: string): TestAgent => {
  const agent = agents.get(id) ?? createAgent(id);
  agents.set(id, agent);
  return agent;
};

const FACTS = {
  good: GOOD_FACTS,
  swap: [...GOOD_FACTS.filter((f) => f.id !== 'mem.swap'), fact('mem.swap', 'present', 'plain')],
  contradicting: [
    ...GOOD_FACTS.filter((f) => f.id !== 'mem.sev-snp.guest'),
    fact('mem.sev-snp.guest', 'present'),
  ],
};

interface Run {
  readonly world: World;
  readonly vm: WorldVm;
  readonly originals: Map<string, readonly string[]>;
}

/**
 * Plays a history. In order means that every message is delivered before the next thing happens; disturbed
 * means that EC2's events are lost, doubled and held back, and everything is delivered shuffled.
 */
async function play(happenings: readonly Happening[], disturb?: Disturbance): Promise<Run> {
  const world = createWorld();
  const vm = launch(world, 7, { amdSevSnp: 'disabled' });
  const originals = new Map<string, readonly string[]>(vm.interfaces.map((eni) => [eni.id, [...eni.groups]]));
  const run = { world, vm, originals };
  world.stateChange(vm);
  await world.drain(); // both start from a VM that was seen, so that its agent can be enrolled
  enrolled(world, agentOf(vm.id));
  let sequence = 0;
  let turn = 0;

  const ec2Event = (emit: () => void) => {
    const i = turn++ % 8;
    if (disturb?.losses[i]) return;
    emit();
    if (disturb?.doubles[i]) emit();
  };
  const lastReport = happenings.map((h) => h.kind).lastIndexOf('report');

  for (const [index, h] of happenings.entries()) {
    world.advance(1);
    switch (h.kind) {
      case 'stop':
      case 'start':
        vm.state = h.kind === 'stop' ? 'stopped' : 'running';
        ec2Event(() => world.stateChange(vm));
        break;
      case 'terminate':
        vm.state = 'terminated';
        ec2Event(() => world.stateChange(vm));
        break;
      case 'attach-interface': {
        const id = `eni-${(vm.interfaces.length + 16).toString(16).padStart(8, '0')}`;
        vm.interfaces.push({ id, groups: ['sg-0000cccc'] });
        originals.set(id, ['sg-0000cccc']);
        ec2Event(() =>
          cloudTrail(world, 'AttachNetworkInterface', { instanceId: vm.id, networkInterfaceId: id }),
        );
        break;
      }
      case 'attach-volume': {
        const id = `vol-${(vm.volumes.length + 16).toString(16).padStart(8, '0')}`;
        vm.volumes.push({ id, device: `/dev/sd${String.fromCharCode(103 + vm.volumes.length)}` });
        ec2Event(() => cloudTrail(world, 'AttachVolume', { instanceId: vm.id, volumeId: id }));
        break;
      }
      case 'untag':
        vm.tags = {};
        ec2Event(() => cloudTrail(world, 'DeleteTags', { resourcesSet: { items: [{ resourceId: vm.id }] } }));
        break;
      case 'sweep':
        await world.sweep();
        break;
      case 'report': {
        sequence += 1;
        const detail = sealReport(world, agentOf(vm.id), sequence, { facts: [...FACTS[h.facts]] });
        // The bus is lossy, but the last word counts: losing that is no reordering of the same history.
        if (disturb?.losses[turn++ % 8] && index !== lastReport) break;
        sendReport(world, detail);
        if (disturb?.doubles[index % 8]) sendReport(world, detail);
        break;
      }
    }
    if (!disturb) await world.drain();
    else if (disturb.doubles[(index + 3) % 8]) await deliverSome(run, disturb, 2);
  }
  if (disturb) await shuffle(run, disturb);
  await world.drain();
  await world.sweep();
  await world.drain();
  await world.sweep();
  await world.drain();
  return run;
}

function cloudTrail(world: World, eventName: string, requestParameters: object): void {
  world.emit('aws.ec2', 'AWS API Call via CloudTrail', {
    eventSource: 'ec2.amazonaws.com',
    eventName,
    requestParameters,
  });
}

async function deliverSome(run: Run, disturb: Disturbance, times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const busy = QUEUES.filter((q) => (run.world.queues.get(q)?.length ?? 0) > 0);
    const queue = busy[(disturb.order[i] ?? 0) % Math.max(1, busy.length)];
    if (!queue) return;
    await run.world.deliver(queue, pick(run.world.queues.get(queue) ?? [], disturb, i));
    await holdsAlways(run);
  }
}

async function shuffle(run: Run, disturb: Disturbance): Promise<void> {
  for (let i = 0; i < 400; i++) {
    const busy = QUEUES.filter((q) => (run.world.queues.get(q)?.length ?? 0) > 0);
    if (busy.length === 0) return;
    const queue = busy[(disturb.order[i % 16] ?? 0) % busy.length];
    if (!queue) return;
    await run.world.deliver(queue, pick(run.world.queues.get(queue) ?? [], disturb, i));
    await holdsAlways(run);
  }
}

/** A batch of waiting messages from anywhere in the queue. */
function pick(waiting: readonly Message[], disturb: Disturbance, i: number): readonly Message[] {
  const start = (disturb.order[(i * 7) % 16] ?? 0) % waiting.length;
  return [...waiting.slice(start), ...waiting.slice(0, start)].slice(0, disturb.batch).reverse();
}

/** What must be true after every single delivery. */
async function holdsAlways({ world, vm, originals }: Run): Promise<void> {
  const record = await world.record(vm.id);
  const perVolume = new Map<string, number>();
  for (const row of world.rows.values()) {
    if (!String(row['pk']).startsWith('disk#') || !('generations' in row)) continue;
    const generations = row['generations'] as { state: string }[];
    expect(generations.filter((g) => g.state === 'issued').length).toBeLessThanOrEqual(1);
    expect(generations.filter((g) => g.state === 'active').length).toBeLessThanOrEqual(1);
    const volume = String(row['volumeId']);
    perVolume.set(volume, (perVolume.get(volume) ?? 0) + 1);
  }
  for (const disks of perVolume.values()) expect(disks).toBe(1);
  const own = new Set(world.groups.keys());
  for (const eni of vm.interfaces) {
    const wanted = new Set(originals.get(eni.id));
    const recorded = record?.isolation?.interfaces.find((i) => i.id === eni.id)?.originals;
    const untouched = eni.groups.length === wanted.size && eni.groups.every((g) => wanted.has(g));
    if (!untouched) expect(new Set(recorded)).toEqual(wanted);
    for (const group of recorded ?? []) expect(own.has(group)).toBe(false);
  }
}

/** The end of a run: everything that counts, without times, random ids and counters of lateness. */
async function outcome({ world, vm }: Run) {
  const record = await world.record(vm.id);
  const names = new Map([...world.groups.values()].map((g) => [g.GroupId, g.GroupName]));
  const keys = [...(record?.disks ?? [])].map(
    ([volume, disk]) => [volume, disk.generations.map((g) => [g.generation, g.state])] as const,
  );
  return {
    managed: record?.vm.managed,
    leavingScope: record?.vm.leavingScope,
    gone: record?.vm.gone,
    state: record?.vm.observation.state,
    // A volume that nobody saw before the VM was gone needs no key, so an ended VM may have fewer.
    keys: keys.filter(([volume]) => vm.state !== 'terminated' || volume === 'vol-b0000007'),
    verdict: record?.posture?.verdict,
    reasons: record?.posture?.reasons,
    sequence: record?.posture?.standing?.sequence,
    profile: vm.state === 'terminated' ? 'any' : record?.isolation?.profile,
    applied: vm.state === 'terminated' ? 'any' : record?.isolation?.applied,
    interfaces:
      vm.state === 'terminated'
        ? 'any'
        : vm.interfaces.map((eni) => [eni.id, eni.groups.map((g) => names.get(g) ?? g).sort()]),
    open: record && divergences(record, 'enforce', world.now()),
  };
}

describe('any history of a VM', () => {
  test('ends in the same state however its events were lost, doubled and reordered, after one sweep', async () => {
    await fc.assert(
      fc.asyncProperty(history, disturbance, async (happenings, disturb) => {
        const straight = await play(happenings);
        const disturbed = await play(happenings, disturb);
        expect(await outcome(disturbed)).toEqual(await outcome(straight));
        expect((await outcome(disturbed)).open).toEqual([]);
      }),
      { numRuns: Number(process.env['PROPERTY_RUNS'] ?? 60) },
    );
  }, 120_000);

  test('converges to the same state when the worker dies after any one of its effects', async () => {
    const happenings: Happening[] = [
      { kind: 'report', facts: 'good' },
      { kind: 'attach-interface' },
      { kind: 'attach-volume' },
      { kind: 'report', facts: 'contradicting' },
      { kind: 'report', facts: 'good' },
    ];
    const wanted = await outcome(await play(happenings));
    let killed = 0;
    for (let n = 1; ; n++) {
      const run = await playKilled(happenings, n);
      if (!run.died) break;
      killed += 1;
      expect({ n, ...(await outcome(run)) }).toEqual({ n, ...wanted });
    }
    expect(killed).toBeGreaterThan(20);
  }, 120_000);
});

/** Plays a history in order; the worker dies once, right after its nth effect, and a new one takes over. */
async function playKilled(
  happenings: readonly Happening[],
  n: number,
): Promise<Run & { readonly died: boolean }> {
  const world = createWorld();
  const vm = launch(world, 7, { amdSevSnp: 'disabled' });
  const originals = new Map<string, readonly string[]>(vm.interfaces.map((eni) => [eni.id, [...eni.groups]]));
  const run = { world, vm, originals };
  enrolled(world, agentOf(vm.id));
  let died = false;
  world.effects.killAfter(n);
  const settle = async () => {
    for (let i = 0; i < 400; i++) {
      const queue = QUEUES.find((q) => (world.queues.get(q)?.length ?? 0) > 0);
      if (!queue) return;
      const before = world.queues.get(queue)?.length;
      await world.deliver(queue, (world.queues.get(queue) ?? []).slice(0, 10));
      const isDead = await world.effects.read().then(
        () => false,
        () => true,
      );
      if (isDead) {
        expect(died).toBe(false);
        expect(before).toBeGreaterThan(0);
        died = true;
        world.effects.revive();
      }
      await holdsAlways(run);
    }
  };
  world.stateChange(vm);
  await settle();
  let sequence = 0;
  for (const h of happenings) {
    world.advance(1);
    if (h.kind === 'attach-interface') {
      vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'] });
      originals.set('eni-00000011', ['sg-0000cccc']);
      cloudTrail(world, 'AttachNetworkInterface', { instanceId: vm.id, networkInterfaceId: 'eni-00000011' });
    } else if (h.kind === 'attach-volume') {
      vm.volumes.push({ id: 'vol-00000012', device: '/dev/sdi' });
      cloudTrail(world, 'AttachVolume', { instanceId: vm.id, volumeId: 'vol-00000012' });
    } else if (h.kind === 'report') {
      sequence += 1;
      sendReport(world, sealReport(world, agentOf(vm.id), sequence, { facts: [...FACTS[h.facts]] }));
    }
    await settle();
  }
  world.effects.revive();
  await world.sweep();
  await world.drain();
  await world.sweep();
  await world.drain();
  return { ...run, died };
}
