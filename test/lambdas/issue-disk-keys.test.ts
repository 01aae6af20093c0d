import { TransactionCanceledException } from '@aws-sdk/client-dynamodb';
import { beforeEach, describe, expect, test } from '@jest/globals';
import type { WorldVm } from '../world/ec2.ts';
import { CONTEXT, enveloped, sqsEvent, sqsRecord } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

let world: World;
let vm: WorldVm;
/** Puts VMs into the table as observe-vm does, and empties the queues behind it. */
async function observed(...vms: WorldVm[]) {
  for (const each of vms) world.stateChange(each);
  for (;;) {
    const waiting = world.queues.get('observe-vm') ?? [];
    if (waiting.length === 0) break;
    await world.deliver('observe-vm', waiting);
  }
  for (const queue of world.queues.keys()) world.queues.set(queue, []);
  world.announced.length = 0;
}
beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1);
  await observed(vm);
});
const changed = (id = vm.id) =>
  enveloped('casemate', 'VM Changed', {
    schemaVersion: 1,
    instanceId: id,
    at: world.now().toISOString(),
    state: 'running',
    managed: true,
    leavingScope: false,
    gone: false,
  });
const run = (...bodies: object[]) => world.handlers['issue-disk-keys'](sqsEvent(...bodies), CONTEXT);
const disks = () => [...world.rows.values()].filter((row) => 'generations' in row);

describe('a covered volume', () => {
  test('gets one key, bound to disk, generation and VM, and it is announced', async () => {
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
    expect(disks()).toHaveLength(1);
    const [disk] = disks();
    expect(disk).toMatchObject({
      volumeId: 'vol-b0000001',
      instanceId: vm.id,
      generations: [{ generation: 1, state: 'issued', wrappedFor: vm.id }],
      decision: { reasons: ['KEY_ISSUED'], policies: ['disk-keys.managed'] },
    });
    expect(world.rows.get('disk#vol-b0000001')).toMatchObject({ disk: disk?.['disk'] });
    expect(world.kmsContexts).toEqual([
      { 'casemate:disk': disk?.['disk'], 'casemate:generation': '1', 'casemate:vm': vm.id },
    ]);
    expect(world.announced).toEqual([
      {
        detailType: 'Disk Key Issued',
        detail: expect.objectContaining({ volumeId: 'vol-b0000001', generation: 1, disk: disk?.['disk'] }),
      },
    ]);
  });

  test('gets no second one by a second event, and no second announcement', async () => {
    await run(changed());
    await run(changed(), changed());
    expect([disks().length, world.kmsContexts.length, world.announced.length]).toEqual([1, 1, 1]);
  });

  test('has its key announced again by a redelivered message', async () => {
    await run(changed());
    const again = sqsRecord(changed(), { receives: 2 });
    await world.handlers['issue-disk-keys']({ Records: [again] }, CONTEXT);
    expect([world.kmsContexts.length, world.announced.length]).toEqual([1, 2]);
    expect(world.announced[1]).toEqual(world.announced[0]);
  });

  test('gets one key when two workers issue at once; the other’s was never stored', async () => {
    const answers = await Promise.all([run(changed()), run(changed())]);
    expect(answers.flatMap((a) => a.batchItemFailures)).toEqual([]);
    expect(world.kmsContexts).toHaveLength(2);
    expect([disks().length, world.announced.length]).toEqual([1, 1]);
  });

  test('waits, unannounced, when both writes of a race were cancelled, and gets its key afterwards', async () => {
    const conflict = new TransactionCanceledException({
      message: 'cancelled',
      $metadata: {},
      CancellationReasons: [{ Code: 'TransactionConflict' }, { Code: 'None' }],
    });
    const heal = world.fail('TransactWriteItems', conflict);
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    heal();
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
    expect([disks().length, world.announced.length]).toEqual([1, 1]);
  });
});

describe('no key is made', () => {
  test.each<[string, Partial<WorldVm>]>([
    ['for a VM out of scope', { tags: {} }],
    ['for a root volume', { volumes: [{ id: 'vol-00000001', device: '/dev/xvda' }] }],
    [
      'for a Multi-Attach volume',
      { volumes: [{ id: 'vol-00000001', device: '/dev/sdf', multiAttach: true }] },
    ],
    [
      'for a volume made from a snapshot',
      { volumes: [{ id: 'vol-00000001', device: '/dev/sdf', snapshotId: 'snap-00000001' }] },
    ],
    ['for a VM that is terminated', { state: 'terminated' }],
  ])('%s', async (_, overrides) => {
    const other = launch(world, 2, overrides);
    await observed(other);
    await expect(run(changed(other.id))).resolves.toEqual({ batchItemFailures: [] });
    expect([world.kmsContexts, disks(), world.announced]).toEqual([[], [], []]);
  });

  test('for a VM that nobody observed', async () => {
    await expect(run(changed('i-000000ff'))).resolves.toEqual({ batchItemFailures: [] });
    expect(world.kmsContexts).toEqual([]);
  });

  test('for a disk that moved here from another VM: its key stays as it is', async () => {
    await run(changed());
    const before = structuredClone(disks());
    const other = launch(world, 2, { volumes: [...vm.volumes] });
    vm.volumes = [];
    await observed(vm, other);
    await run(changed(other.id), changed());
    expect(disks()).toEqual(before);
    expect(world.kmsContexts).toHaveLength(1);
  });
});

describe('when AWS says no', () => {
  const throttled = () => Object.assign(new Error('Rate exceeded'), { name: 'ThrottlingException' });

  test('to one key, the other volumes of the VM still get theirs, and the message is returned', async () => {
    vm.volumes.push({ id: 'vol-c0000001', device: '/dev/sdg' }, { id: 'vol-d0000001', device: '/dev/sdh' });
    await observed(vm);
    let calls = 0;
    const heal = world.fail('GenerateDataKeyWithoutPlaintext', throttled(), () => ++calls === 2);
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(disks()).toHaveLength(2);
    heal();
    const again = sqsRecord(changed(), { receives: 2 });
    await expect(world.handlers['issue-disk-keys']({ Records: [again] }, CONTEXT)).resolves.toEqual({
      batchItemFailures: [],
    });
    expect(disks()).toHaveLength(3);
    expect(world.kmsContexts).toHaveLength(3);
  });

  test('to the store, nothing is announced, and half of it is never there', async () => {
    world.fail('TransactWriteItems', throttled());
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect([...world.rows.keys()].filter((pk) => pk.startsWith('disk#'))).toEqual([]);
    expect(world.announced).toEqual([]);
  });

  test('to the announcement, the message is returned and the key is kept', async () => {
    world.fail('PutEvents', throttled());
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(disks()).toHaveLength(1);
  });

  test('to one VM of a batch, the others are worked on', async () => {
    const other = launch(world, 2);
    await observed(other);
    world.fail('GenerateDataKeyWithoutPlaintext', throttled(), (input) =>
      JSON.stringify(input['EncryptionContext']).includes(vm.id),
    );
    await expect(run(changed(), changed(other.id))).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(disks().map((d) => d['instanceId'])).toEqual([other.id]);
  });
});
