import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { PolicyDecision } from '../../lib/domain/policy.ts';
import { POLICY_FACTS } from '../../lib/domain/policy-facts.ts';
import {
  type AskPosturePolicy,
  assessPosture,
  DECISIONS_KEPT,
  foldReport,
  INITIAL_POSTURE,
  type PostureState,
  policyFacts,
  postureItem,
  reassess,
  standingVerdict,
  type Verdict,
} from '../../lib/domain/posture.ts';
import type { ReportJudgement } from '../../lib/domain/report.ts';
import { createAgent, fact } from '../world/agent.ts';
import { AT, anEnrolment, aPosture, aStanding, aVm, later, NOW, VM_ID } from '../world/items.ts';

const enrolment = anEnrolment(createAgent(VM_ID));
const decided = (allowed: boolean, reason: string, errors: string[] = []): PolicyDecision => ({
  allowed,
  reasons: [reason],
  policies: allowed ? ['some.policy'] : [],
  errors,
  postureAlone: false,
});

/** A policy that answers the two questions as told, and notes what it was asked. */
function policy(answers: { leave?: PolicyDecision; quarantine?: PolicyDecision } = {}) {
  const asked: [string, Parameters<AskPosturePolicy>[1]][] = [];
  const ask: AskPosturePolicy = (action, context) => {
    asked.push([action, context]);
    return action === 'Quarantine'
      ? (answers.quarantine ?? decided(false, 'NO_POLICY_PERMITS'))
      : (answers.leave ?? decided(true, 'POSTURE_PROVEN'));
  };
  return { ask, asked };
}

const assess = (
  overrides: Partial<Parameters<typeof assessPosture>[0]> = {},
  ask: AskPosturePolicy = policy().ask,
) =>
  assessPosture(
    {
      vm: aVm(),
      enrolment,
      posture: { standing: aStanding(), facts: [], attestations: [], contradicted: false },
      previous: 'unproven',
      maxAgeSeconds: 900,
      evidenceMaxAgeSeconds: 7200,
      now: NOW,
      ...overrides,
    },
    ask,
  );

describe('the verdict', () => {
  test('is compliant when policy permits leaving probation', () => {
    expect(assess()).toEqual({
      verdict: 'compliant',
      reasons: ['POSTURE_PROVEN'],
      policies: ['some.policy'],
      validUntil: later(900).toISOString(),
    });
  });

  test('is unproven with the reasons of policy when it does not permit', () => {
    const { ask } = policy({ leave: decided(false, 'SWAP_UNKNOWN') });
    expect(assess({}, ask)).toMatchObject({ verdict: 'unproven', reasons: ['SWAP_UNKNOWN'] });
  });

  test('is noncompliant when policy wants quarantine, and leaving is not even asked', () => {
    const { ask, asked } = policy({ quarantine: decided(true, 'FACT_CONTRADICTED') });
    expect(assess({}, ask)).toMatchObject({ verdict: 'noncompliant', reasons: ['FACT_CONTRADICTED'] });
    expect(asked.map(([action]) => action)).toEqual(['Quarantine']);
  });

  test('is noncompliant for a VM that never enrolled, when policy wants quarantine', () => {
    const { ask } = policy({ quarantine: decided(true, 'BY_TAG') });
    expect(assess({ enrolment: undefined }, ask).verdict).toBe('noncompliant');
  });

  test('is unproven without an enrolled agent', () => {
    expect(assess({ enrolment: undefined })).toMatchObject({
      verdict: 'unproven',
      reasons: ['NOT_ENROLLED'],
    });
  });

  test('is unproven without a report', () => {
    const posture = { standing: null, facts: [], attestations: [], contradicted: false };
    expect(assess({ posture })).toMatchObject({
      verdict: 'unproven',
      reasons: ['NO_REPORT'],
      validUntil: null,
    });
  });

  test('is unproven when the last report is older than it may be, counted from its measurement', () => {
    expect(assess({ now: later(900) }).verdict).toBe('compliant');
    expect(assess({ now: later(901) })).toMatchObject({ verdict: 'unproven', reasons: ['REPORT_STALE'] });
    const waited = {
      standing: aStanding({ observedAt: later(-901).toISOString() }),
      facts: [],
      attestations: [],
      contradicted: false,
    };
    expect(assess({ posture: waited })).toMatchObject({ reasons: ['REPORT_STALE'] });
  });
});

