import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { REASONS } from '../../lib/domain/reasons.ts';
import {
  PolicyCasesError,
  parsePolicyCases,
  policyCoverage,
  runPolicyCase,
  testPolicies,
} from '../../lib/policy/cases.ts';
import { readPolicySources } from '../../lib/policy/compile.ts';
import { policySet, projectPolicies } from '../world/world.ts';

const FOLDER = new URL('../../policies/', import.meta.url);
const policy = projectPolicies();
const cases = readdirSync(FOLDER)
  .filter((name) => name.endsWith('.test.yaml'))
  .flatMap((name) => parsePolicyCases(name, readFileSync(new URL(name, FOLDER), 'utf8')));

describe('the cases of the project', () => {
  test.each(cases.map((one) => [`${one.file}: ${one.action} ${one.it}`, one] as const))('%s', (_, one) => {
    expect(runPolicyCase(policy, one).actual).toEqual({
      decision: one.expected.decision,
      reasons: expect.arrayContaining([...one.expected.reasons]),
      policies: expect.arrayContaining([...(one.expected.policies ?? [])]),
      errors: [],
    });
    for (const reason of one.expected.reasons) expect(Object.keys(REASONS)).toContain(reason);
  });

  test('show every policy at work and at rest', () => {
    expect(testPolicies(policy, cases)).toMatchObject({
      passed: true,
      coverage: { neverDetermining: [], alwaysDetermining: [] },
    });
  });
});

const MANAGE = `
- action: Manage
  cases:
    - it: takes it in
      tags: { casemate:protect: 'true' }
      decision: allow
      reasons: [IN_SCOPE]
`;
const only = (text: string) => {
  const [one] = parsePolicyCases('my.test.yaml', text);
  if (!one) throw new Error('no case');
  return one;
};
const LEAVE = `
- action: LeaveProbation
  given:
    context: { enrolled: true, contradicted: false, missedReports: 0, requires: [], requiredMitigations: [], mitigated: [] }
    facts: { mem.swap: absent, tpm.version: present 2 }
    tags: { stage: production, team: payments }
    vm: { instanceType: c6a.large }
  cases:
    - it: lets it out
      facts: { mem.swap: { state: present, value: encrypted } }
      tags: { team: search }
      decision: allow
      reasons: [POSTURE_PROVEN]
`;

describe('a case', () => {
  test('says what its group does not say for it, and every fact is in its question', () => {
    const one = only(LEAVE);
    expect(one.vm).toMatchObject({
      instanceType: 'c6a.large',
      state: 'running',
      tags: { stage: 'production', team: 'search' },
    });
    expect(one.context['facts']).toMatchObject({
      'mem.swap': { state: 'present', source: 'claimed', value: 'encrypted' },
      'tpm.version': { state: 'present', source: 'claimed', value: '2' },
      'ec2.amd-sev-snp': { state: 'unknown', source: 'asserted' },
      'attest.nitrotpm': { state: 'unknown', source: 'claimed' },
    });
    expect(runPolicyCase(policy, one).holds).toBe(true);
  });

  test.each([
    ['another decision', 'decision: allow', 'decision: deny'],
    ['another reason', '[IN_SCOPE]', '[NOT_IN_SCOPE]'],
    ['one reason more', '[IN_SCOPE]', '[IN_SCOPE, NOT_IN_SCOPE]'],
    ['another policy', '[IN_SCOPE]', '[IN_SCOPE]\n      policies: [scope.other]'],
  ])('does not hold when it expects %s', (_, from, to) => {
    expect(runPolicyCase(policy, only(MANAGE)).holds).toBe(true);
    expect(runPolicyCase(policy, only(MANAGE.replace(from, to))).holds).toBe(false);
  });

  test('does not hold when the question does not fit the schema, and says why', () => {
    const result = runPolicyCase(policy, only(LEAVE.replace('missedReports: 0', 'missedReports: none')));
    expect(result).toMatchObject({ holds: false, actual: { reasons: ['POLICY_ERROR'] } });
    expect(result.actual.errors.length).toBeGreaterThan(0);
  });
});

