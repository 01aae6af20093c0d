/**
 * What a request to Cedar may look like, and which part of it the policies can see. Both come out of the
 * schema and the policies once, when they are compiled, so that a decision hands over neither the schema nor
 * what nobody reads: parsing those is most of what a decision costs (docs/bench.md).
 */

/** A type of the schema, as far as requests use them: entities and extension values are refused. */
export type ValueType =
  | 'String'
  | 'Long'
  | 'Bool'
  | { readonly set: ValueType }
  | { readonly record: Readonly<Record<string, Attribute>> };

export interface Attribute {
  readonly type: ValueType;
  readonly required: boolean;
}

/**
 * What the leftmost condition of a policy asks first. Where it does not hold, the policy does not apply, and Cedar
 * looks at nothing else of it: a conjunction ends at its first false part.
 */
export type Guard =
  | { readonly tag: string }
  | { readonly context: readonly string[]; readonly contains: string }
  | { readonly context: readonly string[]; readonly equals: string | boolean };

/** What policies look at of a value: all of it, or these attributes. */
export type Reads = 'all' | { readonly [attribute: string]: Reads };

/**
 * Where a value is not of its type, undefined when it is. It is as strict as Cedar's own check of a request
 * against the schema: nothing missing, nothing more, no conversion. A test compares the two.
 */
export function misfit(value: unknown, type: ValueType): string | undefined {
  if (type === 'Bool') return typeof value === 'boolean' ? undefined : ' is no Bool';
  if (type === 'Long') return Number.isSafeInteger(value) ? undefined : ' is no Long';
  if (type === 'String') {
    // Half of a surrogate pair is nothing that UTF-8 can carry to Cedar.
    return typeof value === 'string' && value.isWellFormed() ? undefined : ' is no String';
  }
  if ('set' in type) {
    if (!Array.isArray(value)) return ' is no Set';
    for (const element of value) {
      const fault = misfit(element, type.set);
      if (fault) return `: an element${fault}`;
    }
    return undefined;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return ' is no Record';
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(type.record, name)) return `: ${JSON.stringify(name)} is not declared`;
  }
  for (const name in type.record) {
    const attribute = type.record[name];
    if (!attribute) continue;
    if (Object.hasOwn(value, name)) {
      const fault = misfit(value[name as keyof typeof value], attribute.type);
      if (fault) return `.${name}${fault}`;
    } else if (attribute.required) return `: ${JSON.stringify(name)} is missing`;
  }
  return undefined;
}

/** The part of a value that is read. What fits its type still evaluates alike when it is cut to this. */
export function cut(value: unknown, reads: Reads): unknown {
  if (reads === 'all' || typeof value !== 'object' || value === null) return value;
  const part: Record<string, unknown> = {};
  for (const name in reads) {
    const inner = reads[name];
    // Defined and not assigned: `__proto__` is a name like any other.
    if (inner !== undefined && Object.hasOwn(value, name)) {
      Object.defineProperty(part, name, {
        value: cut(value[name as keyof typeof value], inner),
        enumerable: true,
      });
    }
  }
  return part;
}

/** What either reads. */
export function bothRead(a: Reads, b: Reads): Reads {
  if (a === 'all' || b === 'all') return 'all';
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...names].map((name) => [name, bothRead(a[name] ?? {}, b[name] ?? {})]));
}
