import * as cedar from '@cedar-policy/cedar-wasm/web';
import type { SourcedFact } from '../domain/fact.ts';
import type { PolicyAction, PolicyDecision } from '../domain/policy.ts';
import type { Observation } from '../domain/vm.ts';
import { startCedar, succeeded } from './cedar.ts';
import { bothRead, cut, type Guard, misfit, type Reads, type ValueType } from './request.ts';

/** One policy, as its file states it. */
export interface Policy {
  readonly id: string;
  readonly reason: string;
  readonly file: string;
  readonly effect: 'permit' | 'forbid';
  /** The actions that its head names; null when it is about all of them. */
  readonly actions: readonly string[] | null;
  /** Its denial holds in `observe`, too: `@observe("refuse")`. */
  readonly refusesInObserve: boolean;
  readonly text: string;
}

/** Whether a policy can decide about an action. */
export function isAbout(policy: Pick<Policy, 'actions'>, action: string): boolean {
  return policy.actions === null || policy.actions.includes(action);
}

/** What requests of one action look like, and what its policies read of them. */
export interface Question {
  readonly resources: readonly string[];
  readonly context: ValueType;
  readonly policies: readonly AskedPolicy[];
}

/** A policy that can decide about an action: when it is to be asked, and what it reads of a request then. */
export interface AskedPolicy {
  readonly id: string;
  /** Where it does not hold, the policy does not apply. */
  readonly guard: Guard | null;
  readonly reads: Reads;
}

/** Policies that were checked against their schema, ready to be asked: `compilePolicies` makes it. */
export interface CompiledPolicies {
  readonly policies: readonly Policy[];
  /** Attributes of the principal, and of each type of resource. */
  readonly vm: ValueType;
  readonly resources: Readonly<Record<string, ValueType>>;
  readonly questions: Readonly<Record<string, Question>>;
}

/** What policies may know of a VM. */
export type PolicyVm = Pick<
  Observation,
  'instanceId' | 'state' | 'instanceType' | 'imageId' | 'autoScalingGroup' | 'tags'
>;

export type PolicyResource =
  | { readonly type: 'Fleet'; readonly id: string }
  | { readonly type: 'Disk'; readonly id: string; readonly sizeGiB: number };

export interface PolicyEngine {
  /**
   * Decides one question. Never throws for what a VM can influence: what cannot be evaluated is denied. One
   * policy that fails to evaluate denies ReleaseKey and LeaveProbation whatever the others say, because Cedar
   * skips it, and it may have been a `forbid`.
   */
  decide(
    action: PolicyAction,
    vm: PolicyVm,
    resource: PolicyResource,
    context: Record<string, unknown>,
  ): PolicyDecision;
}

/** An engine that tells what it decides by. */
export interface PolicySet extends PolicyEngine {
  readonly policies: readonly Policy[];
}

const DENIED_BY_ERRORS: ReadonlySet<PolicyAction> = new Set(['ReleaseKey', 'AdoptDisk', 'LeaveProbation']);

/** How many sets an action may have: who sets a VM's tags sets which guards hold. */
const MOST_SETS = 32;

let policySets = 0;

/**
 * Prepares the policies that have no guard; those whose guard holds as they are first asked for. The first call of
 * the wasm costs tens of milliseconds of lazy compilation, so one decision is made here, in the init phase.
 *
 * @param wasm the bytes of cedar_wasm_bg.wasm
 * @throws PolicySetError
 */
