import * as cedar from '@cedar-policy/cedar-wasm/web';

/** The policies are wrong: they do not parse, do not validate against the schema, or lack an annotation. */
export class PolicySetError extends Error {
  override readonly name = 'PolicySetError';
}

let started = false;

/**
 * Instantiates Cedar, once in a process.
 *
 * @param wasm the bytes of cedar_wasm_bg.wasm
 */
export function startCedar(wasm: Uint8Array): void {
  if (started) return;
  cedar.initSync({ module: wasm as Uint8Array<ArrayBuffer> });
  started = true;
}

/** The answer if it is one. @throws PolicySetError */
export function succeeded<T extends { readonly type: string }>(
  answer: T | { readonly type: 'failure'; readonly errors: readonly cedar.DetailedError[] },
  where?: string,
): Exclude<T, { readonly type: 'failure' }> {
  if (answer.type !== 'failure') return answer as Exclude<T, { readonly type: 'failure' }>;
  const { errors } = answer as { readonly errors: readonly cedar.DetailedError[] };
  const faults = errors.map((error) => error.message).join('; ');
  throw new PolicySetError(where ? `${where}: ${faults}` : faults);
}
