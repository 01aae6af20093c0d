import { parse as parseYaml } from 'yaml';
import * as z from 'zod';
import { factState, type SourcedFact } from '../domain/fact.ts';
import { POLICY_ACTIONS, type PolicyAction } from '../domain/policy.ts';
import { POLICY_FACTS, type PolicyFactId } from '../domain/policy-facts.ts';
import { vmState } from '../domain/vm.ts';
import {
  cedarFacts,
  isAbout,
  type Policy,
  type PolicyEngine,
  type PolicyResource,
  type PolicySet,
  type PolicyVm,
} from './engine.ts';

/** A file of cases does not have its shape; the message names the file, the place and the fault. */
export class PolicyCasesError extends Error {
  override readonly name = 'PolicyCasesError';
}

const SHORT_FACT = /^(present|absent|unknown)(?: (.+))?$/;

/** `present`, `absent`, `unknown`, or `present VALUE`; in full where the source matters. */
const fact = z.union(
  [
    z
      .string()
      .regex(SHORT_FACT)
      .transform((text) => {
        const [, state, value] = SHORT_FACT.exec(text) ?? [];
        return { state: factState.parse(state), value, source: undefined };
      }),
    z.strictObject({
      state: factState,
      value: z.string().optional(),
      source: z.enum(['claimed', 'asserted', 'attested']).optional(),
    }),
  ],
  { error: 'is no fact: present, absent, unknown, "present VALUE", or {state, value, source}' },
);

/** What a case says of the world; what it leaves out is as its group's `given` has it. */
const world = {
  /** Facts that nobody names are `unknown`. */
  facts: z
    .partialRecord(z.enum(POLICY_FACTS, { error: 'is no fact that policies may read' }), fact)
    .optional(),
  /** The rest of the action's context, as schema.cedarschema has it. */
  context: z.record(z.string(), z.json()).optional(),
  /** EC2's tags of the VM. */
  tags: z.record(z.string(), z.string()).optional(),
  vm: z
    .strictObject({
      state: vmState.optional(),
      instanceType: z.string().optional(),
      imageId: z.string().optional(),
      autoScalingGroup: z.string().nullable().optional(),
    })
    .optional(),
  disk: z.strictObject({ sizeGiB: z.int() }).optional(),
};
const worldSchema = z.strictObject(world);
type World = z.infer<typeof worldSchema>;

const casesFile = z
  .array(
    z.strictObject({
      action: z.enum(Object.keys(POLICY_ACTIONS) as PolicyAction[]),
      given: worldSchema.optional(),
      cases: z
        .array(
          z.strictObject({
            /** What the policies do here: "keeps back a VM that …". */
            it: z.string().min(1),
            ...world,
            decision: z.enum(['allow', 'deny']),
            /** Exactly these, in any order. */
            reasons: z.array(z.string()).min(1),
            /** Exactly these determine the decision; left out, whichever do. */
            policies: z.array(z.string()).optional(),
          }),
        )
        .min(1),
    }),
  )
  .min(1);

/** One question, and the answer that is expected. */
export interface PolicyCase {
  readonly file: string;
  readonly it: string;
  readonly action: PolicyAction;
  readonly vm: PolicyVm;
  readonly resource: PolicyResource;
  readonly context: Record<string, unknown>;
  readonly expected: {
    readonly decision: 'allow' | 'deny';
    readonly reasons: readonly string[];
    readonly policies: readonly string[] | undefined;
  };
}

/**
 * Reads one file of cases.
 *
 * @throws PolicyCasesError
 */
