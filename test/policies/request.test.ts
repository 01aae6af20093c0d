import * as cedar from '@cedar-policy/cedar-wasm/web';
import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { POLICY_ACTIONS, type PolicyAction } from '../../lib/domain/policy.ts';
import { POLICY_FACTS } from '../../lib/domain/policy-facts.ts';
import { REQUIREMENTS } from '../../lib/domain/requirements.ts';
import { PolicySetError } from '../../lib/policy/cedar.ts';
import { compilePolicies, type PolicySources, readPolicySources } from '../../lib/policy/compile.ts';
import type { PolicyResource, PolicyVm } from '../../lib/policy/engine.ts';
import { anObservation, DISK } from '../world/items.ts';
import { cedarWasm, policySet } from '../world/world.ts';

/**
 * The engine checks requests itself and hands over what policies read. Cedar, given everything and the schema,
 * is what it must agree with.
 */
const project = readPolicySources(new URL('../../policies/', import.meta.url));

/** Conditions that look at things in unusual ways. */
const TRICKY = [
  'context == context',
  '(if context.enrolled then context else context).facts["mem.swap"].state == "absent"',
  '[principal].contains(principal) && principal.state == "running"',
  '(if context.contradicted then principal else principal).instanceType == "m6a.large"',
  'principal == Casemate::Vm::"i-0a1b2c3d4e5f60718"',
  'principal is Casemate::Vm && principal has autoScalingGroup && principal.autoScalingGroup == "web"',
  'principal.hasTag(principal.imageId)',
  'context.requires.contains(principal.imageId)',
  'context.contradicted && context.facts["mem.swap"].source == "claimed"',
  'context.facts["mem.swap"].state == "present" && context.facts["tpm.version"].state == "present"',
  'context.facts["mem.swap"].state != "present" && context.facts["tpm.version"].state == "present"',
  'context.facts["mem.swap"].state == principal.state && context.facts["tpm.version"].state == "present"',
  'context.missedReports == 1 && context.facts["tpm.version"].state == "present"',
  '(context.enrolled == false) && context.facts["tpm.version"].state == "present"',
  'context.requires.contains("mds") && context.facts["mem.swap"].source == "claimed"',
  'context.requires.containsAny(context.mitigated)',
  'principal.hasTag("casemate:evidence") && context.facts["attest.nitrotpm"].source == "attested"',
  'principal.hasTag("team") || context.facts["tpm.version"].state == "present"',
  '!principal.hasTag("team") && context.facts["tpm.version"].state == "present"',
  'principal.hasTag("team") && principal.getTag("team") like "pay*"',
  '{ a: context.facts["tpm.version"] }.a.state != "present"',
  '["present"].contains(context.facts["virt.hypervisor"].state)',
  'context.facts["tpm.version"] has value && context.facts["tpm.version"].value == "2"',
  'context has facts && context.facts has "mem.swap" && context.missedReports > 1',
  '!(context.facts["mem.swap"] == context.facts["mem.tdx.guest"])',
  'resource == Casemate::Fleet::"123456789012/eu-west-1" && -context.missedReports < 0',
  'context.missedReports * 9223372036854775807 > 0',
  'resource in Casemate::Fleet::"123456789012/eu-west-1"',
];
const tricky = TRICKY.map(
  (condition, n) =>
    `@id("tricky.n${n}") @reason("R${n}") ${n % 2 ? 'permit' : 'forbid'} (principal, action == Casemate::Action::"Quarantine", resource) when { ${condition} };`,
);
const sources: PolicySources = {
  ...project,
  policies: new Map([...project.policies, ['tricky.cedar', tricky.join('\n')]]),
};
const engine = policySet(sources);
const staticPolicies = Object.fromEntries(engine.policies.map(({ id, text }) => [id, text]));
cedar.preparsePolicySet('plain', { staticPolicies });
cedar.preparseSchema('plain', sources.schema);

/** The whole request and the schema, as Cedar takes them. */
function plainly(
  action: PolicyAction,
  vm: PolicyVm,
  { type, id, ...attrs }: PolicyResource,
  context: Record<string, unknown>,
) {
  const principal = { type: 'Casemate::Vm', id: vm.instanceId };
  const resource = { type: `Casemate::${type}`, id };
  const { state, instanceType, imageId, autoScalingGroup } = vm;
  const answer = cedar.statefulIsAuthorized({
    principal,
    action: { type: 'Casemate::Action', id: action },
    resource,
    context: context as cedar.Context,
    entities: [
      {
        uid: principal,
        attrs: {
          state,
          instanceType,
          imageId,
          ...(autoScalingGroup === null ? {} : { autoScalingGroup }),
        },
        parents: [],
        tags: vm.tags,
      },
      { uid: resource, attrs: attrs as Record<string, number>, parents: [] },
    ],
    preparsedPolicySetId: 'plain',
    preparsedSchemaName: 'plain',
    validateRequest: true,
  });
  if (answer.type === 'failure') return 'refused';
  const { decision, diagnostics } = answer.response;
  return {
    decision,
    policies: [...diagnostics.reason].sort(),
    erring: diagnostics.errors.map((fault) => fault.policyId).sort(),
  };
}

