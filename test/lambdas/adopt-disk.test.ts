import { beforeEach, describe, expect, test } from '@jest/globals';
import { createAgent, enrolled, sealReport, sendReport } from '../world/agent.ts';
import { createApi } from '../world/api.ts';
import { diskAgent } from '../world/disks.ts';
import type { WorldVm } from '../world/ec2.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

let world: World;
let api: Awaited<ReturnType<typeof createApi>>;
let first: WorldVm;
let second: WorldVm;
let owner: ReturnType<typeof diskAgent>;
let other: ReturnType<typeof diskAgent>;
let disk: string;
const VOLUME = 'vol-b0000001';
const RESTORED = 'vol-c0000001';
const SNAPSHOT = 'snap-0000000a';

async function seen(...vms: WorldVm[]) {
  for (const vm of vms) world.stateChange(vm);
  await world.drain();
}

async function proven(vm: WorldVm) {
  const agent = createAgent(vm.id);
  enrolled(world, agent);
  sendReport(world, sealReport(world, agent, 1));
  await world.drain();
  return diskAgent(api, agent);
}

beforeEach(async () => {
  world = createWorld();
  api = await createApi(world);
  first = launch(world, 1);
  second = launch(world, 2);
  await seen(first, second);
  owner = await proven(first);
  other = await proven(second);
  disk = world.rows.get(`disk#${VOLUME}`)?.['disk'] as string;
  await owner.confirm(disk, 1);
  world.announced.length = 0;
});

/** Detaches the disk's volume from the first VM and attaches it to the second. */
async function moved() {
  const volume = first.volumes.find((v) => v.id === VOLUME) as WorldVm['volumes'][number];
  first.volumes = first.volumes.filter((v) => v !== volume);
  second.volumes = [...second.volumes, { ...volume, device: '/dev/sdg' }];
  await seen(first, second);
}

/** Attaches a volume that was restored from a snapshot of the disk's volume. */
async function restoredAt(vm: WorldVm, origin = VOLUME) {
  world.snapshots.set(SNAPSHOT, origin);
  vm.volumes = [...vm.volumes, { id: RESTORED, device: '/dev/sdh', snapshotId: SNAPSHOT }];
  await seen(vm);
}

const allow = (vm: WorldVm, volume: string) =>
  world.rows.set(`operator#${vm.id}`, {
    pk: `operator#${vm.id}`,
    version: 1,
    instanceId: vm.id,
    adopt: {
      [volume]: { at: world.now().toISOString(), by: 'arn:aws:iam::1:user/ada', reason: 'replaced VM' },
    },
    history: [],
  });
const row = (pk: string) =>
  world.rows.get(pk) as Record<string, unknown> & { generations: Record<string, unknown>[] };

describe('a disk whose volume came to another VM', () => {
  test('is refused to it until an operator allows it', async () => {
    await moved();
    await expect(other.release(disk, 1)).resolves.toMatchObject({ status: 403 });
    await expect(other.adopt(disk, VOLUME)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ADOPTION_NOT_PERMITTED' },
    });
    expect(world.kmsCalls).not.toContain('ReEncrypt');
  });

  test('is wrapped anew for it, opens there and no more at the old one, and is to be rotated', async () => {
    const before = (await owner.release(disk, 1)).key;
    await moved();
    allow(second, VOLUME);
    await expect(other.adopt(disk, VOLUME)).resolves.toEqual({
      status: 200,
      body: { disk, volumeId: VOLUME, generations: [{ generation: 1, state: 'active' }] },
    });
    expect(world.kmsContexts.at(-1)).toEqual({
      'casemate:disk': disk,
      'casemate:generation': '1',
      'casemate:vm': second.id,
    });
    expect((await other.release(disk, 1)).key).toEqual(before);
    await expect(owner.release(disk, 1)).resolves.toMatchObject({ status: 403 });
    const listed = (await other.list()).body['volumes'].find(
      (v: { volumeId: string }) => v.volumeId === VOLUME,
    );
    expect(listed).toMatchObject({ disk, notCovered: null, rotate: 'DISK_ADOPTED', confirmed: true });
    world.advance(1);
    await other.rotate(disk, 2);
    await other.confirm(disk, 2);
    const after = (await other.list()).body['volumes'].find(
      (v: { volumeId: string }) => v.volumeId === VOLUME,
    );
    expect(after).toMatchObject({ rotate: null });
    expect(world.announced).toContainEqual({
      detailType: 'Disk Key Issued',
      detail: expect.objectContaining({ instanceId: second.id, disk, reasons: ['ADOPTION_ALLOWED'] }),
    });
  });

  test('is adopted once, however often it is asked', async () => {
    await moved();
    allow(second, VOLUME);
    await other.adopt(disk, VOLUME);
    const after = row(`disk#${disk}`);
    await expect(other.adopt(disk, VOLUME)).resolves.toMatchObject({ status: 200 });
    expect(row(`disk#${disk}`)).toEqual(after);
    expect(world.kmsCalls.filter((call) => call === 'ReEncrypt')).toHaveLength(1);
  });
});

