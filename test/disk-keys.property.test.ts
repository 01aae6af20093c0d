import { expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { createHandler as retireDiskKeys } from '../lambdas/retire-disk-keys/handler.ts';
import { createAgent, enrolled, sealReport, sendReport } from './world/agent.ts';
import { createApi } from './world/api.ts';
import { diskAgent } from './world/disks.ts';
import { CONTEXT } from './world/recorded.ts';
import { launch } from './world/vm.ts';
import { createWorld } from './world/world.ts';

/** What an agent, an operator, EC2 and time do to one disk. */
const ACTS = [
  'rotate',
  'two rotations at once',
  'add a keyslot for the newest key',
  'confirm the newest keyslot',
  'two confirmations at once',
  'remove keyslots of retiring keys',
  'operator retires',
  'operator keeps',
  'retirement runs',
  'a month passes',
  'a snapshot is made',
  'snapshots are deleted',
  'the volume is deleted',
] as const;
type Act = (typeof ACTS)[number];

const step = fc.record({
  act: fc.constantFrom<Act>(...ACTS),
  /** The function dies right after so many of its effects. */
  killAfter: fc.oneof(fc.constant(undefined), fc.integer({ min: 1, max: 5 })),
});

interface Row {
  readonly generations: readonly { generation: number; state: string; wrappedKey: string | null }[];
}

async function setUp() {
  const world = createWorld();
  const vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  const agent = createAgent(vm.id);
  enrolled(world, agent);
  const volume = 'vol-b0000001';
  const disk = world.rows.get(`disk#${volume}`)?.['disk'] as string;
  let sequence = 0;
  const report = async () => {
    sequence += 1;
    sendReport(world, sealReport(world, agent, sequence));
    await world.drain();
  };
  const api = await createApi(world);
  const disks = diskAgent(api, agent);
  const retire = retireDiskKeys({ ...world.common(), ec2: world.client, s3: world.s3, bucket: 'headers' });
  return {
    world,
    vm,
    volume,
    disk,
    disks,
    report,
    retire: () => retire({}, CONTEXT as never),
    row: () => world.rows.get(`disk#${disk}`) as unknown as Row,
  };
}

type Setup = Awaited<ReturnType<typeof setUp>>;

/** The disk as it lies in the VM: the generations that its header has a keyslot for. */
interface Disk {
  readonly keyslots: Set<number>;
  /** What the last confirmation said is retiring. */
  retiring: readonly number[];
  deleted: boolean;
}

const newest = (numbers: Iterable<number>) => Math.max(...numbers);

async function perform(act: Act, setup: Setup, on: Disk): Promise<void> {
  const { world, vm, volume, disk, disks, row } = setup;
  const operator = (change: object) => {
    const pk = `operator#${vm.id}`;
    const known = world.rows.get(pk) ?? { pk, version: 1, instanceId: vm.id, history: [] };
    const members = Object.entries({ ...known, ...change }).filter(([, value]) => value !== undefined);
    world.rows.set(pk, Object.fromEntries(members));
  };
  const said = { at: world.now().toISOString(), by: 'arn:aws:iam::1:user/ada', reason: 'test' };
  const highest = newest(row().generations.map((g) => g.generation));
  const confirm = async () => {
    if (on.keyslots.size === 0) return;
    const { status, body } = await disks.confirm(disk, newest(on.keyslots));
    if (status === 200) on.retiring = body['retiring'];
  };
  switch (act) {
    case 'rotate':
      await disks.rotate(disk, highest + 1);
      break;
    case 'two rotations at once':
      await Promise.allSettled([disks.rotate(disk, highest + 1), disks.rotate(disk, highest + 1)]);
      break;
    case 'add a keyslot for the newest key': {
      const { key } = await disks.release(disk, highest);
      if (key && !on.deleted) on.keyslots.add(highest);
      break;
    }
    case 'confirm the newest keyslot':
      await confirm();
      break;
    case 'two confirmations at once':
      await Promise.allSettled([confirm(), confirm()]);
      break;
    case 'remove keyslots of retiring keys':
      // As an agent does it: only what it was told is retiring, and only once a newer one opens the disk.
      for (const generation of on.retiring)
        if (generation < newest(on.keyslots)) on.keyslots.delete(generation);
      break;
    case 'operator retires':
      operator({ retire: { [disk]: said }, keep: undefined });
      break;
    case 'operator keeps':
      operator({ keep: { [disk]: said }, retire: undefined });
      break;
    case 'retirement runs':
      await setup.retire();
      break;
    case 'a month passes':
      world.advance(31 * 86_400);
      break;
    case 'a snapshot is made':
      if (!on.deleted) world.snapshots.set(`snap-${'0'.repeat(8)}`, volume);
      break;
    case 'snapshots are deleted':
      world.snapshots.clear();
      break;
    case 'the volume is deleted':
      on.deleted = true;
      vm.volumes = vm.volumes.filter((v) => v.id !== volume);
      world.stateChange(vm);
      break;
  }
}

test('no sequence of calls, killed anywhere, loses a key that a disk, or a snapshot of it, still needs', async () => {
  const reached = new Set<string>();
  // Chance alone seldom plays a disk's whole life.
  const life: Act[] = [
    'add a keyslot for the newest key',
    'confirm the newest keyslot',
    'rotate',
    'add a keyslot for the newest key',
    'confirm the newest keyslot',
    'remove keyslots of retiring keys',
    'operator retires',
    'retirement runs',
    'the volume is deleted',
    'a month passes',
    'retirement runs',
    'a month passes',
    'retirement runs',
    'retirement runs',
  ];
  const examples = [undefined, 1, 2, 3].map((killAfter): [{ act: Act; killAfter: number | undefined }[]] => [
    life.flatMap((act) => [
      { act, killAfter },
      { act, killAfter: undefined },
    ]),
  ]);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 14 }), async (steps) => {
      const setup = await setUp();
      const { world, row } = setup;
      const on: Disk = { keyslots: new Set(), retiring: [], deleted: false };
      const wrapped = new Map<number, string>();
      await setup.report();
      for (const { act, killAfter } of steps) {
        if (killAfter !== undefined) world.effects.killAfter(killAfter);
        await perform(act, setup, on).catch(() => undefined); // killed, or told to come back
        world.effects.revive();
        await world.drain();
        await setup.report(); // so that posture is not what refuses

        const { generations } = row();
        for (const state of ['issued', 'active'])
          expect(generations.filter((g) => g.state === state).length).toBeLessThanOrEqual(1);
        const alive = !on.deleted || world.snapshots.size > 0;
        for (const { generation, state, wrappedKey } of generations) {
          reached.add(state);
          if (state === 'retired') continue;
          expect(wrappedKey).not.toBeNull();
          expect(wrappedKey).toBe(wrapped.get(generation) ?? wrappedKey);
          wrapped.set(generation, wrappedKey ?? '');
        }
        const kept = new Set(generations.filter((g) => g.state !== 'retired').map((g) => g.generation));
        for (const generation of wrapped.keys()) {
          if (alive) expect(kept).toContain(generation);
          expect(generations.map((g) => g.generation)).toContain(generation);
        }
        if (alive) for (const generation of on.keyslots) expect(kept).toContain(generation);
      }
      // What the disk opens with is given, whatever happened before.
      if (!on.deleted) {
        for (const generation of on.keyslots) {
          const { key } = await setup.disks.release(setup.disk, generation);
          expect(key).toEqual(world.plaintextOf(wrapped.get(generation) ?? ''));
        }
      }
    }),
    { numRuns: 100, interruptAfterTimeLimit: 40_000, examples },
  );
  // The sequences came to every state, so the sentences above said something.
  expect([...reached].sort()).toEqual(['active', 'issued', 'retired', 'retiring']);
}, 90_000);