export function createPolicyEngine(wasm: Uint8Array, compiled: CompiledPolicies): PolicySet {
  startCedar(wasm);
  const known = new Map(compiled.policies.map((policy) => [policy.id, policy]));
  const name = `casemate-${policySets++}`;
  const applicable = new Map(
    Object.entries(compiled.questions).map(([action, { policies }]) => [
      action,
      applicableOf(policies, (asked, place) => {
        const texts = asked.map(({ id }): [string, string] => [id, known.get(id)?.text ?? '']);
        const id = `${name}/${action}/${place}`;
        succeeded(cedar.preparsePolicySet(id, { staticPolicies: Object.fromEntries(texts) }));
        return id;
      }),
    ]),
  );

  const engine: PolicySet = {
    policies: compiled.policies,
    decide(action, vm, resource, context) {
      const fault = faultOf(compiled, action, vm, resource, context);
      if (fault !== undefined) return refusedBy([fault]);
      const asked = applicable.get(action)?.(vm.tags, context);
      const answer = asked && isAuthorized(requestOf(asked, action, vm, resource, context));
      if (!answer) return refusedBy([`no policies of ${action}`]);
      if (answer.type === 'failure') return refusedBy(answer.errors.map((error) => error.message));
      const { decision, diagnostics } = answer.response;
      const errors = diagnostics.errors.map((fault) => `${fault.policyId}: ${fault.error.message}`);
      if (decision === 'allow' && errors.length > 0 && DENIED_BY_ERRORS.has(action)) {
        return refusedBy(errors, diagnostics.errors.map((fault) => fault.policyId).sort());
      }
      const policies = [...diagnostics.reason].sort();
      const codes = policies.map((id) => known.get(id)?.reason ?? id);
      return {
        allowed: decision === 'allow',
        reasons: codes.length > 0 ? [...new Set(codes)] : ['NO_POLICY_PERMITS'],
        policies,
        errors,
        postureAlone:
          decision !== 'allow' &&
          errors.length === 0 &&
          !policies.some((id) => known.get(id)?.refusesInObserve),
      };
    },
  };
  engine.decide('Manage', WARM_UP, { type: 'Fleet', id: 'warm-up' }, {});
  return engine;
}

function refusedBy(errors: readonly string[], policies: readonly string[] = []): PolicyDecision {
  return { allowed: false, reasons: ['POLICY_ERROR'], policies, errors, postureAlone: false };
}

/** Policies that are asked together: Cedar's name of the set, and what they read of a request. */
interface Asked {
  readonly setId: string;
  readonly reads: Readonly<Record<string, Reads>>;
}

type Context = Readonly<Record<string, unknown>>;
type Tags = Readonly<Record<string, string>>;

/**
 * Which policies of an action can apply to a request: those without a guard, and those whose guard holds. What
 * Cedar is not asked, it need not find false: with a set of all policies that is most of what a decision costs.
 */
function applicableOf(
  policies: readonly AskedPolicy[],
  prepare: (asked: readonly AskedPolicy[], place: string) => string,
): (tags: Tags, context: Context) => Asked {
  const guards = [...new Map(policies.map(({ guard }) => [JSON.stringify(guard), guard])).values()].filter(
    (guard) => guard !== null,
  );
  const sets = new Map<string, Asked>();
  const setOf = (held: readonly boolean[]): Asked => {
    const place = held.map(Number).join('');
    const made = sets.get(place);
    if (made) return made;
    if (sets.size >= MOST_SETS && held.includes(false)) return setOf(guards.map(() => true));
    const holding = new Set(guards.filter((_, n) => held[n]).map((guard) => JSON.stringify(guard)));
    const asked = policies.filter(({ guard }) => guard === null || holding.has(JSON.stringify(guard)));
    const reads = asked.reduce<Reads>((all, policy) => bothRead(all, policy.reads), {});
    const set: Asked = { setId: prepare(asked, place), reads: reads as Asked['reads'] };
    sets.set(place, set);
    return set;
  };
  setOf(guards.map(() => false));
  return (tags, context) => setOf(guards.map((guard) => holds(guard, tags, context)));
}

/** Whether a guard holds of a request that fits the schema. */
function holds(guard: Guard, tags: Tags, context: Context): boolean {
  if ('tag' in guard) return Object.hasOwn(tags, guard.tag);
  const value = guard.context.reduce<unknown>((inner, name) => (inner as Context)[name], context);
  return 'equals' in guard ? value === guard.equals : (value as readonly unknown[]).includes(guard.contains);
}