describe('a volume restored from a snapshot', () => {
  test('of the VM’s own disk is adopted as a copy with an item of its own; the disk stays as it is', async () => {
    first.volumes = first.volumes.filter((v) => v.id !== VOLUME); // the damaged one was detached
    await restoredAt(first);
    const before = row(`disk#${disk}`);
    await expect(owner.adopt(disk, RESTORED)).resolves.toMatchObject({
      status: 200,
      body: { volumeId: RESTORED },
    });
    expect(row(`disk#${disk}`)).toEqual(before);
    expect(row(`disk#${disk}@${RESTORED}`)).toMatchObject({
      copy: true,
      volumeId: RESTORED,
      instanceId: first.id,
    });
    expect((await owner.release(disk, 1)).status).toBe(200);
    await owner.rotate(disk, 2);
    await owner.confirm(disk, 2);
    expect(row(`disk#${disk}`)).toEqual(before);
    expect(row(`disk#${disk}@${RESTORED}`).generations.map((g) => g['state'])).toEqual([
      'retiring',
      'active',
    ]);
  });

  test('shows both disks in the fleet', async () => {
    await restoredAt(second);
    allow(second, RESTORED);
    await other.adopt(disk, RESTORED);
    expect([...((await world.record(second.id))?.disks.keys() ?? [])].sort()).toEqual([
      'vol-b0000002',
      RESTORED,
    ]);
    expect([...((await world.record(first.id))?.disks.keys() ?? [])]).toEqual([VOLUME]);
  });

  test('of a copy opens with the copy’s keys, not the disk’s', async () => {
    await restoredAt(second);
    allow(second, RESTORED);
    await other.adopt(disk, RESTORED);
    await other.rotate(disk, 2);
    await other.confirm(disk, 2);
    world.snapshots.set('snap-0000000b', RESTORED);
    const third = launch(world, 3);
    third.volumes = [
      ...third.volumes,
      { id: 'vol-d0000001', device: '/dev/sdh', snapshotId: 'snap-0000000b' },
    ];
    await seen(third);
    const agent = await proven(third);
    allow(third, 'vol-d0000001');
    await agent.adopt(disk, 'vol-d0000001');
    expect((await agent.release(disk, 2)).key).toEqual((await other.release(disk, 2)).key);
  });

  test.each<[string, () => Promise<{ status: number; body: object }>]>([
    [
      'ADOPTION_NOT_PERMITTED',
      async () => {
        await restoredAt(second);
        return other.adopt(disk, RESTORED);
      },
    ],
    [
      'ADOPTION_NOT_PERMITTED',
      async () => {
        first.volumes = first.volumes.filter((v) => v.id !== VOLUME);
        await restoredAt(first, 'vol-ffffffff'); // a copied snapshot: EC2 does not know the volume
        return owner.adopt(disk, RESTORED);
      },
    ],
    [
      'ADOPTION_DISK_UNKNOWN',
      async () => {
        await restoredAt(second);
        return other.adopt('00000000-0000-4000-8000-000000000000', RESTORED);
      },
    ],
    [
      'ADOPTION_DISK_TWICE',
      async () => {
        await restoredAt(first);
        return owner.adopt(disk, RESTORED);
      },
    ],
    ['ADOPTION_NOT_ATTACHED', () => other.adopt(disk, VOLUME)],
    ['ADOPTION_OTHER_DISK', () => other.adopt(disk, 'vol-b0000002')],
    [
      'ADOPTION_NOT_RESTORED',
      async () => {
        second.volumes = [...second.volumes, { id: RESTORED, device: '/dev/sdh' }];
        await seen(second);
        world.rows.delete(`disk#${RESTORED}`);
        return other.adopt(disk, RESTORED);
      },
    ],
    ['ROOT_VOLUME', () => other.adopt(disk, 'vol-a0000002')],
    ['REQUEST_BAD_SIGNATURE', () => other.adopt(disk, 'vol-b0000002', { purpose: 'release' })],
    [
      'KEY_NOT_UNWRAPPED',
      async () => {
        await moved();
        allow(second, VOLUME);
        const [generation] = row(`disk#${disk}`).generations;
        const generations = [{ ...generation, wrappedFor: 'i-00000003' }];
        world.rows.set(`disk#${disk}`, { ...row(`disk#${disk}`), generations });
        return other.adopt(disk, VOLUME);
      },
    ],
  ])('is refused as %s (%#)', async (reason, attempt) => {
    await expect(attempt()).resolves.toMatchObject({ status: 403, body: { reason } });
  });
});

describe('a header backup', () => {
  const gzip = Buffer.from([0x1f, 0x8b, 0x08, 0, 1, 2, 3]).toString('base64');

  test('is stored by disk and generation', async () => {
    const key = `headers/${disk}/1/header.gz`;
    await expect(owner.header(disk, 1, gzip)).resolves.toEqual({ status: 201, body: { disk, key } });
    expect(Buffer.from(world.objects.get(`headers/${key}`) ?? []).toString('base64')).toBe(gzip);
  });

  test('may be as large as a LUKS2 header with 16 MiB of keyslots, compressed', async () => {
    const large = Buffer.alloc(2_900_000, 7);
    large.set([0x1f, 0x8b, 0x08]);
    await expect(owner.header(disk, 1, large.toString('base64'))).resolves.toMatchObject({ status: 201 });
  });

  test.each<[string, () => Promise<{ status: number; body: object }>]>([
    ['HEADER_MALFORMED', () => owner.header(disk, 1, Buffer.from('LUKS').toString('base64'))],
    ['GENERATION_UNKNOWN', () => owner.header(disk, 2, gzip)],
    ['DISK_NOT_ATTACHED', () => other.header(disk, 1, gzip)],
    ['REQUEST_BAD_SIGNATURE', () => owner.header(disk, 1, gzip, { signedPayload: 'AAAA' })],
  ])('is refused as %s', async (reason, attempt) => {
    await expect(attempt()).resolves.toMatchObject({ status: 403, body: { reason } });
    expect(world.objects.size).toBe(0);
  });
});
