import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { Fact } from '../../lib/domain/fact.ts';
import {
  capabilityReportDetail,
  contradiction,
  judgeReport,
  MAX_PAYLOAD_CHARS,
  type ReportContext,
  type ReportPayload,
  type ReportStanding,
  reportPayload,
} from '../../lib/domain/report.ts';
import { signAsAgent } from '../../lib/domain/signature.ts';
import { type Purpose, signedBytes } from '../../lib/domain/transcript.ts';
import { BOOT, createAgent, fact, GOOD_FACTS, sealReport } from '../world/agent.ts';
import { ACCOUNT, REGION } from '../world/ec2.ts';
import { AT, anEnrolment, aStanding, aVm, later, NOW, VM_ID } from '../world/items.ts';
import { API_ORIGIN } from '../world/world.ts';

const agent = createAgent(VM_ID);
const clock = { now: () => NOW };
const OTHER_BOOT = '22222222-2222-4333-8444-555555555555';

const context = (overrides: Partial<ReportContext> = {}): ReportContext => ({
  vm: aVm(),
  enrolment: anEnrolment(agent),
  standing: null,
  apiOrigin: API_ORIGIN,
  receivedAt: NOW,
  ...overrides,
});
const report = (sequence = 1, overrides: Parameters<typeof sealReport>[3] = {}) =>
  sealReport(clock, agent, sequence, overrides);

/** Signs any text as the enrolled agent's payload. */
function signed(payload: string, changed: { purpose?: Purpose; accountId?: string; region?: string } = {}) {
  const bytes = signedBytes(
    {
      purpose: 'report',
      apiOrigin: API_ORIGIN,
      accountId: ACCOUNT,
      region: REGION,
      instanceId: VM_ID,
      agentPublicKey: agent.spki,
      ...changed,
    },
    payload,
  );
  const signature = signAsAgent(agent.privateKey, bytes).toString('base64');
  return { schemaVersion: 1 as const, instanceId: VM_ID, payload, signature };
}

describe('a report in order', () => {
  test('is accepted, and says where the stream stands', () => {
    const judgement = judgeReport(report(), context());
    expect(judgement).toMatchObject({
      kind: 'accept',
      payload: { instanceId: VM_ID, facts: GOOD_FACTS },
      standing: { bootId: BOOT, sequence: 1, sentAt: AT, observedAt: AT, missing: 0, late: 0 },
    });
  });

  test('after others keeps the counts of what was missing and late', () => {
    const standing = aStanding({ sequence: 4, missing: 2, late: 3 });
    expect(judgeReport(report(5), context({ standing }))).toMatchObject({
      kind: 'accept',
      standing: { sequence: 5, missing: 2, late: 3 },
    });
  });

  test('that waited in the spool is accepted with the time of its measurement', () => {
    const observedAt = later(-3600).toISOString();
    expect(judgeReport(report(1, { observedAt }), context())).toMatchObject({
      kind: 'accept',
      standing: { observedAt, sentAt: AT },
    });
  });
});

describe('a report with numbers missing before it', () => {
  test('is accepted and the gap is counted', () => {
    expect(judgeReport(report(5), context({ standing: aStanding({ sequence: 2 }) }))).toMatchObject({
      kind: 'accept',
      standing: { sequence: 5, missing: 2 },
    });
  });

  test('is accepted as the first of a boot, and those before it are counted', () => {
    expect(judgeReport(report(3), context())).toMatchObject({ kind: 'accept', standing: { missing: 2 } });
  });
});

describe('a report that comes late or twice', () => {
  test.each([1, 2, 3])('is counted and changes nothing else (sequence %i after 3)', (sequence) => {
    const standing = aStanding({ sequence: 3, missing: 1, late: 4 });
    expect(judgeReport(report(sequence), context({ standing }))).toEqual({
      kind: 'late',
      standing: { ...standing, late: 5 },
    });
  });

  test('is late also when it would have contradicted EC2', () => {
    const vm = aVm({ observation: { amdSevSnp: 'disabled' } });
    const facts = [fact('mem.sev-snp.guest', 'present')];
    const standing = aStanding({ sequence: 3 });
    expect(judgeReport(report(3, { facts }), context({ vm, standing })).kind).toBe('late');
  });
});

