import * as cedar from '@cedar-policy/cedar-wasm/web';
import type { SourcedFact } from '../domain/fact.ts';
import type { PolicyAction, PolicyDecision } from '../domain/policy.ts';
import type { Observation } from '../domain/vm.ts';
import { startCedar, succeeded } from './cedar.ts';
import {
  bothRead,
  cut,
  type Guard,
  type GuardedReads,
  misfit,
  type Reads,
  type ValueType,
} from './request.ts';

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
  /** What its policies read of every request, and what some read where their guard holds. */
  readonly always: Reads;
  readonly guarded: readonly GuardedReads[];
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

let policySets = 0;

/**
 * Prepares a policy set once. The first call of the wasm costs tens of milliseconds of lazy compilation, so
 * one decision is made here, in the init phase.
 *
 * @param wasm the bytes of cedar_wasm_bg.wasm
 * @throws PolicySetError
 */
export function createPolicyEngine(wasm: Uint8Array, compiled: CompiledPolicies): PolicySet {
  startCedar(wasm);
  const known = new Map(compiled.policies.map((policy) => [policy.id, policy]));
  // One set an action: of a policy about another action Cedar would find out each time that it is.
  const name = `casemate-${policySets++}`;
  for (const action of Object.keys(compiled.questions)) {
    const about = compiled.policies.filter((policy) => isAbout(policy, action));
    const staticPolicies = Object.fromEntries(about.map(({ id, text }) => [id, text]));
    succeeded(cedar.preparsePolicySet(`${name}/${action}`, { staticPolicies }));
  }

  const engine: PolicySet = {
    policies: compiled.policies,
    decide(action, vm, resource, context) {
      const request = requestOf(compiled, action, vm, resource, context);
      if (typeof request === 'string') return refusedBy([request]);
      const answer = isAuthorized({ ...request, preparsedPolicySetId: `${name}/${action}` });
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

type Request = Pick<
  cedar.StatefulAuthorizationCall,
  'principal' | 'action' | 'resource' | 'context' | 'entities'
>;

/** What Cedar is asked, or how the question does not fit the schema. */
function requestOf(
  { vm: vmType, resources, questions }: CompiledPolicies,
  action: PolicyAction,
  vm: PolicyVm,
  resource: PolicyResource,
  context: Record<string, unknown>,
): Request | string {
  const question = questions[action];
  const resourceType = resources[resource.type];
  if (!question || !resourceType || !question.resources.includes(resource.type)) {
    return `the schema declares no ${action} of a ${resource.type}`;
  }
  const { instanceId, tags, state, instanceType, imageId, autoScalingGroup } = vm;
  const vmAttributes = {
    state,
    instanceType,
    imageId,
    ...(autoScalingGroup === null ? {} : { autoScalingGroup }),
  };
  const { type, id, ...resourceAttributes } = resource;
  const fault =
    faultOf('principal', misfit(vmAttributes, vmType)) ??
    faultOf('principal', misfitOfTags(tags)) ??
    faultOf('resource', misfit(resourceAttributes, resourceType)) ??
    faultOf('context', misfit(context, question.context));
  if (fault) return fault;
  const reads = question.guarded.reduce<Reads>(
    (all, { guard, reads }) => (holds(guard, tags, context) ? bothRead(all, reads) : all),
    question.always,
  ) as Readonly<Record<string, Reads>>;
  const principal = { type: 'Casemate::Vm', id: instanceId };
  const target = { type: `Casemate::${type}`, id };
  const entity = (uid: cedar.TypeAndId, attrs: unknown, tagged: unknown = {}) => ({
    uid,
    attrs: attrs as cedar.EntityJson['attrs'],
    parents: [],
    tags: tagged as Record<string, string>,
  });
  const entities: cedar.EntityJson[] = [];
  // Of an entity that is not there Cedar says what it says of one without attributes and tags.
  const readAttributes = cut(vmAttributes, reads['principal'] ?? {});
  const readTags = cut(tags, reads['tags'] ?? {});
  if (!isEmpty(readAttributes) || !isEmpty(readTags)) {
    entities.push(entity(principal, readAttributes, readTags));
  }
  if (reads['resource']) entities.push(entity(target, cut(resourceAttributes, reads['resource'])));
  return {
    principal,
    action: { type: 'Casemate::Action', id: action },
    resource: target,
    context: cut(context, reads['context'] ?? {}) as cedar.Context,
    entities,
  };
}

function isEmpty(value: unknown): boolean {
  return Object.keys(value as object).length === 0;
}

function faultOf(variable: string, fault: string | undefined): string | undefined {
  return fault && `${variable}${fault}`;
}

function misfitOfTags(tags: Readonly<Record<string, string>>): string | undefined {
  for (const [key, value] of Object.entries(tags)) {
    const fault = misfit(key, 'String') ?? misfit(value, 'String');
    if (fault) return `: tag ${key}${fault}`;
  }
  return undefined;
}

/** Whether a guard holds of a request that fits the schema. */
function holds(
  guard: Guard,
  tags: Readonly<Record<string, string>>,
  context: Readonly<Record<string, unknown>>,
): boolean {
  if ('tag' in guard) return Object.hasOwn(tags, guard.tag);
  const set = guard.set.reduce<unknown>((value, name) => (value as Record<string, unknown>)[name], context);
  return (set as readonly unknown[]).includes(guard.contains);
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
