import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { FactState, SourcedFact } from '../../lib/domain/fact.ts';
import { POLICY_ACTIONS, type PolicyAction } from '../../lib/domain/policy.ts';
import { POLICY_FACTS, type PolicyFactId } from '../../lib/domain/policy-facts.ts';
import { policyFacts } from '../../lib/domain/posture.ts';
import { REASONS } from '../../lib/domain/reasons.ts';
import { PolicySetError } from '../../lib/policy/cedar.ts';
import { type PolicySources, readPolicySources } from '../../lib/policy/compile.ts';
import { cedarFacts } from '../../lib/policy/engine.ts';
import { anObservation, aVm, DISK } from '../world/items.ts';
import { policySet, projectPolicies } from '../world/world.ts';

const sources = readPolicySources(new URL('../../policies/', import.meta.url));
const policy = projectPolicies();
const FLEET = { type: 'Fleet', id: '123456789012/eu-west-1' } as const;
const DISK_RESOURCE = { type: 'Disk', id: DISK, sizeGiB: 8 } as const;

type Said = Partial<Record<PolicyFactId, FactState | `${FactState}:${string}`>>;
/** Every fact that policy may read, `absent` unless said otherwise. */
function facts(said: Said = {}): ReturnType<typeof cedarFacts> {
  const all = Object.fromEntries(
    POLICY_FACTS.map((id): [string, SourcedFact] => {
      const [state, value] = (said[id] ?? 'absent').split(':') as [FactState, string | undefined];
      return [id, { state, source: id.startsWith('ec2.') ? 'asserted' : 'claimed', value }];
    }),
  );
  return cedarFacts(all);
}
const DEMANDS = { requires: [], requiredMitigations: [], mitigated: [] };
const posture = (said: Said = {}, overrides: object = {}) => ({
  facts: facts(said),
  enrolled: true,
  contradicted: false,
  missedReports: 0,
  ...DEMANDS,
  ...overrides,
});
const release = (said: Said = {}, overrides: object = {}) => ({
  facts: facts(said),
  verdict: 'compliant',
  profile: 'workload',
  isolated: true,
  mode: 'enforce',
  held: false,
  contained: false,
  ...DEMANDS,
  ...overrides,
});

describe('schema and policies', () => {
  test('the schema declares exactly the facts that policies may read', () => {
    const block = /type Facts = \{([^}]*)\}/.exec(sources.schema)?.[1] ?? '';
    const declared = [...block.matchAll(/"([^"]+)": Fact,/g)].map((m) => m[1]);
    expect(declared.sort()).toEqual([...POLICY_FACTS].sort());
  });

  test('the schema declares exactly the questions', () => {
    const declared = [...sources.schema.matchAll(/^\s*action (\w+) appliesTo/gm)].map((m) => m[1]);
    expect(declared.sort()).toEqual(Object.keys(POLICY_ACTIONS).sort());
  });

  test('each policy has an id and a reason that exists', () => {
    expect(policy.policies.length).toBeGreaterThanOrEqual(12);
    for (const { id, reason } of policy.policies) {
      expect(id).toMatch(/^[a-z][a-z.-]+$/);
      expect(Object.keys(REASONS)).toContain(reason);
    }
  });

  test('every question is answered for a VM of which nothing is known: nothing is let out or in', () => {
    const unknown = cedarFacts(policyFacts({ facts: [] }, aVm(), []));
    const vm = anObservation({ tags: {} });
    expect(policy.decide('Manage', vm, FLEET, {}).allowed).toBe(false);
    expect(policy.decide('IssueKey', vm, DISK_RESOURCE, { managed: false }).allowed).toBe(false);
    expect(
      policy.decide('LeaveProbation', vm, FLEET, posture({}, { facts: unknown, enrolled: false })).allowed,
    ).toBe(false);
    expect(
      policy.decide('ReleaseKey', vm, DISK_RESOURCE, release({}, { facts: unknown, verdict: 'unproven' }))
        .allowed,
    ).toBe(false);
    expect(policy.decide('Quarantine', vm, FLEET, posture({}, { facts: unknown })).allowed).toBe(false);
  });
});

