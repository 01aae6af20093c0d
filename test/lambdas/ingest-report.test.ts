import { beforeEach, describe, expect, test } from '@jest/globals';
import { MAX_PAYLOAD_CHARS } from '../../lib/domain/report.ts';
import { readPolicySources } from '../../lib/policy/compile.ts';
import { BOOT, createAgent, enrolled, fact, GOOD_FACTS, sealReport, type TestAgent } from '../world/agent.ts';
import type { WorldVm } from '../world/ec2.ts';
import { CONTEXT, enveloped, sqsEvent, sqsRecord } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, policySet, type World } from '../world/world.ts';

let world: World;
let vm: WorldVm;
let agent: TestAgent;
async function start(options: Parameters<typeof createWorld>[0] = {}, overrides: Partial<WorldVm> = {}) {
  world = createWorld(options);
  vm = launch(world, 1, overrides);
  world.stateChange(vm);
  await world.deliver('observe-vm', world.queues.get('observe-vm') ?? []);
  for (const queue of world.queues.keys()) world.queues.set(queue, []);
  agent = createAgent(vm.id);
  enrolled(world, agent);
  world.announced.length = 0;
}
beforeEach(() => start());

const event = (detail: object) => enveloped('casemate.agent', 'Capability Report', detail);
/** Sends reports as one batch, taken in by the queue now. */
const send = (...details: object[]) => {
  const { Records } = sqsEvent(...details.map(event));
  const sentAt = String(world.now().getTime());
  for (const record of Records) record.attributes.SentTimestamp = sentAt;
  return world.handlers['ingest-report']({ Records }, CONTEXT);
};
const report = (sequence: number, overrides: Parameters<typeof sealReport>[3] = {}) =>
  sealReport(world, agent, sequence, overrides);
const posture = () => world.rows.get(`posture#${vm.id}`);
const announced = (detailType: string) =>
  world.announced.filter((e) => e.detailType === detailType).map((e) => e.detail);

describe('a good report', () => {
  test('is accepted, makes the VM compliant, and is announced', async () => {
    await expect(send(report(1))).resolves.toEqual({ batchItemFailures: [] });
    expect(posture()).toMatchObject({
      verdict: 'compliant',
      reasons: ['POSTURE_PROVEN'],
      policies: ['posture.reported'],
      standing: { bootId: BOOT, sequence: 1, missing: 0, late: 0 },
      facts: GOOD_FACTS,
      validUntil: new Date(world.now().getTime() + 900_000).toISOString(),
    });
    expect(announced('Posture Changed')).toMatchObject([
      { verdict: 'compliant', reasons: ['POSTURE_PROVEN'] },
    ]);
  });

  test('that says the same again is stored with its time, and not announced', async () => {
    await send(report(1));
    world.advance(60);
    await send(report(2));
    expect(posture()).toMatchObject({ version: 2, standing: { sequence: 2 } });
    expect(announced('Posture Changed')).toHaveLength(1);
  });

  test('in a batch that came in the wrong order counts no gap', async () => {
    await send(report(3), report(1), report(2));
    expect(posture()).toMatchObject({ standing: { sequence: 3, missing: 0, late: 0 } });
  });

  test('after a gap counts what is missing', async () => {
    await send(report(2));
    await send(report(5));
    expect(posture()).toMatchObject({ verdict: 'compliant', standing: { sequence: 5, missing: 3 } });
  });

  test('delivered again by the queue changes nothing: the agent was not late', async () => {
    await send(report(1));
    const before = posture();
    const again = sqsRecord(event(report(1)), { receives: 2, sentAt: world.now() });
    await world.handlers['ingest-report']({ Records: [again] }, CONTEXT);
    expect(posture()).toEqual(before);
    expect(announced('Posture Changed')).toHaveLength(2);
  });

  test('put on the bus twice changes its count alone', async () => {
    await send(report(1));
    const before = posture();
    await send(report(1));
    expect(posture()).toEqual({
      ...before,
      version: 2,
      standing: { ...(before?.['standing'] as object), late: 1 },
    });
  });
});

