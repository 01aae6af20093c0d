import { equalBytes } from './bytes.ts';

/**
 * One generation of measurements that an image may have. During a rollout several hold: the next is named
 * before it ships, the current one, the last one until a date. So an image update locks no fleet out, and
 * an old image stops counting by itself.
 */
export interface Generation {
  readonly name: string;
  /** The time from which it counts; left out: always has. */
  readonly from?: Date | undefined;
  /** The time from which it no longer counts; left out: goes on. */
  readonly until?: Date | undefined;
  /** Register or field name to digest; every one must match. */
  readonly measurements: Readonly<Record<string, Uint8Array>>;
}

export type RolloutMatch =
  | { readonly kind: 'match'; readonly generation: string }
  | { readonly kind: 'outdated'; readonly generation: string }
  | { readonly kind: 'early'; readonly generation: string }
  | { readonly kind: 'unknown' };

/** Which generation the measured values belong to, and whether it counts at `at`. */
export function matchGeneration(
  generations: readonly Generation[],
  measured: Readonly<Record<string, Uint8Array>>,
  at: Date,
): RolloutMatch {
  const same = generations.filter((generation) => isSame(generation.measurements, measured));
  const counting = same.find(({ from, until }) => (!from || at >= from) && (!until || at < until));
  if (counting) return { kind: 'match', generation: counting.name };
  const [first] = same;
  if (!first) return { kind: 'unknown' };
  return { kind: first.until && at >= first.until ? 'outdated' : 'early', generation: first.name };
}

function isSame(
  allowed: Readonly<Record<string, Uint8Array>>,
  measured: Readonly<Record<string, Uint8Array>>,
): boolean {
  const entries = Object.entries(allowed);
  return (
    entries.length > 0 &&
    entries.every(([name, digest]) => {
      const value = Object.hasOwn(measured, name) ? measured[name] : undefined;
      return value !== undefined && equalBytes(value, digest);
    })
  );
}