describe('LeaveProbation', () => {
  const decide = (context: object) =>
    policy.decide('LeaveProbation', anObservation(), FLEET, context as Record<string, unknown>);

  test.each(POLICY_FACTS)('%s unknown never helps', (id) => {
    void fc.assert(
      fc.property(
        fc.record(
          Object.fromEntries(
            POLICY_FACTS.map((f) => [f, fc.constantFrom<FactState>('present', 'absent', 'unknown')]),
          ),
        ),
        (said) => {
          const asUnknown = decide(posture({ ...said, [id]: 'unknown' })).allowed;
          if (!asUnknown) return;
          // What is let out with the fact unread is let out for one of the things that it can be.
          const states = ['present', 'absent', 'present:encrypted'] as const;
          expect(states.some((state) => decide(posture({ ...said, [id]: state })).allowed)).toBe(true);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('a question that is not put right is denied', () => {
  test.each<[string, Record<string, unknown>]>([
    ['without context', {}],
    ['without the facts', { enrolled: true, contradicted: false, missedReports: 0 }],
    ['with a fact missing', posture({}, { facts: { 'mem.swap': facts()['mem.swap'] } })],
    [
      'with a fact that policy does not know',
      posture({}, { facts: { ...facts(), 'cpu.family': facts()['mem.swap'] } }),
    ],
    ['with a text for a number', posture({}, { missedReports: 'none' })],
  ])('%s', (_, context) => {
    const decision = policy.decide('LeaveProbation', anObservation(), FLEET, context);
    expect(decision).toMatchObject({ allowed: false, reasons: ['POLICY_ERROR'], policies: [] });
    expect(decision.errors.length).toBeGreaterThan(0);
  });

  test('about the wrong kind of thing', () => {
    expect(policy.decide('LeaveProbation', anObservation(), DISK_RESOURCE, posture())).toMatchObject({
      allowed: false,
      reasons: ['POLICY_ERROR'],
    });
  });

  test('and no tag or value that a VM can have makes it throw', () => {
    const text = fc.string({
      unit: fc.oneof(
        fc.string({ minLength: 1, maxLength: 1 }),
        fc.constantFrom('\ud800', '\0', '"', '__entity', '__extn', '__proto__'),
      ),
      maxLength: 8,
    });
    void fc.assert(
      fc.property(fc.dictionary(text, text), text, text, (tags, value, imageId) => {
        const vm = anObservation({ tags, imageId });
        const manage = policy.decide('Manage', vm, FLEET, {});
        const swap = { state: 'present', source: 'claimed', value };
        const context = posture({}, { facts: { ...facts(), 'mem.swap': swap } });
        const leave = policy.decide('LeaveProbation', vm, FLEET, context);
        // Half of a surrogate pair is nothing that Cedar can be asked about.
        const whole = [...Object.entries(tags).flat(), imageId].every((t) => t.isWellFormed());
        if (!whole)
          expect([manage, leave].map((d) => d.reasons)).toEqual([['POLICY_ERROR'], ['POLICY_ERROR']]);
        expect(manage.allowed).toBe(whole && tags['casemate:protect'] === 'true');
        expect(leave.allowed).toBe(whole && value === 'encrypted');
      }),
      { numRuns: 300 },
    );
  });
});

/** An engine with the project's policies and some more. */
function engineWith(text: string, schema = sources.schema) {
  const policies: PolicySources = {
    schema,
    policies: new Map([...sources.policies, ['test.cedar', text]]),
  };
  return policySet(policies);
}

describe('a policy that fails to evaluate', () => {
  /** Valid by the schema; overflows when it is evaluated. */
  const erring = (effect: 'permit' | 'forbid', action: PolicyAction, number: string) =>
    `@id("test.erring") @reason("KEY_ISSUED")
     ${effect} (principal, action == Casemate::Action::"${action}", resource)
     when { ${number} * 9223372036854775807 < 0 };`;

  test.each(['permit', 'forbid'] as const)('denies release, as a %s', (effect) => {
    const engine = engineWith(erring(effect, 'ReleaseKey', 'resource.sizeGiB'));
    expect(engine.decide('ReleaseKey', anObservation(), DISK_RESOURCE, release())).toMatchObject({
      allowed: false,
      reasons: expect.arrayContaining(['POLICY_ERROR']),
      errors: [expect.stringContaining('test.erring')],
    });
    // The same policy denies nothing where it does evaluate.
    const small = { ...DISK_RESOURCE, sizeGiB: 1 };
    expect(engine.decide('ReleaseKey', anObservation(), small, release())).toMatchObject({ allowed: true });
  });

  test.each(['permit', 'forbid'] as const)('denies leaving probation, as a %s', (effect) => {
    const engine = engineWith(erring(effect, 'LeaveProbation', 'context.missedReports'));
    const decide = (missedReports: number) =>
      engine.decide('LeaveProbation', anObservation(), FLEET, posture({}, { missedReports }));
    expect(decide(2)).toMatchObject({ allowed: false, reasons: expect.arrayContaining(['POLICY_ERROR']) });
    expect(decide(1)).toMatchObject({ allowed: true, errors: [] });
  });

  test('does not keep a VM out of quarantine', () => {
    const engine = engineWith(erring('permit', 'Quarantine', 'context.missedReports'));
    const context = posture({}, { contradicted: true, missedReports: 2 });
    const decision = engine.decide('Quarantine', anObservation(), FLEET, context);
    expect([decision.allowed, decision.errors.length]).toEqual([true, 1]);
  });
});

describe('a policy set is refused, with the fault', () => {
  const good = '@id("test.extra") @reason("KEY_ISSUED") permit (principal, action, resource);';
  test('but not one more policy that is right', () => {
    expect(() => engineWith(good)).not.toThrow();
  });

  test.each<[string, string, RegExp]>([
    ['that does not parse', 'permit (principal', /^test\.cedar: /],
    ['without an id', '@reason("KEY_ISSUED") permit (principal, action, resource);', /@id/],
    ['without a reason', '@id("test.extra") permit (principal, action, resource);', /@reason/],
    [
      'with an empty reason',
      '@id("test.extra") @reason("") permit (principal, action, resource);',
      /@reason/,
    ],
    ['with an id that is taken', good.replace('test.extra', 'scope.tagged'), /second policy.*scope\.tagged/],
    ['with a template', good.replace('principal,', 'principal == ?principal,'), /templates/],
    [
      'that reads a fact that there is not',
      `${good.slice(0, -1)} when { context.facts["mem.x"].state == "a" };`,
      /test\.extra/,
    ],
    [
      'that reads what may be absent without asking',
      `@id("test.extra") @reason("KEY_ISSUED") permit (principal, action == Casemate::Action::"LeaveProbation", resource) when { context.facts["mem.swap"].value == "encrypted" };`,
      /test\.extra/,
    ],
    [
      'about an action that there is not',
      good.replace('action,', 'action == Casemate::Action::"OpenAll",'),
      /test\.extra/,
    ],
  ])('%s', (_, text, fault) => {
    expect(() => engineWith(text)).toThrow(PolicySetError);
    expect(() => engineWith(text)).toThrow(fault);
  });

  test('whose schema does not parse', () => {
    expect(() => engineWith(good, 'namespace Casemate {')).toThrow(PolicySetError);
  });
});

test('two engines beside each other do not share policies', () => {
  const open = engineWith(
    '@id("test.open") @reason("IN_SCOPE") permit (principal, action == Casemate::Action::"Manage", resource);',
  );
  const vm = anObservation({ tags: {} });
  expect(open.decide('Manage', vm, FLEET, {}).allowed).toBe(true);
  expect(policy.decide('Manage', vm, FLEET, {}).allowed).toBe(false);
});
