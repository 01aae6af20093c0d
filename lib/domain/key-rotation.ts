import type { DiskItem, KeyGeneration } from './disk-key.ts';
import type { Reason } from './reasons.ts';

type DiskState = Omit<DiskItem, 'pk' | 'version'>;

/** A generation that was rotated out is kept at least this long: restoring an old header then still helps. */
export const RETIRE_AFTER_SECONDS = 30 * 24 * 3600;

/** Old ones beyond this go: an agent that says something new without end must not fill the item. */
const SEALED_KEPT = 8;

export type Confirmation =
  | {
      readonly kind: 'confirm';
      readonly disk: DiskState;
      /** Generations that this confirmation began to retire. */
      readonly retired: readonly KeyGeneration[];
      /** False when the item is as it was: the same confirmation again, after a lost answer. */
      readonly changed: boolean;
    }
  | { readonly kind: 'refuse'; readonly reason: Reason };

/**
 * The disk after its agent opened it with a generation. Only now is that generation `active`, and only now
 * do the ones before it begin to retire: a key that nobody has opened the disk with replaces nothing.
 */
export function confirmGeneration(
  disk: DiskState,
  generation: number,
  sealed: { readonly recoveryKey?: string | undefined; readonly escrow?: string | undefined },
  now: Date,
): Confirmation {
  const named = disk.generations.find((g) => g.generation === generation);
  if (!named) return { kind: 'refuse', reason: 'GENERATION_UNKNOWN' };
  // A header that was restored from before a rotation opens with an old key; it is rotated, not confirmed.
  if (named.state === 'retiring' || named.state === 'retired')
    return { kind: 'refuse', reason: 'GENERATION_RETIRED' };
  const at = now.toISOString();
  const retireAfter = new Date(now.getTime() + RETIRE_AFTER_SECONDS * 1000).toISOString();
  const retired: KeyGeneration[] = [];
  const generations = disk.generations.map((g): KeyGeneration => {
    if (g === named) return confirmed(g, sealed.escrow, at);
    if (g.state !== 'active') return g;
    const retiring: KeyGeneration = { ...g, state: 'retiring', retireAfter };
    retired.push(retiring);
    return retiring;
  });
  const recoveryKeys = withRecoveryKey(disk.recoveryKeys, sealed.recoveryKey, generation, at);
  const changed =
    named.state === 'issued' ||
    generations.some((g, i) => g !== disk.generations[i]) ||
    recoveryKeys !== disk.recoveryKeys;
  return {
    kind: 'confirm',
    disk: { ...disk, generations, ...(recoveryKeys ? { recoveryKeys } : {}) },
    retired,
    changed,
  };
}

function confirmed(generation: KeyGeneration, escrow: string | undefined, at: string): KeyGeneration {
  const { escrows = [] } = generation;
  const news = escrow !== undefined && escrows[0]?.sealed !== escrow;
  if (generation.state === 'active' && !news) return generation;
  return {
    ...generation,
    state: 'active',
    confirmedAt: generation.confirmedAt ?? at,
    ...(news ? { escrows: [{ at, sealed: escrow }, ...escrows].slice(0, SEALED_KEPT) } : {}),
  };
}

function withRecoveryKey(
  known: DiskItem['recoveryKeys'],
  sealed: string | undefined,
  generation: number,
  at: string,
): DiskItem['recoveryKeys'] {
  if (sealed === undefined || known?.[0]?.sealed === sealed) return known;
  return [{ at, generation, sealed }, ...(known ?? [])].slice(0, SEALED_KEPT);
}

/** An item of the table has room for this many; each is a few hundred bytes. */
const GENERATIONS_MAX = 200;

export type Rotation =
  | { readonly kind: 'issue' }
  /** It is there already: the same request again, after a lost answer or a kill. */
  | { readonly kind: 'issued'; readonly generation: KeyGeneration }
  | { readonly kind: 'refuse'; readonly reason: Reason };

/**
 * Whether a disk gets this next generation. One at a time: while a generation is issued and not confirmed,
 * there is none after it, so that at most one key exists that no header has.
 */
export function planRotation(disk: DiskState, generation: number): Rotation {
  const highest = Math.max(...disk.generations.map((g) => g.generation));
  const open = disk.generations.find((g) => g.state === 'issued');
  if (open) {
    return open.generation === generation
      ? { kind: 'issued', generation: open }
      : { kind: 'refuse', reason: 'ROTATION_OPEN' };
  }
  if (generation !== highest + 1) return { kind: 'refuse', reason: 'ROTATION_WRONG_GENERATION' };
  return disk.generations.length < GENERATIONS_MAX
    ? { kind: 'issue' }
    : { kind: 'refuse', reason: 'ROTATION_LIMIT' };
}

/** The disk with a further generation, issued. */
export function withGeneration(
  disk: DiskState,
  wrapped: { generation: number; wrappedKey: string },
  at: Date,
): DiskState {
  const next: KeyGeneration = {
    ...wrapped,
    state: 'issued',
    wrappedFor: disk.instanceId,
    issuedAt: at.toISOString(),
  };
  return { ...disk, generations: [...disk.generations, next] };
}