export function parsePolicyCases(file: string, text: string): readonly PolicyCase[] {
  let value: unknown;
  try {
    value = parseYaml(text, { strict: true, uniqueKeys: true, schema: 'core' });
  } catch (cause) {
    throw new PolicyCasesError(`${file}: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  const parsed = casesFile.safeParse(value);
  if (!parsed.success) throw new PolicyCasesError(`${file}:\n${z.prettifyError(parsed.error)}`);
  return parsed.data.flatMap(({ action, given, cases }) =>
    cases.map(({ it, decision, reasons, policies, ...said }) => ({
      file,
      it,
      action,
      ...question(action, given ?? {}, said),
      expected: { decision, reasons, policies },
    })),
  );
}

function question(
  action: PolicyAction,
  given: World,
  said: World,
): Pick<PolicyCase, 'vm' | 'resource' | 'context'> {
  const { state, instanceType, imageId, autoScalingGroup } = { ...given.vm, ...said.vm };
  const { sizeGiB = 8 } = { ...given.disk, ...said.disk };
  const facts = given.facts || said.facts ? { ...given.facts, ...said.facts } : undefined;
  return {
    vm: {
      instanceId: 'i-0123456789abcdef0',
      state: state ?? 'running',
      instanceType: instanceType ?? 'm6a.large',
      imageId: imageId ?? 'ami-0123456789abcdef0',
      autoScalingGroup: autoScalingGroup ?? null,
      tags: { ...given.tags, ...said.tags },
    },
    resource:
      POLICY_ACTIONS[action] === 'Disk'
        ? { type: 'Disk', id: '00000000-0000-4000-8000-000000000000', sizeGiB }
        : { type: 'Fleet', id: '123456789012/eu-west-1' },
    context: {
      ...given.context,
      ...said.context,
      ...(facts && { facts: cedarFacts(everyFact(facts)) }),
    },
  };
}

/** As the pipeline hands them over: every fact is there, EC2's own are asserted, what nobody said is unknown. */
function everyFact(said: NonNullable<World['facts']>): Record<PolicyFactId, SourcedFact> {
  return Object.fromEntries(
    POLICY_FACTS.map((id): [PolicyFactId, SourcedFact] => {
      const { state = 'unknown', value, source } = said[id] ?? {};
      return [id, { state, value, source: source ?? (id.startsWith('ec2.') ? 'asserted' : 'claimed') }];
    }),
  ) as Record<PolicyFactId, SourcedFact>;
}

export interface CaseResult {
  readonly case: PolicyCase;
  readonly holds: boolean;
  readonly actual: {
    readonly decision: 'allow' | 'deny';
    readonly reasons: readonly string[];
    readonly policies: readonly string[];
    readonly errors: readonly string[];
  };
}

/** Asks one case's question. An error of a policy is never what was expected. */
export function runPolicyCase(policy: PolicyEngine, one: PolicyCase): CaseResult {
  const { allowed, reasons, policies, errors } = policy.decide(one.action, one.vm, one.resource, one.context);
  const decision = allowed ? 'allow' : 'deny';
  const { expected } = one;
  const holds =
    decision === expected.decision &&
    sameSet(reasons, expected.reasons) &&
    (expected.policies === undefined || sameSet(policies, expected.policies)) &&
    errors.length === 0;
  return { case: one, holds, actual: { decision, reasons, policies, errors } };
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((one) => b.includes(one));
}

/** What the cases leave untried. */
export interface PolicyCoverage {
  /** Policies that determined the decision of no case: what they are for is not shown. */
  readonly neverDetermining: readonly string[];
  /** Policies that determined the decision of every case about their actions: no case shows where they end. */
  readonly alwaysDetermining: readonly string[];
}

/** Which policies are shown at work and at rest by the cases. */
export function policyCoverage(policies: readonly Policy[], results: readonly CaseResult[]): PolicyCoverage {
  const neverDetermining: string[] = [];
  const alwaysDetermining: string[] = [];
  for (const { id, actions } of policies) {
    const about = results.filter(({ case: one }) => isAbout({ actions }, one.action));
    const determined = about.filter(({ actual }) => actual.policies.includes(id)).length;
    if (determined === 0) neverDetermining.push(id);
    else if (determined === about.length) alwaysDetermining.push(id);
  }
  return { neverDetermining, alwaysDetermining };
}

export interface PolicyTestReport {
  readonly results: readonly CaseResult[];
  readonly coverage: PolicyCoverage;
  readonly passed: boolean;
}

/** Runs every case. Passed means that each holds and that every policy is shown both ways. */
export function testPolicies(policy: PolicySet, cases: readonly PolicyCase[]): PolicyTestReport {
  const results = cases.map((one) => runPolicyCase(policy, one));
  const coverage = policyCoverage(policy.policies, results);
  const passed =
    results.every((result) => result.holds) &&
    coverage.neverDetermining.length === 0 &&
    coverage.alwaysDetermining.length === 0;
  return { results, coverage, passed };
}
