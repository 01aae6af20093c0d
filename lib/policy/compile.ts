import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import * as cedar from '@cedar-policy/cedar-wasm/web';
import { PolicySetError, startCedar, succeeded } from './cedar.ts';
import { type AskedPolicy, type CompiledPolicies, isAbout, type Policy, type Question } from './engine.ts';
import { readsOfPolicy } from './reads.ts';
import type { Attribute, ValueType } from './request.ts';

export interface PolicySources {
  /** Text of `schema.cedarschema`. */
  readonly schema: string;
  /** File name to text of each `.cedar` file. */
  readonly policies: ReadonlyMap<string, string>;
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

/**
 * Checks a set of policies against its schema, and works out what the functions would otherwise do at every
 * start: which requests fit the schema, and what of each request the policies read.
 *
 * @param wasm the bytes of cedar_wasm_bg.wasm
 * @throws PolicySetError naming the file and the fault
 */
export function compilePolicies(wasm: Uint8Array, sources: PolicySources): CompiledPolicies {
  startCedar(wasm);
  const policies = new Map<string, Policy>();
  const asked = new Map<string, AskedPolicy>();
  for (const [file, text] of sources.policies) {
    const parts = succeeded(cedar.policySetTextToParts(text), file);
    if (parts.policy_templates.length > 0) throw new PolicySetError(`${file}: templates are not supported`);
    for (const one of parts.policies) {
      const { json } = succeeded(cedar.policyToJson(one), file);
      const policy = { ...described(file, one, json), text: one };
      if (policies.has(policy.id)) {
        throw new PolicySetError(`${file}: a second policy has @id("${policy.id}")`);
      }
      policies.set(policy.id, policy);
      asked.set(policy.id, { id: policy.id, ...readsOfPolicy(json) });
    }
  }
  const staticPolicies = Object.fromEntries([...policies].map(([id, { text }]) => [id, text]));
  const { validationErrors } = succeeded(
    cedar.validate({ schema: sources.schema, policies: { staticPolicies } }),
  );
  if (validationErrors.length > 0) {
    throw new PolicySetError(
      validationErrors.map((fault) => `${fault.policyId}: ${fault.error.message}`).join('; '),
    );
  }
  const schema = readSchema(sources.schema);
  return {
    policies: [...policies.values()],
    vm: schema.vm,
    resources: schema.resources,
    questions: Object.fromEntries(
      [...schema.actions].map(([action, { resources, context }]): [string, Question] => [
        action,
        {
          resources,
          context,
          policies: [...policies.values()]
            .filter((policy) => isAbout(policy, action))
            .flatMap(({ id }) => asked.get(id) ?? []),
        },
      ]),
    ),
  };
}

function described(file: string, text: string, json: cedar.PolicyJson): Omit<Policy, 'text'> {
  const { id, reason, observe } = json.annotations ?? {};
  if (!id || !reason) {
    throw new PolicySetError(`${file}: every policy needs @id("…") and @reason("…"): ${text.slice(0, 80)}`);
  }
  // A misspelt one would turn into a key that is given where it must not be.
  if (observe !== undefined && observe !== 'refuse') {
    throw new PolicySetError(`${file}: ${id}: @observe takes "refuse" alone`);
  }
  return {
    id,
    reason,
    file,
    effect: json.effect,
    actions: actionsOf(json.action),
    refusesInObserve: observe === 'refuse',
  };
}

function actionsOf(constraint: cedar.ActionConstraint): readonly string[] | null {
  if (constraint.op === 'All') return null;
  const entities = 'entities' in constraint ? constraint.entities : [];
  const entity = 'entity' in constraint ? [constraint.entity] : [];
  return [...entities, ...entity].map((uid) => ('__entity' in uid ? uid.__entity.id : uid.id));
}

const NAMESPACE = 'Casemate';

interface SchemaOfRequests extends Pick<CompiledPolicies, 'vm' | 'resources'> {
  readonly actions: ReadonlyMap<string, Pick<Question, 'resources' | 'context'>>;
}

/** The types of requests. What they do not use is refused: what Cedar makes of it without a schema differs. */
function readSchema(text: string): SchemaOfRequests {
  const { json } = succeeded(cedar.schemaToJsonWithResolvedTypes(text), 'schema.cedarschema');
  const namespace = json[NAMESPACE];
  if (!namespace) throw new PolicySetError(`schema.cedarschema: has no namespace ${NAMESPACE}`);
  const typeOf = (type: cedar.Type<string>, path: string): ValueType => {
    const common = namespace.commonTypes?.[type.type.replace(`${NAMESPACE}::`, '')];
    if (common) return typeOf(common, path);
    switch (type.type) {
      case 'String':
      case 'Long':
        return type.type;
      case 'Bool':
      case 'Boolean':
        return 'Bool';
      case 'Set':
        return { set: typeOf((type as { readonly element: cedar.Type<string> }).element, path) };
      case 'Record':
        return recordOf(type as cedar.RecordType<string>, path);
      default:
        throw new PolicySetError(`schema.cedarschema: ${path} is ${type.type}, which requests cannot hold`);
    }
  };
  const recordOf = (type: cedar.RecordType<string>, path: string): ValueType => ({
    record: Object.fromEntries(
      Object.entries(type.attributes).map(([name, attribute]): [string, Attribute] => [
        name,
        { type: typeOf(attribute, `${path}.${name}`), required: attribute.required ?? true },
      ]),
    ),
  });
  const shapeOf = (name: string): ValueType => {
    const entity = namespace.entityTypes[name];
    const shape = entity && 'shape' in entity ? entity.shape : undefined;
    return shape ? typeOf(shape, name) : { record: {} };
  };
  const actions = Object.entries(namespace.actions).map(([name, action]) => {
    if (action.memberOf?.length) {
      throw new PolicySetError(
        `schema.cedarschema: ${name} is in a group of actions, which is not supported`,
      );
    }
    const { resourceTypes = [], context } = action.appliesTo ?? {};
    return [
      name,
      {
        resources: resourceTypes.map((type) => type.replace(`${NAMESPACE}::`, '')),
        context: context ? typeOf(context, `context of ${name}`) : { record: {} },
      },
    ] as const;
  });
  const resources = new Set(actions.flatMap(([, action]) => action.resources));
  return {
    actions: new Map(actions),
    vm: shapeOf('Vm'),
    resources: Object.fromEntries([...resources].map((name) => [name, shapeOf(name)])),
  };
}

// `node compile.ts WASM FOLDER OUT`: what the construct has run beside each bundle that decides.
if (import.meta.main) {
  const [, , wasm = '', folder = '', out = ''] = process.argv;
  const sources = readPolicySources(pathToFileURL(`${folder}/`));
  writeFileSync(out, JSON.stringify(compilePolicies(readFileSync(wasm), sources)));
}
