import { beforeEach, describe, expect, test } from '@jest/globals';
import { createHandler } from '../../lambdas/retire-disk-keys/handler.ts';
import type { WorldVm } from '../world/ec2.ts';
import { CONTEXT } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

const DAY = 86_400;
const VOLUME = 'vol-b0000001';
let world: World;
let vm: WorldVm;
let disk: string;
let run: () => Promise<unknown>;

beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  disk = world.rows.get(`disk#${VOLUME}`)?.['disk'] as string;
  const handler = createHandler({ ...world.common(), ec2: world.client, s3: world.s3, bucket: 'headers' });
  run = () => handler({}, CONTEXT as never);
  set({
    generations: [{ ...row().generations[0], state: 'active', confirmedAt: world.now().toISOString() }],
  });
  set({ recoveryKeys: [{ at: world.now().toISOString(), generation: 1, sealed: 'UkVD' }] });
  world.objects.set(`headers/headers/${disk}/1/header.gz`, Buffer.from('x'));
  world.announced.length = 0;
});

type Row = Record<string, unknown> & { generations: Record<string, unknown>[] };
const row = () => world.rows.get(`disk#${disk}`) as Row;
const set = (change: object) => world.rows.set(`disk#${disk}`, { ...row(), ...change });
const states = () => row().generations.map((g) => `${g['generation']} ${g['state']}`);
const said = () =>
  world.announced
    .filter((e) => e.detailType === 'Disk Key Retired')
    .map((e) => `${e.detail['generation']} ${e.detail['state']} ${e.detail['reasons']}`);
const operator = (change: object) =>
  world.rows.set(`operator#${vm.id}`, {
    pk: `operator#${vm.id}`,
    version: 1,
    instanceId: vm.id,
    history: [],
    ...change,
  });
const decision = () => ({
  at: world.now().toISOString(),
  by: 'arn:aws:iam::1:user/ada',
  reason: 'decommissioned',
});
const deleteVolume = () => {
  vm.volumes = vm.volumes.filter((v) => v.id !== VOLUME);
};

test('nothing happens to a disk that nobody wants retired', async () => {
  const before = row();
  world.advance(400 * DAY);
  deleteVolume();
  await expect(run()).resolves.toEqual({ changed: 0, failed: 0 });
  expect(row()).toEqual(before);
});

describe('a key that an operator retires', () => {
  beforeEach(async () => {
    operator({ retire: { [disk]: decision() } });
    await run();
  });

  test('begins to, thirty days before anything is lost, and it is announced once', async () => {
    await run();
    expect(states()).toEqual(['1 retiring']);
    expect(said()).toEqual(['1 retiring OPERATOR_ASKED']);
    expect(Date.parse(row().generations[0]?.['retireAfter'] as string) - world.now().getTime()).toBe(
      30 * DAY * 1000,
    );
  });

  test('stays, wrapped, however long, while the volume or a snapshot of it exists', async () => {
    world.advance(90 * DAY);
    await run();
    world.advance(2 * DAY);
    await run();
    expect(states()).toEqual(['1 retiring']);
    deleteVolume();
    world.snapshots.set('snap-00000001', VOLUME);
    for (let i = 0; i < 3; i++) {
      world.advance(2 * DAY);
      await run();
    }
    expect(states()).toEqual(['1 retiring']);
    expect(row().generations[0]?.['wrappedKey']).toBeTruthy();
  });

  test('goes, with what was escrowed and every header, after two looks a day apart found nothing', async () => {
    deleteVolume();
    world.advance(31 * DAY);
    await run();
    expect(states()).toEqual(['1 retiring']);
    world.advance(DAY / 2);
    await run();
    expect(states()).toEqual(['1 retiring']);
    world.advance(DAY / 2);
    await run();
    expect(states()).toEqual(['1 retired']);
    expect(row().generations[0]).toMatchObject({ wrappedKey: null });
    expect(row()).not.toHaveProperty('recoveryKeys');
    expect(world.objects.size).toBe(0);
    expect(said().at(-1)).toBe('1 retired KEY_RETIRED');
  });

  test('is not counted missing by a look that saw it in between', async () => {
    const volumes = vm.volumes;
    deleteVolume();
    world.advance(31 * DAY);
    await run();
    vm.volumes = volumes; // EC2 had not shown it for a moment
    world.advance(DAY);
    await run();
    deleteVolume();
    world.advance(DAY / 2);
    await run();
    expect(states()).toEqual(['1 retiring']);
  });

  test('is active again when an operator keeps it', async () => {
    operator({ keep: { [disk]: decision() } });
    await run();
    expect(states()).toEqual(['1 active']);
    expect(said().at(-1)).toBe('1 kept KEY_KEPT');
    deleteVolume();
    world.advance(90 * DAY);
    await run();
    world.advance(2 * DAY);
    await run();
    expect(states()).toEqual(['1 active']);
  });

  test('takes no key with it that was issued after the asking', async () => {
    world.advance(60);
    const [first] = row().generations;
    set({
      generations: [first, { ...first, generation: 2, state: 'active', issuedAt: world.now().toISOString() }],
    });
    await run();
    expect(states()).toEqual(['1 retiring', '2 active']);
  });
});

test('a shredding that died half way is done again, and to the end', async () => {
  operator({ retire: { [disk]: decision() } });
  await run();
  deleteVolume();
  world.advance(31 * DAY);
  await run();
  world.advance(DAY);
  for (let effects = 1; effects <= 3; effects++) {
    world.effects.killAfter(effects);
    await run().catch(() => undefined);
    world.effects.revive();
  }
  await run();
  expect(states()).toEqual(['1 retired']);
  expect(world.objects.size).toBe(0);
});

test('one disk whose headers cannot be deleted does not hold up the others', async () => {
  operator({ retire: { [disk]: decision() } });
  await run();
  deleteVolume();
  world.advance(31 * DAY);
  await run();
  world.advance(DAY);
  const heal = world.fail('DeleteObject', new Error('S3 is away'));
  await expect(run()).resolves.toEqual({ changed: 0, failed: 1 });
  expect(states()).toEqual(['1 retiring']);
  heal();
  await expect(run()).resolves.toEqual({ changed: 1, failed: 0 });
});
