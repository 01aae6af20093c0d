import { readdirSync, readFileSync } from 'node:fs';
import * as cedar from '@cedar-policy/cedar-wasm/web';
import type { SourcedFact } from '../domain/fact.ts';
import type { PolicyAction, PolicyDecision } from '../domain/policy.ts';
import type { Observation } from '../domain/vm.ts';

/** The policies are wrong: they do not parse, do not validate against the schema, or lack an annotation. */
export class PolicySetError extends Error {
  override readonly name = 'PolicySetError';
}

export interface PolicySources {
  /** Text of `schema.cedarschema`. */
  readonly schema: string;
  /** File name to text of each `.cedar` file. */
  readonly policies: ReadonlyMap<string, string>;
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
}

export interface PolicySet extends PolicyEngine {
  readonly policies: readonly Policy[];
}

/** Reads the schema and all `.cedar` files of a folder, in the order of their names. */
export function readPolicySources(folder: URL): PolicySources {
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.cedar'))
    .sort();
  return {
    schema: readFileSync(new URL('schema.cedarschema', folder), 'utf8'),
    policies: new Map(files.map((name) => [name, readFileSync(new URL(name, folder), 'utf8')])),
  };
}

const DENIED_BY_ERRORS: ReadonlySet<PolicyAction> = new Set(['ReleaseKey', 'AdoptDisk', 'LeaveProbation']);

let policySets = 0;
let ready = false;

/**
 * Prepares a policy set once; a decision then takes about 80 microseconds. The first call of the wasm
 * costs tens of milliseconds of lazy compilation, so one decision is made here, in the init phase.
 *
 * @param wasm the bytes of cedar_wasm_bg.wasm
 * @throws PolicySetError naming the file and the fault
 */
export function createPolicyEngine(wasm: Uint8Array, sources: PolicySources): PolicySet {
  if (!ready) {
    cedar.initSync({ module: wasm as Uint8Array<ArrayBuffer> });
    ready = true;
  }
  const known = new Map<string, Policy>();
  const staticPolicies: Record<string, string> = {};
  for (const [file, text] of sources.policies) {
    const parts = cedar.policySetTextToParts(text);
    if (parts.type === 'failure') throw new PolicySetError(`${file}: ${messages(parts.errors)}`);
    if (parts.policy_templates.length > 0) throw new PolicySetError(`${file}: templates are not supported`);
    for (const text of parts.policies) {
      const policy = describe(file, text);
      if (known.has(policy.id)) throw new PolicySetError(`${file}: a second policy has @id("${policy.id}")`);
      staticPolicies[policy.id] = text;
      known.set(policy.id, policy);
    }
  }
  const validated = cedar.validate({ schema: sources.schema, policies: { staticPolicies } });
  if (validated.type === 'failure') throw new PolicySetError(messages(validated.errors));
  if (validated.validationErrors.length > 0) {
    const faults = validated.validationErrors.map((fault) => `${fault.policyId}: ${fault.error.message}`);
    throw new PolicySetError(faults.join('; '));
  }
  const name = `casemate-${policySets++}`;
  for (const answer of [
    cedar.preparsePolicySet(name, { staticPolicies }),
    cedar.preparseSchema(name, sources.schema),
  ]) {
    if (answer.type === 'failure') throw new PolicySetError(messages(answer.errors));
  }

  const engine: PolicySet = {
    policies: [...known.values()],
    decide(action, vm, resource, context) {
      const principal = { type: 'Casemate::Vm', id: vm.instanceId };
      const target = { type: `Casemate::${resource.type}`, id: resource.id };
      const answer = isAuthorized({
        principal,
        action: { type: 'Casemate::Action', id: action },
        resource: target,
        context: context as cedar.Context,
        entities: [
          {
            uid: principal,
            attrs: {
              state: vm.state,
              instanceType: vm.instanceType,
              imageId: vm.imageId,
              ...(vm.autoScalingGroup === null ? {} : { autoScalingGroup: vm.autoScalingGroup }),
            },
            parents: [],
            tags: vm.tags,
          },
          { uid: target, attrs: resource.type === 'Disk' ? { sizeGiB: resource.sizeGiB } : {}, parents: [] },
        ],
        preparsedPolicySetId: name,
        preparsedSchemaName: name,
        validateRequest: true,
      });
      if (answer.type === 'failure') {
        const errors = answer.errors.map((error) => error.message);
        return { allowed: false, reasons: ['POLICY_ERROR'], policies: [], errors, postureAlone: false };
      }
      const { decision, diagnostics } = answer.response;
      const errors = diagnostics.errors.map((fault) => `${fault.policyId}: ${fault.error.message}`);
      if (decision === 'allow' && errors.length > 0 && DENIED_BY_ERRORS.has(action)) {
        const erring = diagnostics.errors.map((fault) => fault.policyId).sort();
        return { allowed: false, reasons: ['POLICY_ERROR'], policies: erring, errors, postureAlone: false };
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

/** Cedar throws, in place of answering, at what its JSON cannot carry, like half of a surrogate pair. */
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

function describe(file: string, text: string): Policy {
  const answer = cedar.policyToJson(text);
  if (answer.type === 'failure') throw new PolicySetError(`${file}: ${messages(answer.errors)}`);
  const { annotations, effect, action } = answer.json;
  const { id, reason, observe } = annotations ?? {};
  if (!id || !reason) {
    throw new PolicySetError(`${file}: every policy needs @id("…") and @reason("…"): ${text.slice(0, 80)}`);
  }
  // A misspelt one would turn into a key that is given where it must not be.
  if (observe !== undefined && observe !== 'refuse') {
    throw new PolicySetError(`${file}: ${id}: @observe takes "refuse" alone`);
  }
  return { id, reason, refusesInObserve: observe === 'refuse', file, effect, actions: actionsOf(action) };
}

function actionsOf(constraint: cedar.ActionConstraint): readonly string[] | null {
  if (constraint.op === 'All') return null;
  const uids =
    'entities' in constraint ? constraint.entities : 'entity' in constraint ? [constraint.entity] : [];
  return uids.map((uid) => ('__entity' in uid ? uid.__entity.id : uid.id));
}

function messages(errors: readonly cedar.DetailedError[]): string {
  return errors.map((error) => error.message).join('; ');
}