describe('quarantine', () => {
  test.each([
    ['the report grows stale', { now: later(901) }, 'REPORT_STALE'],
    ['the enrolment is gone', { enrolment: undefined }, 'NOT_ENROLLED'],
    [
      'there is no report',
      { posture: { standing: null, facts: [], attestations: [], contradicted: false } },
      'NO_REPORT',
    ],
  ])('is not left because %s', (_, overrides, reason) => {
    expect(assess({ ...overrides, previous: 'noncompliant' })).toMatchObject({
      verdict: 'noncompliant',
      reasons: [reason],
    });
  });

  test('is left by a fresh report that policy finds nothing wrong with', () => {
    expect(assess({ previous: 'noncompliant' }).verdict).toBe('compliant');
    const { ask } = policy({ leave: decided(false, 'SWAP_UNKNOWN') });
    expect(assess({ previous: 'noncompliant' }, ask).verdict).toBe('unproven');
  });

  test('is not left while a policy about it fails to evaluate', () => {
    const { ask } = policy({ quarantine: decided(false, 'NO_POLICY_PERMITS', ['broken: type error']) });
    expect(assess({ previous: 'noncompliant' }, ask)).toMatchObject({
      verdict: 'noncompliant',
      reasons: ['POLICY_ERROR', 'POSTURE_PROVEN'],
    });
  });
});

describe('a policy that fails to evaluate', () => {
  test.each([
    ['LeaveProbation', { leave: decided(true, 'POSTURE_PROVEN', ['broken: type error']) }],
    ['Quarantine', { quarantine: decided(false, 'NO_POLICY_PERMITS', ['broken: type error']) }],
  ])('at %s denies leaving probation', (_, answers) => {
    expect(assess({}, policy(answers).ask)).toMatchObject({
      verdict: 'unproven',
      reasons: ['POLICY_ERROR', 'POSTURE_PROVEN'],
    });
  });

  test('beside one that wants quarantine does not prevent it', () => {
    const { ask } = policy({ quarantine: decided(true, 'FACT_CONTRADICTED', ['broken: type error']) });
    expect(assess({}, ask).verdict).toBe('noncompliant');
  });
});

test('nothing is ever compliant without enrolment, a fresh report and an unerring permit', () => {
  void fc.assert(
    fc.property(
      fc.record({
        enrolled: fc.boolean(),
        reported: fc.boolean(),
        age: fc.integer({ min: 0, max: 2000 }),
        leave: fc.boolean(),
        leaveErrs: fc.boolean(),
        quarantine: fc.boolean(),
        quarantineErrs: fc.boolean(),
        previous: fc.constantFrom<Verdict>('unproven', 'compliant', 'noncompliant'),
      }),
      (c) => {
        const { ask } = policy({
          leave: decided(c.leave, 'A', c.leaveErrs ? ['e'] : []),
          quarantine: decided(c.quarantine, 'B', c.quarantineErrs ? ['e'] : []),
        });
        const { verdict } = assess(
          {
            enrolment: c.enrolled ? enrolment : undefined,
            posture: {
              standing: c.reported ? aStanding() : null,
              facts: [],
              attestations: [],
              contradicted: false,
            },
            previous: c.previous,
            now: later(c.age),
          },
          ask,
        );
        const fit =
          c.enrolled &&
          c.reported &&
          c.age <= 900 &&
          c.leave &&
          !c.leaveErrs &&
          !c.quarantine &&
          !c.quarantineErrs;
        expect(verdict === 'compliant').toBe(fit);
        if (c.quarantine) expect(verdict).toBe('noncompliant');
      },
    ),
    { numRuns: 500 },
  );
});