describe('a report that is no report', () => {
  test.each<[string, string, (good: object) => object]>([
    ['without a signature', 'REPORT_MALFORMED', (good) => ({ ...good, signature: undefined })],
    ['with a part of its own', 'REPORT_MALFORMED', (good) => ({ ...good, identityDocument: 'AAAA' })],
    ['of another schema', 'REPORT_MALFORMED', (good) => ({ ...good, schemaVersion: 2 })],
    [
      'that is too large',
      'REPORT_TOO_LARGE',
      (good) => ({ ...good, payload: 'x'.repeat(MAX_PAYLOAD_CHARS + 1) }),
    ],
    ['whose payload is no text', 'REPORT_MALFORMED', (good) => ({ ...good, payload: {} })],
  ])('%s is rejected at once as %s, and its batch-mates are judged', async (_, reason, make) => {
    await expect(send(make(report(1)), report(1))).resolves.toEqual({ batchItemFailures: [] });
    expect(world.rejected.map((r) => r.reason)).toEqual([reason]);
    expect(posture()).toMatchObject({ verdict: 'compliant', refusals: { count: 0 } });
  });

  test('because an agent puts another type of event on the bus is rejected as EVENT_UNKNOWN', async () => {
    const forged = enveloped('casemate.agent', 'Posture Changed', { verdict: 'compliant' });
    await world.handlers['ingest-report'](sqsEvent(forged), CONTEXT);
    expect(world.rejected.map((r) => r.reason)).toEqual(['EVENT_UNKNOWN']);
  });
});

describe('a report is refused, recorded and announced', () => {
  const cases: readonly (readonly [string, () => object])[] = [
    ['REPORT_BAD_SIGNATURE', () => sealReport(world, createAgent(vm.id), 2)],
    ['REPORT_BAD_SIGNATURE', () => ({ ...report(2), payload: report(3).payload })],
    ['REPORT_BAD_SIGNATURE', () => report(2, { apiOrigin: 'https://other.example' })],
    ['REPORT_FOREIGN_INSTANCE', () => report(2, { instanceId: 'i-00000002' })],
    ['REPORT_FOREIGN_ACCOUNT', () => report(2, { accountId: '999999999999' })],
    ['REPORT_FOREIGN_ACCOUNT', () => report(2, { region: 'us-east-1' })],
    ['REPORT_MALFORMED', () => report(2, { agentVersion: 'x'.repeat(33) })],
    ['REPORT_MALFORMED', () => report(2, { facts: [fact('mem.swap', 'present', '\ud800')] })],
    [
      'REPORT_TIME_SKEW',
      () => report(2, { sentAt: new Date(world.now().getTime() - 301_000).toISOString() }),
    ],
    [
      'REPORT_TIME_SKEW',
      () => report(2, { sentAt: new Date(world.now().getTime() + 301_000).toISOString() }),
    ],
  ];

  test.each(cases)('as %s (%#), and the posture is as it was', async (reason, make) => {
    await send(report(1));
    const before = posture();
    await expect(send(make())).resolves.toEqual({ batchItemFailures: [] });
    expect(posture()).toEqual({
      ...before,
      version: 2,
      refusals: { count: 1, last: { at: world.now().toISOString(), reason } },
    });
    expect(announced('Report Refused')).toMatchObject([{ instanceId: vm.id, reason }]);
    expect(announced('Posture Changed')).toHaveLength(1);
  });

  test('as REPORT_UNKNOWN_KEY when no agent is enrolled', async () => {
    world.rows.delete(`enrol#${vm.id}`);
    await send(report(1));
    expect(posture()).toMatchObject({
      verdict: 'unproven',
      reasons: ['NOT_ENROLLED'],
      refusals: { count: 1, last: { reason: 'REPORT_UNKNOWN_KEY' } },
    });
  });

  test('as REPORT_UNKNOWN_VM when nobody observed the VM: announced, and nothing is stored of it', async () => {
    const stranger = createAgent('i-000000ff');
    await send(sealReport(world, stranger, 1));
    expect(announced('Report Refused')).toMatchObject([{ reason: 'REPORT_UNKNOWN_VM' }]);
    expect(world.rows.has('posture#i-000000ff')).toBe(false);
  });

  test('as FACT_CONTRADICTS_EC2: the VM is noncompliant until a better report', async () => {
    await start({}, { amdSevSnp: 'disabled' });
    await send(report(1));
    await send(report(3, { facts: [fact('mem.sev-snp.guest', 'present')] }));
    expect(posture()).toMatchObject({
      verdict: 'noncompliant',
      reasons: ['FACT_CONTRADICTED'],
      policies: ['quarantine.contradicted'],
      facts: GOOD_FACTS,
      contradicted: true,
    });
    expect(announced('Report Refused')).toMatchObject([{ reason: 'FACT_CONTRADICTS_EC2' }]);
    await send(report(2));
    expect(posture()).toMatchObject({ verdict: 'noncompliant', standing: { sequence: 3, late: 1 } });
    await send(report(4));
    expect(posture()).toMatchObject({ verdict: 'compliant', contradicted: false });
  });

  test('once for each reason, however many of a batch it hits', async () => {
    const forger = createAgent(vm.id);
    await send(...[1, 2, 3].map((n) => sealReport(world, forger, n)));
    expect(announced('Report Refused')).toHaveLength(1);
    expect(posture()).toMatchObject({ refusals: { count: 3 } });
  });
});