function byEngine(...question: Parameters<typeof plainly>) {
  const { allowed, reasons, policies, errors } = engine.decide(...question);
  const erring = engine.policies
    .map(({ id }) => id)
    .filter((id) => errors.some((error) => error.startsWith(`${id}: `)))
    .sort();
  if (errors.length > 0 && erring.length === 0) return 'refused';
  // An error denies these two, and the erring policies are then what determined it.
  const overridden = reasons.includes('POLICY_ERROR');
  return {
    decision: overridden ? 'allow' : allowed ? 'allow' : 'deny',
    policies: overridden ? expect.anything() : policies,
    erring,
  };
}

const FLEET: PolicyResource = { type: 'Fleet', id: '123456789012/eu-west-1' };
const FACTS = Object.fromEntries(POLICY_FACTS.map((id) => [id, { state: 'absent', source: 'claimed' }]));

const text = fc.oneof(
  fc.constantFrom('present', 'absent', 'running', 'web', 'payments', '__entity', 'compliant', ''),
  fc.string(),
);
const fact = fc.record({ state: text, source: text, value: text }, { requiredKeys: ['state', 'source'] });
const facts = fc.record(Object.fromEntries(POLICY_FACTS.map((id) => [id, fact])));
const names = fc.uniqueArray(
  fc.oneof(fc.constantFrom('evidence', 'mitigation', 'mds', 'unknown', ...REQUIREMENTS), text),
);
const demands = { requires: names, requiredMitigations: names, mitigated: names };
const posture = fc.record({
  facts,
  enrolled: fc.boolean(),
  contradicted: fc.boolean(),
  missedReports: fc.constantFrom(0, 1, 2, Number.MAX_SAFE_INTEGER),
  ...demands,
});
const contexts: Record<PolicyAction, fc.Arbitrary<Record<string, unknown>>> = {
  Manage: fc.constant({}),
  IssueKey: fc.record({ managed: fc.boolean() }),
  AdoptDisk: fc.record({
    kind: text,
    lineage: text,
    ownDisk: fc.boolean(),
    sameTenant: fc.boolean(),
    allowed: fc.boolean(),
  }),
  ReleaseKey: fc.record({
    facts,
    verdict: text,
    profile: text,
    isolated: fc.boolean(),
    mode: text,
    held: fc.boolean(),
    contained: fc.boolean(),
    ...demands,
  }),
  LeaveProbation: posture,
  Quarantine: posture,
};
const vms: fc.Arbitrary<PolicyVm> = fc
  .record({
    imageId: text,
    instanceType: text,
    autoScalingGroup: fc.option(text),
    tags: fc.dictionary(fc.oneof(fc.constantFrom('team', 'casemate:evidence'), text), text, {
      noNullPrototype: true,
    }),
  })
  .map((said) => anObservation(said));

/** Something, somewhere in a value, put wrong: taken away, added, or of another type. */
function spoilt(value: unknown): fc.Arbitrary<unknown> {
  const other = fc.constantFrom<unknown>(
    null,
    1,
    1.5,
    true,
    'text',
    '\ud800',
    [],
    ['text'],
    {},
    { state: 'x' },
  );
  if (typeof value !== 'object' || value === null) return other;
  const entries = Object.entries(value);
  const added = fc
    .constantFrom('extra', '__entity', '__extn', '__proto__')
    .map((name) => [...entries, [name, 'x']]);
  if (entries.length === 0) return fc.oneof(other, added.map(Object.fromEntries));
  const at = fc.nat(entries.length - 1);
  return fc.oneof(
    { weight: 1, arbitrary: other },
    { weight: 1, arbitrary: added.map(Object.fromEntries) },
    { weight: 1, arbitrary: at.map((n) => Object.fromEntries(entries.filter((_, i) => i !== n))) },
    {
      weight: 4,
      arbitrary: at.chain((n) =>
        spoilt(entries[n]?.[1]).map((inner) =>
          Object.fromEntries(entries.map(([k, v], i) => [k, i === n ? inner : v])),
        ),
      ),
    },
  );
}