describe('the facts that policy reads', () => {
  test('are all there, unknown when nobody said', () => {
    const facts = policyFacts({ facts: [] }, aVm({ observation: { instanceType: 'm5.large' } }), []);
    expect(Object.keys(facts).sort()).toEqual([...POLICY_FACTS].sort());
    for (const { state } of Object.values(facts)) expect(state).toBe('unknown');
  });

  test('keep unknown unknown, with their source', () => {
    const facts = policyFacts({ facts: [fact('mem.swap', 'unknown')] }, aVm(), []);
    expect(facts['mem.swap']).toMatchObject({ state: 'unknown', source: 'claimed' });
  });

  test.each([
    ['enabled', 'present'],
    ['disabled', 'absent'],
    [null, 'unknown'],
  ] as const)('say of a setting that EC2 shows as %s that it is %s, asserted', (setting, state) => {
    const vm = aVm({ observation: { amdSevSnp: setting, nestedVirtualization: setting } });
    const facts = policyFacts({ facts: [] }, vm, []);
    expect(facts['ec2.amd-sev-snp']).toEqual({ state, source: 'asserted' });
    expect(facts['ec2.nested-virtualization']).toEqual({ state, source: 'asserted' });
  });

  test.each([
    [1, 'absent'],
    [2, 'present'],
    [null, 'unknown'],
    [undefined, 'unknown'],
  ] as const)('say of %s threads a core that SMT is %s, asserted', (threadsPerCore, state) => {
    const facts = policyFacts(
      { facts: [fact('ec2.smt', 'absent')] },
      aVm({ observation: { threadsPerCore } }),
      [],
    );
    expect(facts['ec2.smt']).toEqual({ state, source: 'asserted' });
  });

  test.each([
    ['m6a.large', 'present'],
    ['m5.large', 'unknown'],
  ])('say of the memory of a %s that its encryption is %s, asserted', (instanceType, state) => {
    const facts = policyFacts({ facts: [] }, aVm({ observation: { instanceType } }), []);
    expect(facts['ec2.memory-encryption']).toEqual({ state, source: 'asserted' });
  });

  test('are never asserted by the guest, whatever it calls its facts', () => {
    const facts = policyFacts({ facts: [fact('ec2.amd-sev-snp', 'present')] }, aVm(), []);
    expect(facts['ec2.amd-sev-snp']).toEqual({ state: 'unknown', source: 'asserted' });
  });

  test('leave out what no policy may read', () => {
    const facts = policyFacts({ facts: [fact('cpu.family', 'present')] }, aVm(), []);
    expect(facts).not.toHaveProperty(['cpu.family']);
  });

  test('reach policy together with enrolment, contradiction and gaps', () => {
    const { ask, asked } = policy();
    const posture = { standing: aStanding({ missing: 7 }), facts: [], attestations: [], contradicted: true };
    assess({ posture }, ask);
    for (const [, context] of asked) {
      expect(context).toMatchObject({ enrolled: true, contradicted: true, missedReports: 7 });
    }
    expect(asked).toHaveLength(2);
  });
});

describe('what a posture is worth now', () => {
  test('nothing, when there is none', () => {
    expect(standingVerdict(undefined, NOW)).toEqual({ verdict: 'unproven', reasons: ['NO_REPORT'] });
  });
  test('what it says, up to its end', () => {
    expect(standingVerdict(aPosture(), later(900)).verdict).toBe('compliant');
    expect(standingVerdict(aPosture(), later(900.001))).toEqual({
      verdict: 'unproven',
      reasons: ['REPORT_STALE'],
    });
  });
  test('noncompliant does not end', () => {
    expect(standingVerdict(aPosture({ verdict: 'noncompliant' }), later(1e6)).verdict).toBe('noncompliant');
    const lacking = { verdict: 'unproven', reasons: ['SWAP_NOT_ENCRYPTED'] } as const;
    expect(standingVerdict(aPosture({ ...lacking, reasons: [...lacking.reasons] }), later(900))).toEqual(
      lacking,
    );
    expect(
      standingVerdict(aPosture({ ...lacking, reasons: [...lacking.reasons] }), later(901)).reasons,
    ).toEqual(['REPORT_STALE']);
    const stranger = aPosture({ verdict: 'unproven', reasons: ['NOT_ENROLLED'] });
    expect(standingVerdict(stranger, later(901)).reasons).toEqual(['NOT_ENROLLED']);
  });
});