describe('a report of another boot', () => {
  const standing = aStanding({ sequence: 9, missing: 4, late: 2, sentAt: later(-60).toISOString() });

  test('that was sent later starts the counts anew', () => {
    expect(judgeReport(report(1, { bootId: OTHER_BOOT }), context({ standing }))).toMatchObject({
      kind: 'accept',
      standing: { bootId: OTHER_BOOT, sequence: 1, missing: 0, late: 0 },
    });
  });

  test('that was sent earlier is an old boot played back: late, with any sequence', () => {
    for (const sequence of [1, 10, 1000]) {
      const old = report(sequence, {
        bootId: OTHER_BOOT,
        sentAt: later(-61).toISOString(),
        observedAt: later(-61).toISOString(),
      });
      expect(judgeReport(old, context({ standing }))).toMatchObject({
        kind: 'late',
        standing: { bootId: BOOT, sequence: 9, late: 3 },
      });
    }
  });

  test('that was sent at the very same time is late', () => {
    const now = aStanding({ sentAt: AT });
    expect(judgeReport(report(1, { bootId: OTHER_BOOT }), context({ standing: now })).kind).toBe('late');
  });
});

describe('a report is refused as', () => {
  const refusal = (
    detail: Parameters<typeof judgeReport>[0],
    overrides: Partial<ReportContext> = {},
  ): unknown => {
    const judgement = judgeReport(detail, context(overrides));
    return judgement.kind === 'refuse' ? [judgement.reason, judgement.authenticated] : judgement.kind;
  };

  test('REPORT_UNKNOWN_VM when nobody observed the VM', () => {
    expect(refusal(report(), { vm: undefined })).toEqual(['REPORT_UNKNOWN_VM', false]);
  });

  test('REPORT_UNKNOWN_VM when the VM is not in scope', () => {
    expect(refusal(report(), { vm: aVm({ managed: false }) })).toEqual(['REPORT_UNKNOWN_VM', false]);
  });

  test('REPORT_UNKNOWN_KEY when no agent is enrolled', () => {
    expect(refusal(report(), { enrolment: undefined })).toEqual(['REPORT_UNKNOWN_KEY', false]);
  });

  test('REPORT_UNKNOWN_KEY when what is enrolled is no key', () => {
    const enrolment = { ...anEnrolment(agent), publicKey: 'AAAA' };
    expect(refusal(report(), { enrolment })).toEqual(['REPORT_UNKNOWN_KEY', false]);
  });

  test('REPORT_BAD_SIGNATURE when another key signed it', () => {
    expect(refusal(sealReport(clock, createAgent(VM_ID), 1))).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test.each([
    ['nothing', ''],
    ['one byte', 'AA=='],
    ['63 bytes', Buffer.alloc(63, 1).toString('base64')],
    ['65 bytes', Buffer.alloc(65, 1).toString('base64')],
    ['zeros', Buffer.alloc(64).toString('base64')],
  ])('REPORT_BAD_SIGNATURE when the signature is %s', (_, signature) => {
    expect(refusal({ ...report(), signature })).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test('REPORT_BAD_SIGNATURE when the signature is in DER', () => {
    const raw = Buffer.from(report().signature, 'base64');
    const integer = (bytes: Buffer) => {
      const positive = (bytes[0] ?? 0) & 0x80 ? Buffer.concat([Buffer.of(0), bytes]) : bytes;
      return Buffer.concat([Buffer.of(2, positive.length), positive]);
    };
    const body = Buffer.concat([integer(raw.subarray(0, 32)), integer(raw.subarray(32))]);
    const der = Buffer.concat([Buffer.of(0x30, body.length), body]).toString('base64');
    expect(refusal({ ...report(), signature: der })).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test.each([
    ['for another purpose', { purpose: 'enrol' as const }],
    ['for another account', { accountId: '999999999999' }],
    ['for another Region', { region: 'us-east-1' }],
  ])('REPORT_BAD_SIGNATURE when it was signed %s', (_, changed) => {
    expect(refusal(signed(report().payload, changed))).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test('REPORT_BAD_SIGNATURE when it was signed for another API', () => {
    const detail = report(1, { apiOrigin: 'https://evil.example' });
    expect(refusal(detail)).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test('REPORT_BAD_SIGNATURE when the signature was moved to another payload', () => {
    const detail = { ...report(2), signature: report(1).signature };
    expect(refusal(detail)).toEqual(['REPORT_BAD_SIGNATURE', false]);
  });

  test('REPORT_BAD_SIGNATURE when any one character of the payload was changed', () => {
    const detail = report();
    void fc.assert(
      fc.property(fc.nat(detail.payload.length - 1), fc.constantFrom('0', 'x', '"', ' '), (at, character) => {
        fc.pre(detail.payload[at] !== character);
        const payload = detail.payload.slice(0, at) + character + detail.payload.slice(at + 1);
        expect(refusal({ ...detail, payload })).toEqual(['REPORT_BAD_SIGNATURE', false]);
      }),
      { numRuns: 40 },
    );
  });

  test.each([
    ['no JSON', '{'],
    ['not an object', '[]'],
    ['another schema', JSON.stringify({ ...JSON.parse(report().payload), schema: 'casemate.report/2' })],
    ['a part of its own', JSON.stringify({ ...JSON.parse(report().payload), more: 1 })],
    ['sequence 0', JSON.stringify({ ...JSON.parse(report().payload), sequence: 0 })],
    ['half a sequence', JSON.stringify({ ...JSON.parse(report().payload), sequence: 1.5 })],
    [
      'a time without a zone',
      JSON.stringify({ ...JSON.parse(report().payload), sentAt: '2026-11-24T08:00' }),
    ],
    [
      'too many facts',
      JSON.stringify({ ...JSON.parse(report().payload), facts: Array(513).fill(GOOD_FACTS[0]) }),
    ],
    [
      'a fact twice, once for the check and once for policy',
      JSON.stringify({
        ...JSON.parse(report().payload),
        facts: [fact('mem.sev-snp.guest', 'absent'), fact('mem.sev-snp.guest', 'present')],
      }),
    ],
    [
      'a number that the table cannot hold',
      JSON.stringify({ ...JSON.parse(report().payload), facts: [fact('mem.sev.asids', 'present', 1e300)] }),
    ],
  ])('REPORT_MALFORMED when the payload has %s', (_, payload) => {
    expect(refusal(signed(payload))).toEqual(['REPORT_MALFORMED', true]);
  });

  test('REPORT_FOREIGN_INSTANCE when the signed payload names another instance', () => {
    expect(refusal(report(1, { instanceId: 'i-00000002' }))).toEqual(['REPORT_FOREIGN_INSTANCE', true]);
  });

  test.each([{ accountId: '999999999999' }, { region: 'us-east-1' }])(
    'REPORT_FOREIGN_ACCOUNT when the signed payload names %j',
    (overrides) => {
      expect(refusal(report(1, overrides))).toEqual(['REPORT_FOREIGN_ACCOUNT', true]);
    },
  );

  test.each([
    [-301, ['REPORT_TIME_SKEW', true]],
    [-300, 'accept'],
    [300, 'accept'],
    [301, ['REPORT_TIME_SKEW', true]],
  ])(
    'REPORT_TIME_SKEW beyond five minutes either way: received %i s after it was sent',
    (seconds, outcome) => {
      expect(refusal(report(), { receivedAt: later(seconds) })).toEqual(outcome);
    },
  );

  test('REPORT_TIME_SKEW when it was measured after it was sent', () => {
    expect(refusal(report(1, { observedAt: later(1).toISOString() }))).toEqual(['REPORT_TIME_SKEW', true]);
  });

  test('FACT_CONTRADICTS_EC2, and takes its place in the stream, so that no older one can undo it', () => {
    const vm = aVm({ observation: { amdSevSnp: 'enabled' } });
    const detail = report(4, { facts: [fact('mem.sev-snp.guest', 'absent')] });
    const judgement = judgeReport(detail, context({ vm, standing: aStanding({ sequence: 2 }) }));
    expect(judgement).toMatchObject({
      kind: 'refuse',
      reason: 'FACT_CONTRADICTS_EC2',
      authenticated: true,
      standing: { sequence: 4, missing: 1 },
    });
  });
});

describe('a fact contradicts what EC2 asserts', () => {
  const says = (facts: Fact[], observation: Parameters<typeof aVm>[0] extends infer O ? O : never) =>
    contradiction({ facts } as unknown as ReportPayload, aVm(observation));
  const SNP = 'mem.sev-snp.guest';

  test.each([
    ['enabled', 'absent', SNP],
    ['enabled', 'present', undefined],
    ['disabled', 'present', SNP],
    ['disabled', 'absent', undefined],
    [null, 'present', undefined],
    [null, 'absent', undefined],
  ] as const)('SEV-SNP %s in EC2, %s in the guest: %s', (amdSevSnp, state, expected) => {
    expect(says([fact(SNP, state)], { observation: { amdSevSnp } })).toBe(expected);
  });

  test.each(['virt.vmx.advertised', 'virt.svm.advertised'])('%s without nested virtualization', (id) => {
    const without = { observation: { nestedVirtualization: 'disabled' as const } };
    expect(says([fact(id, 'present')], without)).toBe(id);
    expect(says([fact(id, 'absent')], without)).toBeUndefined();
    for (const nestedVirtualization of ['enabled', null] as const) {
      expect(says([fact(id, 'present')], { observation: { nestedVirtualization } })).toBeUndefined();
    }
  });

  test.each(['m7i.metal-24xl', 'c5.metal'])('but not on %s, which is the machine itself', (instanceType) => {
    const metal = { observation: { nestedVirtualization: 'disabled' as const, instanceType } };
    expect(says([fact('virt.vmx.advertised', 'present')], metal)).toBeUndefined();
  });

  test('never by being unknown or by not being there', () => {
    void fc.assert(
      fc.property(
        fc.constantFrom('enabled' as const, 'disabled' as const, null),
        fc.constantFrom('enabled' as const, 'disabled' as const, null),
        fc.subarray([SNP, 'virt.vmx.advertised', 'virt.svm.advertised']),
        (amdSevSnp, nestedVirtualization, ids) => {
          const facts = ids.map((id) => fact(id, 'unknown'));
          expect(says(facts, { observation: { amdSevSnp, nestedVirtualization } })).toBeUndefined();
        },
      ),
    );
  });
});

describe('any order in which the reports of one boot come', () => {
  test('accepts ever higher numbers only, and every number is accepted, missing or late', () => {
    const sealed = new Map(Array.from({ length: 9 }, (_, i) => [i + 1, report(i + 1)]));
    void fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 20 }), (order) => {
        let standing: ReportStanding | null = null;
        let late = 0;
        const accepted: number[] = [];
        for (const sequence of order) {
          const detail = sealed.get(sequence) as ReturnType<typeof report>;
          const judgement = judgeReport(detail, context({ standing }));
          if (judgement.kind === 'refuse') throw new Error(judgement.reason);
          if (judgement.kind === 'accept') accepted.push(sequence);
          else late += 1;
          standing = judgement.standing;
        }
        expect(accepted).toEqual([...new Set(accepted)].sort((a, b) => a - b));
        expect(accepted.at(-1)).toBe(Math.max(...order));
        expect(standing).toMatchObject({
          sequence: Math.max(...order),
          missing: Math.max(...order) - accepted.length,
          late,
        });
      }),
      { numRuns: 60 },
    );
  });
});

describe('the detail of a report', () => {
  test('has room for the largest payload and no more', () => {
    const detail = report();
    const sized = (length: number) =>
      capabilityReportDetail.safeParse({ ...detail, payload: 'x'.repeat(length) }).success;
    expect(sized(MAX_PAYLOAD_CHARS)).toBe(true);
    expect(sized(MAX_PAYLOAD_CHARS + 1)).toBe(false);
  });

  test('holds the facts of the real schema', () => {
    expect(reportPayload.safeParse(JSON.parse(report().payload)).success).toBe(true);
    const unexplained = { ...JSON.parse(report().payload), facts: [{ id: 'Mem.SEV', state: 'present' }] };
    expect(reportPayload.safeParse(unexplained).success).toBe(false);
  });
});

test('a report signed with a P-384 key that somebody put into the table is not looked at', () => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const enrolment = {
    ...anEnrolment(agent),
    publicKey: publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
  };
  expect(judgeReport(report(), context({ enrolment }))).toMatchObject({ reason: 'REPORT_UNKNOWN_KEY' });
});