describe('a fact that is unknown', () => {
  test.each<[string, Partial<WorldVm>, string]>([
    ['mem.swap', {}, 'SWAP_UNKNOWN'],
    ['mem.sev-snp.guest', { amdSevSnp: 'enabled' }, 'SNP_NOT_SHOWN'],
  ])('%s keeps the fence closed', async (id, overrides, reason) => {
    await start({}, overrides);
    const facts = [
      ...GOOD_FACTS.filter((f) => f.id !== id && f.id !== 'mem.sev-snp.guest'),
      fact(id, 'unknown'),
    ];
    await send(report(1, { facts }));
    expect(posture()).toMatchObject({ verdict: 'unproven', reasons: [reason], contradicted: false });
  });

  test('is what a fact is that nobody reported', async () => {
    await send(report(1, { facts: [] }));
    expect(posture()).toMatchObject({ verdict: 'unproven', reasons: ['SWAP_UNKNOWN'] });
  });
});

describe('a posture', () => {
  test('that grew stale falls back when the VM is looked at again, and says so', async () => {
    await send(report(1));
    world.advance(901);
    const changed = enveloped('casemate', 'VM Changed', {
      schemaVersion: 1,
      instanceId: vm.id,
      at: world.now().toISOString(),
      state: 'running',
      managed: true,
      leavingScope: false,
      gone: false,
    });
    await world.handlers['ingest-report'](sqsEvent(changed), CONTEXT);
    expect(posture()).toMatchObject({ verdict: 'unproven', reasons: ['REPORT_STALE'] });
    expect(announced('Posture Changed').at(-1)).toMatchObject({ reasons: ['REPORT_STALE'] });
  });

  test('is not improved by a report that waited longer than it may be old', async () => {
    const observedAt = new Date(world.now().getTime() - 901_000).toISOString();
    await send(report(1, { observedAt }));
    expect(posture()).toMatchObject({ verdict: 'unproven', reasons: ['REPORT_STALE'] });
  });

  test('is denied when a policy fails to evaluate, with the reason', async () => {
    const sources = readPolicySources(new URL('../../policies/', import.meta.url));
    // Valid by the schema; overflows, and so fails to evaluate, from the second missing report on.
    const erring = `@id("test.erring") @reason("TOO_MANY_MISSING")
      forbid (principal, action == Casemate::Action::"LeaveProbation", resource)
      when { context.missedReports * 9223372036854775807 < 0 };`;
    const policy = policySet({
      ...sources,
      policies: new Map([...sources.policies, ['erring.cedar', erring]]),
    });
    await start({ policy });
    await send(report(1));
    expect(posture()).toMatchObject({ verdict: 'compliant' });
    await send(report(4));
    expect(posture()).toMatchObject({
      verdict: 'unproven',
      reasons: ['POLICY_ERROR'],
      policies: ['test.erring'],
    });
  });
});