describe('a judged report', () => {
  const before: PostureState = INITIAL_POSTURE(VM_ID, NOW);
  const payload = { facts: [fact('mem.swap', 'absent')] };
  const accepted = { kind: 'accept', payload, standing: aStanding() } as unknown as ReportJudgement;

  test('that was accepted brings its facts and clears a contradiction', () => {
    expect(foldReport({ ...before, contradicted: true }, accepted, NOW)).toEqual({
      ...before,
      standing: aStanding(),
      facts: payload.facts,
      contradicted: false,
    });
  });

  test('that was late changes the count alone', () => {
    const standing = aStanding({ late: 1 });
    expect(foldReport({ ...before, contradicted: true }, { kind: 'late', standing }, NOW)).toEqual({
      ...before,
      contradicted: true,
      standing,
    });
  });

  test('that was refused changes no fact, and is recorded with its reason', () => {
    const known = { ...before, facts: payload.facts, standing: aStanding() };
    const judgement = { kind: 'refuse', reason: 'REPORT_TIME_SKEW', authenticated: true } as const;
    expect(foldReport(known, judgement, later(5))).toEqual({
      ...known,
      refusals: { count: 1, last: { at: later(5).toISOString(), reason: 'REPORT_TIME_SKEW' } },
    });
  });

  test('that contradicts EC2 counts against the VM only when the enrolled key signed it', () => {
    const refused = (authenticated: boolean) =>
      foldReport(before, { kind: 'refuse', reason: 'FACT_CONTRADICTS_EC2', authenticated }, NOW).contradicted;
    expect(refused(true)).toBe(true);
    expect(refused(false)).toBe(false);
  });

  test('that contradicted stays so through refusals and late ones', () => {
    let posture = foldReport(
      before,
      { kind: 'refuse', reason: 'FACT_CONTRADICTS_EC2', authenticated: true, standing: aStanding() },
      NOW,
    );
    expect(posture.standing).toEqual(aStanding());
    const judgement = { kind: 'refuse', reason: 'REPORT_BAD_SIGNATURE', authenticated: false } as const;
    posture = foldReport(posture, judgement, NOW);
    posture = foldReport(posture, { kind: 'late', standing: aStanding({ late: 1 }) }, NOW);
    expect(posture).toMatchObject({ contradicted: true, refusals: { count: 2 } });
  });
});

describe('assessing anew', () => {
  const state = (overrides: Partial<PostureState> = {}): PostureState => {
    const { pk: _pk, version: _version, ...rest } = aPosture({ policies: ['some.policy'] });
    return { ...rest, ...overrides };
  };
  const again = (posture: PostureState, now = NOW) =>
    reassess(
      { vm: aVm(), enrolment, posture, maxAgeSeconds: 900, evidenceMaxAgeSeconds: 7200, now },
      policy().ask,
    );

  test('gives the very same object when nothing changed', () => {
    const posture = state();
    expect(again(posture)).toBe(posture);
  });

  test('keeps a decision once while a new report only moves its end', () => {
    const first = again(state({ verdict: 'unproven', reasons: ['NO_REPORT'] }));
    expect(first.decisions).toHaveLength(1);
    const moved = again(
      { ...first, standing: aStanding({ observedAt: later(60).toISOString() }) },
      later(60),
    );
    expect(moved.validUntil).toBe(later(960).toISOString());
    expect(moved.decisions).toEqual(first.decisions);
  });

  test('keeps the last decisions, newest first, and what it keeps fits the schema', () => {
    let posture = state();
    for (let i = 1; i <= DECISIONS_KEPT + 5; i++) {
      const leave = decided(i % 2 === 0, `REASON_${i}`);
      posture = reassess(
        { vm: aVm(), enrolment, posture, maxAgeSeconds: 9000, evidenceMaxAgeSeconds: 7200, now: later(i) },
        policy({ leave }).ask,
      );
    }
    expect(posture.decisions.map((d) => d.at)).toEqual(
      Array.from({ length: DECISIONS_KEPT }, (_, i) => later(DECISIONS_KEPT + 5 - i).toISOString()),
    );
    expect(postureItem.safeParse({ pk: `posture#${VM_ID}`, version: 1, ...posture }).success).toBe(true);
  });

  test('starts from unproven, without a report', () => {
    expect(INITIAL_POSTURE(VM_ID, NOW)).toMatchObject({
      verdict: 'unproven',
      reasons: ['NO_REPORT'],
      decidedAt: AT,
    });
  });
});