describe.each(Object.entries(POLICY_ACTIONS) as [PolicyAction, 'Fleet' | 'Disk'][])('%s', (action, about) => {
  const resource: PolicyResource = about === 'Disk' ? { type: 'Disk', id: DISK, sizeGiB: 8 } : FLEET;

  test('is decided as by Cedar with everything and the schema', () => {
    void fc.assert(
      fc.property(contexts[action], vms, (context, vm) => {
        expect(byEngine(action, vm, resource, context)).toEqual(plainly(action, vm, resource, context));
      }),
      { numRuns: 150 },
    );
  });

  test('is refused where Cedar refuses the request, and nowhere else', () => {
    void fc.assert(
      fc.property(contexts[action].chain(spoilt), vms, (context, vm) => {
        const question = [action, vm, resource, context as Record<string, unknown>] as const;
        let expected: ReturnType<typeof plainly>;
        try {
          expected = plainly(...question);
        } catch {
          expected = 'refused'; // what Cedar's JSON cannot carry
        }
        expect(byEngine(...question)).toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });
});

describe('what a policy reads', () => {
  const compiled = compilePolicies(cedarWasm(), sources);
  const asked = (action: PolicyAction) => compiled.questions[action]?.policies ?? [];

  test('is what its conditions name', () => {
    expect(asked('IssueKey')).toEqual([
      {
        id: 'disk-keys.managed',
        guard: { context: ['managed'], equals: true },
        reads: { context: { managed: 'all' } },
      },
    ]);
    expect(asked('Manage')).toEqual([
      {
        id: 'scope.tagged',
        guard: { tag: 'casemate:protect' },
        reads: { tags: { 'casemate:protect': 'all' } },
      },
    ]);
  });

  test('stands behind its guard, where its first condition is one', () => {
    expect(asked('LeaveProbation')).toContainEqual({
      id: 'posture.evidence-demanded',
      guard: { context: ['requires'], contains: 'evidence' },
      reads: {
        context: {
          requires: 'all',
          facts: { 'mem.sev-snp.guest': { source: 'all' }, 'attest.nitrotpm': { source: 'all' } },
        },
      },
    });
    // Either side of an `or`, a negation and a name that is not written there guard nothing.
    const guards = asked('Quarantine').flatMap(({ id, guard }) =>
      guard ? [id.replace('tricky.n', '')] : [],
    );
    expect(guards.map((n) => TRICKY[Number(n)] ?? n)).toEqual([
      'quarantine.contradicted',
      'context.requires.contains("mds") && context.facts["mem.swap"].source == "claimed"',
      'principal.hasTag("casemate:evidence") && context.facts["attest.nitrotpm"].source == "attested"',
      'principal.hasTag("team") && principal.getTag("team") like "pay*"',
      'context.contradicted && context.facts["mem.swap"].source == "claimed"',
      'context.facts["mem.swap"].state == "present" && context.facts["tpm.version"].state == "present"',
    ]);
  });

  test('is everything where a condition takes hold of a whole', () => {
    expect(asked('Quarantine').find(({ id }) => id === 'tricky.n0')?.reads).toEqual({ context: 'all' });
    expect(asked('Quarantine').find(({ id }) => id === 'tricky.n3')?.reads).toMatchObject({
      principal: 'all',
      tags: 'all',
    });
  });
});

test('with more guards than sets are made for, decisions stay what they are', () => {
  const rules = Array.from({ length: 8 }, (_, n) => n).map(
    (n) =>
      `@id("demand.n${n}") @reason("D${n}") forbid (principal, action == Casemate::Action::"LeaveProbation", resource) when { context.requires.contains("d${n}") } unless { context.mitigated.contains("d${n}") };`,
  );
  const policies = new Map([...project.policies, ['demands.cedar', rules.join('\n')]]);
  const many = policySet({ ...project, policies });
  const context = { facts: FACTS, enrolled: true, contradicted: false, missedReports: 0 };
  for (let demanded = 0; demanded < 256; demanded++) {
    const unmet = rules.flatMap((_, n) => (demanded & (1 << n) ? [n] : []));
    const { reasons } = many.decide('LeaveProbation', anObservation(), FLEET, {
      ...context,
      requires: unmet.map((n) => `d${n}`),
      requiredMitigations: [],
      mitigated: [],
    });
    expect(reasons).toEqual(unmet.length > 0 ? unmet.map((n) => `D${n}`) : ['POSTURE_PROVEN']);
  }
});

describe('a schema is refused that requests cannot be checked against', () => {
  const withSchema = (from: string, to: string) => {
    expect(project.schema).toContain(from);
    return () => compilePolicies(cedarWasm(), { ...project, schema: project.schema.replace(from, to) });
  };
  test.each([
    ['an extension type', 'missedReports: Long', 'missedReports: Long, address: ipaddr', /address is ipaddr/],
    ['an entity', 'missedReports: Long', 'missedReports: Long, other: Vm', /other.*Entity/],
    [
      'a group of actions',
      'action Manage appliesTo',
      'action Any; action Manage in [Any] appliesTo',
      /Manage.*group/,
    ],
    ['another namespace', 'namespace Casemate', 'namespace Other', /Casemate/],
  ])('%s', (_, from, to, fault) => {
    expect(withSchema(from, to)).toThrow(PolicySetError);
    expect(withSchema(from, to)).toThrow(fault);
  });
});