/** How a question does not fit the schema, undefined when it does. */
function faultOf(
  { vm: vmType, resources, questions }: CompiledPolicies,
  action: PolicyAction,
  vm: PolicyVm,
  { type, id: _, ...resource }: PolicyResource,
  context: Context,
): string | undefined {
  const question = questions[action];
  const resourceType = resources[type];
  if (!question || !resourceType || !question.resources.includes(type)) {
    return `the schema declares no ${action} of a ${type}`;
  }
  return (
    faultAt('principal', misfit(attributesOf(vm), vmType)) ??
    faultAt('principal', misfitOfTags(vm.tags)) ??
    faultAt('resource', misfit(resource, resourceType)) ??
    faultAt('context', misfit(context, question.context))
  );
}

function faultAt(variable: string, fault: string | undefined): string | undefined {
  return fault && `${variable}${fault}`;
}

function misfitOfTags(tags: Tags): string | undefined {
  for (const key in tags) {
    const fault = misfit(key, 'String') ?? misfit(tags[key], 'String');
    if (fault) return `: tag ${key}${fault}`;
  }
  return undefined;
}

function attributesOf({ state, instanceType, imageId, autoScalingGroup }: PolicyVm) {
  return { state, instanceType, imageId, ...(autoScalingGroup === null ? {} : { autoScalingGroup }) };
}

/** What Cedar is asked: of a request that fits the schema, what the policies read. */
function requestOf(
  { setId, reads }: Asked,
  action: PolicyAction,
  vm: PolicyVm,
  { type, id, ...resourceAttributes }: PolicyResource,
  context: Context,
): cedar.StatefulAuthorizationCall {
  const principal = { type: 'Casemate::Vm', id: vm.instanceId };
  const resource = { type: `Casemate::${type}`, id };
  const entity = (uid: cedar.TypeAndId, attrs: unknown, tags: unknown = {}) => ({
    uid,
    attrs: attrs as cedar.EntityJson['attrs'],
    parents: [],
    tags: tags as Record<string, string>,
  });
  const entities: cedar.EntityJson[] = [];
  // Of an entity that is not there Cedar says what it says of one without attributes and tags.
  const attributes = cut(attributesOf(vm), reads['principal'] ?? {});
  const tags = cut(vm.tags, reads['tags'] ?? {});
  if (!isEmpty(attributes) || !isEmpty(tags)) entities.push(entity(principal, attributes, tags));
  if (reads['resource']) entities.push(entity(resource, cut(resourceAttributes, reads['resource'])));
  return {
    principal,
    action: { type: 'Casemate::Action', id: action },
    resource,
    context: cut(context, reads['context'] ?? {}) as cedar.Context,
    entities,
    preparsedPolicySetId: setId,
  };
}

function isEmpty(value: unknown): boolean {
  return Object.keys(value as object).length === 0;
}

/** Cedar throws, in place of answering, at what its JSON cannot carry. */
function isAuthorized(call: cedar.StatefulAuthorizationCall): cedar.AuthorizationAnswer {
  try {
    return cedar.statefulIsAuthorized(call);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { type: 'failure', errors: [{ message } as cedar.DetailedError], warnings: [] };
  }
}

/** Facts as Cedar's context holds them: every value as a string, absent when there is none. */
export function cedarFacts(facts: Record<string, SourcedFact>): Record<string, Record<string, string>> {
  return Object.fromEntries(
    Object.entries(facts).map(([id, fact]) => [
      id,
      {
        state: fact.state,
        source: fact.source,
        ...(fact.value === undefined ? {} : { value: String(fact.value) }),
      },
    ]),
  );
}

const WARM_UP: PolicyVm = {
  instanceId: 'i-00000000',
  state: 'pending',
  instanceType: '',
  imageId: '',
  autoScalingGroup: null,
  tags: {},
};