describe('what the tags demand of the hardware', () => {
  const demanding = (value: string) =>
    start({}, { tags: { 'casemate:protect': 'true', 'casemate:require': value } });

  test('keeps a VM in probation that does not show it, and lets out one that does', async () => {
    await demanding('iommu mitigation:mds');
    await send(report(1, { facts: [...GOOD_FACTS, fact('virt.iommu', 'unknown')] }));
    expect(posture()).toMatchObject({
      verdict: 'unproven',
      reasons: ['IOMMU_INACTIVE', 'MITIGATION_MISSING'],
    });
    const shown = [fact('virt.iommu', 'present'), fact('kernel.vulnerability.mds', 'absent')];
    await send(report(2, { facts: [...GOOD_FACTS, ...shown] }));
    expect(posture()).toMatchObject({ verdict: 'compliant', reasons: ['POSTURE_PROVEN'] });
  });

  test('is refused where nobody knows what it is', async () => {
    await demanding('iomu');
    await send(report(1));
    expect(posture()).toMatchObject({ verdict: 'unproven', reasons: ['UNKNOWN_REQUIREMENT'] });
  });
});

describe('shadow policies', () => {
  const sources = readPolicySources(new URL('../../policies/', import.meta.url));
  const stricter = policySet({
    ...sources,
    policies: new Map([
      ...sources.policies,
      [
        'mine.cedar',
        `@id("mine.iommu") @reason("IOMMU_INACTIVE")
         forbid (principal, action == Casemate::Action::"LeaveProbation", resource)
         unless { context.facts["virt.iommu"].state == "present" };`,
      ],
    ]),
  });
  const COMPLIANT = { verdict: 'compliant', reasons: ['POSTURE_PROVEN'], policies: ['posture.reported'] };

  test('decide nothing; where they say otherwise it is kept, since when, until they agree', async () => {
    await start({ shadowPolicy: stricter });
    await send(report(1));
    const at = world.now().toISOString();
    const otherwise = { verdict: 'unproven', reasons: ['IOMMU_INACTIVE'], policies: ['mine.iommu'] };
    expect(posture()).toMatchObject({ ...COMPLIANT, shadow: { at, ...otherwise } });
    expect(world.announced.map((e) => e.detail['verdict'])).toEqual(['compliant']);
    world.advance(60);
    await send(report(2));
    expect(posture()).toMatchObject({ ...COMPLIANT, shadow: { at } });
    await send(report(3, { facts: [...GOOD_FACTS, fact('virt.iommu', 'present')] }));
    expect(posture()).toMatchObject(COMPLIANT);
    expect(posture()).not.toHaveProperty('shadow');
  });

  test('that fail, or fail to evaluate, hurt nothing', async () => {
    const decide = () => {
      throw new Error('no memory');
    };
    await start({ shadowPolicy: { decide } });
    await expect(send(report(1))).resolves.toEqual({ batchItemFailures: [] });
    expect(posture()).toMatchObject(COMPLIANT);
    expect(posture()).not.toHaveProperty('shadow');
  });

  test('that are taken away leave nothing behind', async () => {
    await start({ shadowPolicy: stricter });
    await send(report(1));
    const rows = new Map(world.rows);
    await start();
    for (const [pk, row] of rows) world.rows.set(pk, row);
    await send(report(2));
    expect(posture()).toMatchObject(COMPLIANT);
    expect(posture()).not.toHaveProperty('shadow');
  });
});

describe('when AWS says no', () => {
  const throttled = () => Object.assign(new Error('Rate exceeded'), { name: 'ThrottlingException' });

  test('to the store, the message is returned and the posture is not announced', async () => {
    world.fail('PutItem', throttled());
    await expect(send(report(1))).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect([posture(), announced('Posture Changed')]).toEqual([undefined, []]);
  });

  test('to the announcement, the redelivered report makes it, late as it is', async () => {
    const heal = world.fail('PutEvents', throttled());
    await expect(send(report(1))).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(posture()).toMatchObject({ verdict: 'compliant' });
    heal();
    const again = sqsRecord(event(report(1)), { receives: 2, sentAt: world.now() });
    await world.handlers['ingest-report']({ Records: [again] }, CONTEXT);
    expect(announced('Posture Changed')).toMatchObject([{ verdict: 'compliant' }]);
  });
});

test('of two workers with a report each one wins, the other looks again at once, and none is lost', async () => {
  const answers = await Promise.all([send(report(1)), send(report(2))]);
  expect(answers.flatMap((a) => a.batchItemFailures)).toEqual([]);
  expect(posture()).toMatchObject({ standing: { sequence: 2 }, verdict: 'compliant' });
});