describe('a file of cases is refused, with the place and the fault', () => {
  test.each<[string, string, RegExp]>([
    ['that is no YAML', MANAGE.replace('- it', '-- it:'), /^my\.test\.yaml: .* line \d/s],
    ['with a key twice', `${MANAGE}      decision: allow\n`, /unique/],
    ['without cases', '[]', /my\.test\.yaml/],
    ['about an action that there is not', MANAGE.replace('Manage', 'OpenAll'), /Manage.*\[0\]\.action/s],
    ['with a fact that policy does not know', LEAVE.replace('tpm.version', 'tpm.vendor'), /tpm\.vendor/],
    ['with a fact that is no fact', LEAVE.replace('present 2', 'presnt'), /present VALUE.*tpm\.version/s],
    [
      'with a state that there is not',
      LEAVE.replace('state: present', 'state: perhaps'),
      /present VALUE.*mem\.swap/s,
    ],
    ['with a word too many', MANAGE.replace('reasons:', 'reason: x\n      reasons:'), /reason/],
    ['without reasons', MANAGE.replace('[IN_SCOPE]', '[]'), /reasons/],
    ['with a tag that is no text', MANAGE.replace("'true'", 'true'), /tags/],
  ])('%s', (_, text, fault) => {
    expect(() => parsePolicyCases('my.test.yaml', text)).toThrow(PolicyCasesError);
    expect(() => parsePolicyCases('my.test.yaml', text)).toThrow(fault);
  });
});

describe('coverage', () => {
  const sources = readPolicySources(FOLDER);
  const withOneMore = policySet({
    ...sources,
    policies: new Map([
      ...sources.policies,
      [
        'mine.cedar',
        '@id("mine") @reason("MINE") permit (principal, action == Casemate::Action::"Manage", resource) when { principal.hasTag("mine") };',
      ],
    ]),
  });

  test('names a policy that no case shows at work', () => {
    expect(testPolicies(withOneMore, cases)).toMatchObject({
      passed: false,
      coverage: { neverDetermining: ['mine'], alwaysDetermining: [] },
    });
  });

  test('names a policy that no case shows at rest', () => {
    const results = parsePolicyCases('my.test.yaml', MANAGE).map((one) => runPolicyCase(policy, one));
    const scope = policy.policies.filter(({ id }) => id === 'scope.tagged');
    expect(policyCoverage(scope, results)).toEqual({
      neverDetermining: [],
      alwaysDetermining: ['scope.tagged'],
    });
  });

  test('fails the test of policies, though every case holds', () => {
    expect(testPolicies(policy, parsePolicyCases('my.test.yaml', MANAGE)).passed).toBe(false);
  });
});

test('the example of docs/policies.md is a policy that validates and does what it says', () => {
  const docs = readFileSync(new URL('../../docs/policies.md', import.meta.url), 'utf8');
  const [, example = ''] = /```cedar\n([^`]+)```/.exec(docs) ?? [];
  const sources = readPolicySources(FOLDER);
  const withIt = policySet({ ...sources, policies: new Map([...sources.policies, ['mine.cedar', example]]) });
  const decide = (text: string) => runPolicyCase(withIt, only(text)).actual;
  expect(decide(LEAVE)).toMatchObject({ decision: 'allow' });
  const bank = LEAVE.replace('team: payments', 'casemate:tenant: bank');
  expect(decide(bank)).toMatchObject({ decision: 'deny', policies: ['mine.bank-attests'] });
  const attests = bank
    .replace('mitigated: []', 'mitigated: [spectre-v2]')
    .replace(
      'facts: { mem.swap: {',
      'facts: { mem.sev-snp.guest: { state: present, source: attested }, mem.swap: {',
    );
  expect(decide(attests)).toMatchObject({ decision: 'allow' });
});
