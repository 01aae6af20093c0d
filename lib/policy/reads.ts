import type { Expr, PolicyJson } from '@cedar-policy/cedar-wasm/web';
import { bothRead, type Guard, type Reads } from './request.ts';

/**
 * What the conditions of a policy look at, by variable, and the guard before them; `tags` are those of the principal.
 * Where it cannot be told, as when a whole record is compared, it is all.
 */
export function readsOfPolicy(policy: PolicyJson): { readonly guard: Guard | null; readonly reads: Reads } {
  const [first] = policy.conditions;
  return {
    guard: first?.kind === 'when' ? guardOf(leftmost(first.body)) : null,
    reads: policy.conditions.map(({ body }) => readsOf(body)).reduce<Reads>(bothRead, {}),
  };
}

function leftmost(expression: Expr): Expr {
  return '&&' in expression ? leftmost((expression['&&'] as { readonly left: Expr }).left) : expression;
}

function guardOf(expression: Expr): Guard | null {
  const flag = pathInContext(expression);
  if (flag) return { context: flag, equals: true };
  const { operator, operands } = partsOf(expression);
  const literal = (operands['right'] as { readonly Value?: unknown } | undefined)?.Value;
  if (typeof literal !== 'string') return null;
  const left = operands['left'] as Expr;
  if (operator === 'hasTag' && pathOf(left)?.join() === 'principal') return { tag: literal };
  const context = pathInContext(left);
  if (context && operator === 'contains') return { context, contains: literal };
  if (context && operator === '==') return { context, equals: literal };
  return null;
}

function pathInContext(expression: Expr): readonly string[] | undefined {
  const [variable, ...path] = pathOf(expression) ?? [];
  return variable === 'context' && path.length > 0 ? path : undefined;
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
