import type { Expr, PolicyJson } from '@cedar-policy/cedar-wasm/web';
import { bothRead, type Guard, type GuardedReads, type Reads } from './request.ts';

/**
 * What the conditions of a policy look at, by variable; `tags` are those of the principal. Where it cannot be
 * told, as when a whole record is compared, it is all.
 */
export function readsOfPolicy(policy: PolicyJson): {
  readonly always: Reads;
  readonly guarded: GuardedReads | undefined;
} {
  const reads = policy.conditions.map(({ body }) => readsOf(body)).reduce<Reads>(bothRead, {});
  const [first] = policy.conditions;
  const asked = first?.kind === 'when' ? leftmost(first.body) : undefined;
  const guard = asked && guardOf(asked);
  return asked && guard
    ? { always: readsOf(asked), guarded: { guard, reads } }
    : { always: reads, guarded: undefined };
}

function leftmost(expression: Expr): Expr {
  return '&&' in expression ? leftmost((expression['&&'] as { readonly left: Expr }).left) : expression;
}

function guardOf(expression: Expr): Guard | undefined {
  const { operator, operands } = partsOf(expression);
  const literal = (operands['right'] as { readonly Value?: unknown } | undefined)?.Value;
  if (typeof literal !== 'string') return undefined;
  const left = pathOf(operands['left'] as Expr);
  if (operator === 'hasTag' && left?.join() === 'principal') return { tag: literal };
  if (operator === 'contains' && left?.[0] === 'context') return { set: left.slice(1), contains: literal };
  return undefined;
}

/** Operators for which of an entity its identity is enough. */
const BY_IDENTITY = new Set(['==', '!=', 'in', 'is']);
const ENTITIES = new Set(['principal', 'resource', 'action']);

function readsOf(expression: Expr): Reads {
  const path = pathOf(expression);
  if (path) return path.length === 1 && path[0] === 'principal' ? WHOLE_PRINCIPAL : at(path);
  const { operator, operands } = partsOf(expression);
  if (operator === 'Value') return {};
  if (operator === 'has') {
    const left = pathOf(operands['left'] as Expr);
    if (left) return at([...left, ...[operands['attr'] as string | string[]].flat()]);
  }
  if (operator === 'hasTag' || operator === 'getTag') {
    const name = (operands['right'] as { readonly Value?: unknown }).Value;
    const left = pathOf(operands['left'] as Expr);
    if (left?.join() === 'principal' && typeof name === 'string') return at(['tags', name]);
  }
  return Object.values(operands)
    .filter((operand): operand is Expr => typeof operand === 'object' && operand !== null)
    .filter((operand) => !(BY_IDENTITY.has(operator) && ENTITIES.has(pathOf(operand)?.join() ?? '')))
    .map(readsOf)
    .reduce<Reads>(bothRead, {});
}

const WHOLE_PRINCIPAL: Reads = { principal: 'all', tags: 'all' };

function at(path: readonly string[]): Reads {
  return path.reduceRight<Reads>((inner, name) => ({ [name]: inner }), 'all');
}

/** An expression is an object of one member: its operator, with the operands in it. */
function partsOf(expression: Expr): {
  readonly operator: string;
  readonly operands: Readonly<Record<string, unknown>>;
} {
  const [[operator, operands] = ['', {}]] = Object.entries(expression) as [string, Record<string, unknown>][];
  return { operator, operands };
}

/** `context.facts["mem.swap"].state` as its names; undefined for what is not a path from a variable. */
function pathOf(expression: Expr): readonly string[] | undefined {
  if ('Var' in expression) return [String(expression.Var)];
  if (!('.' in expression)) return undefined;
  const { left, attr } = expression['.'] as { readonly left: Expr; readonly attr: string };
  const path = pathOf(left);
  return path && [...path, attr];
}
