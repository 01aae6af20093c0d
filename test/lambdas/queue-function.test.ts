import { beforeEach, describe, expect, test } from '@jest/globals';
import { MAX_EVENT_BYTES } from '../../lib/domain/envelope.ts';
import { createAgent, enrolled, sealReport } from '../world/agent.ts';
import { CONTEXT, enveloped, RECORDED_VM, recorded, sqsEvent, sqsRecord } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, QUEUES, type QueueName, type World } from '../world/world.ts';

/** What each queue-driven function understands, of one VM. */
const understood = (world: World, vmId: string): Record<QueueName, object> => {
  const changed = enveloped('casemate', 'VM Changed', {
    schemaVersion: 1,
    instanceId: vmId,
    at: world.now().toISOString(),
    state: 'running',
    managed: true,
    leavingScope: false,
    gone: false,
  });
  return {
    'observe-vm': { ...recorded('ec2-state-running'), detail: { 'instance-id': vmId, state: 'running' } },
    'issue-disk-keys': changed,
    'ingest-report': changed,
    'apply-isolation': changed,
    'complete-launch': enveloped('casemate', 'Isolation Changed', {
      schemaVersion: 1,
      instanceId: vmId,
      at: world.now().toISOString(),
      profile: 'probation',
      applied: true,
      mode: 'enforce',
      interfaces: [],
      reasons: [],
    }),
  };
};

describe.each(QUEUES)('%s', (queue) => {
  let world: World;
  let good: object;
  beforeEach(() => {
    world = createWorld();
    good = understood(world, launch(world, 1).id)[queue];
  });
  const run = (...bodies: (string | object)[]) => world.handlers[queue](sqsEvent(...bodies), CONTEXT);

  test.each<[string, string, string | object]>([
    ['is not JSON', 'EVENT_NOT_JSON', '{"detail":'],
    ['is no event', 'EVENT_MALFORMED', '[]'],
    ['has no detail', 'EVENT_MALFORMED', { source: 'casemate', 'detail-type': 'VM Changed' }],
    ['nobody here understands', 'EVENT_UNKNOWN', enveloped('aws.s3', 'Object Created', {})],
    [
      'is larger than an event can be',
      'EVENT_TOO_LARGE',
      enveloped('casemate', 'VM Changed', { text: 'x'.repeat(MAX_EVENT_BYTES) }),
    ],
  ])('rejects a message that %s, with %s, and works on its batch-mates', async (_, reason, bad) => {
    await expect(run(good, bad, good)).resolves.toEqual({ batchItemFailures: [] });
    expect(world.rejected.map((r) => r.reason)).toEqual([reason]);
  });

  test('returns a message that could not be rejected, and only that one', async () => {
    world.fail('SendMessage', new Error('throttled'));
    await expect(run(good, 'nonsense', good)).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-2' }],
    });
  });

  test('rejects what no queue could hold as it is: control characters, half a character, no detail', async () => {
    const bodies = [
      enveloped('\u0001\ud800', 'x', {}),
      enveloped('casemate', 'VM Changed', { 'key \u0000 \ud83d': 1 }),
      '{"source":"casemate","detail-type":"VM Changed","detail":{"\\u0007":1}}',
    ];
    await expect(run(...bodies)).resolves.toEqual({ batchItemFailures: [] });
    expect(world.rejected).toHaveLength(3);
  });

  test('keeps the start of a large body, and never half of a character of it', async () => {
    const body = `x${'😀'.repeat(100 * 1024)}`;
    await expect(run(body)).resolves.toEqual({ batchItemFailures: [] });
    expect(world.rejected[0]?.body.length).toBeGreaterThan(100 * 1024);
  });

  test('returns every message of a batch whose reads fail, and finishes them when they work again', async () => {
    const heal = world.fail(
      'BatchGetItem',
      Object.assign(new Error('slow down'), { name: 'ThrottlingException' }),
    );
    await expect(run(good, good)).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }, { itemIdentifier: 'm-2' }],
    });
    heal();
    await expect(run(good, good)).resolves.toEqual({ batchItemFailures: [] });
  });

  test('answers an empty batch', async () => {
    await expect(world.handlers[queue]({ Records: [] }, CONTEXT)).resolves.toEqual({ batchItemFailures: [] });
  });
});

describe('one VM whose item in the table is not what its key says', () => {
  /** Two VMs as they are after their launch; the item of one is then broken. */
  async function brokenBeside(kind: 'vm' | 'posture' | 'isolation' | 'enrol') {
    const world = createWorld();
    const [bad, good] = [launch(world, 1), launch(world, 2)];
    for (const vm of [bad, good]) {
      world.stateChange(vm);
      enrolled(world, createAgent(vm.id));
    }
    await world.drain();
    world.rows.set(`${kind}#${bad.id}`, { pk: `${kind}#${bad.id}`, version: 1, broken: true });
    return { world, bad, good };
  }

  test.each<[QueueName, 'vm' | 'posture' | 'isolation' | 'enrol']>([
    ['observe-vm', 'vm'],
    ['issue-disk-keys', 'vm'],
    ['ingest-report', 'vm'],
    ['ingest-report', 'enrol'],
    ['ingest-report', 'posture'],
    ['apply-isolation', 'vm'],
    ['apply-isolation', 'posture'],
    ['apply-isolation', 'isolation'],
  ])('does not hold up its batch-mates in %s (%s#)', async (queue, kind) => {
    const { world, bad, good } = await brokenBeside(kind);
    const event = sqsEvent(understood(world, bad.id)[queue], understood(world, good.id)[queue]);
    await expect(world.handlers[queue](event, CONTEXT)).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    // Nothing was decided on it, and nothing written over it.
    expect(world.rows.get(`${kind}#${bad.id}`)).toMatchObject({ broken: true });
  });

  test('does not keep the sweep from having all others looked at', async () => {
    const { world, good } = await brokenBeside('vm');
    good.state = 'stopped';
    await world.sweep();
    await world.deliver('observe-vm', world.queues.get('observe-vm') ?? []);
    expect(world.rows.get(`vm#${good.id}`)).toMatchObject({ observation: { state: 'stopped' } });
  });
});

test('a message is worked on with the time at which the queue took it in, and known as delivered before', async () => {
  const world = createWorld();
  const vm = launch(world, 1);
  world.stateChange(vm);
  await world.drain();
  const agent = createAgent(vm.id);
  enrolled(world, agent);
  const report = enveloped('casemate.agent', 'Capability Report', sealReport(world, agent, 1));
  world.advance(3600);
  const late = sqsRecord(report, { sentAt: new Date(world.now().getTime() - 3_600_000), receives: 4 });
  await world.handlers['ingest-report']({ Records: [late] }, CONTEXT);
  expect(world.rows.get(`posture#${vm.id}`)).toMatchObject({ standing: { sequence: 1 } });
});

test('two messages about the same VM cost one look', async () => {
  const world = createWorld();
  launch(world, 1);
  const event = understood(world, 'i-00000001')['observe-vm'];
  world.calls.length = 0;
  await world.handlers['observe-vm'](sqsEvent(event, event, recorded('ec2-state-running')), CONTEXT);
  expect([...world.calls].sort()).toEqual(['DescribeInstances', 'DescribeVolumes']);
  expect(world.announced.map((e) => e.detail['instanceId'])).toEqual(['i-00000001']);
  expect(RECORDED_VM).not.toBe('i-00000001');
});
