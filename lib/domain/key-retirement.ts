import type { DiskItem, KeyGeneration } from './disk-key.ts';
import { RETIRE_AFTER_SECONDS } from './key-rotation.ts';
import type { OperatorItem } from './operator.ts';
import type { Reason } from './reasons.ts';

type DiskState = Omit<DiskItem, 'pk' | 'version'>;

/** Two looks at least this far apart must miss volume and snapshots: EC2 is eventually consistent. */
export const MISSING_SECONDS = 24 * 3600;

/** What EC2 shows of a disk. */
export interface DiskSighting {
  readonly volume: boolean;
  readonly snapshots: number;
}

export interface GenerationChange {
  readonly generation: number;
  readonly state: 'retiring' | 'kept' | 'retired';
  readonly retireAfter: string | null;
  readonly reasons: readonly Reason[];
}

export interface RetirementPlan {
  /** Undefined where the item stays as it is. */
  readonly disk: DiskState | undefined;
  readonly changes: readonly GenerationChange[];
}

/** Whether EC2 has to be asked about the disk: only where a retirement could be completed. */
export function wantsSighting(disk: DiskState, operator: OperatorItem | undefined, now: Date): boolean {
  if (operator?.keep?.[disk.disk]) return false;
  return disk.generations.some((g) => isDue(g, now)) || disk.missingSince !== undefined;
}

/**
 * What becomes of a disk's keys without anybody asking for one: what an operator wants retired begins to, what an
 * operator keeps is kept, and what is due is shredded, but never while a volume or a snapshot of the disk exists.
 * Until then a retiring key is still released, so beginning to retire takes nothing from anybody.
 */
export function planRetirement(
  disk: DiskState,
  operator: OperatorItem | undefined,
  sighting: DiskSighting | undefined,
  now: Date,
): RetirementPlan {
  if (operator?.keep?.[disk.disk]) return keep(disk);
  const begun = begin(disk, operator);
  return complete(begun, sighting, now);
}

/** Gives the newest confirmed key back its place, where none is active: an operator had it retired and thinks again. */
function keep(disk: DiskState): RetirementPlan {
  if (disk.generations.some((g) => g.state === 'active')) return { disk: undefined, changes: [] };
  const issued = disk.generations.some((g) => g.state === 'issued');
  const newest = disk.generations
    .filter((g) => g.state === 'retiring' && (g.confirmedAt !== undefined || !issued))
    .reduce<KeyGeneration | undefined>((a, b) => (a && a.generation > b.generation ? a : b), undefined);
  if (!newest) return { disk: undefined, changes: [] };
  const { retireAfter: _over, ...rest } = newest;
  const back: KeyGeneration = { ...rest, state: newest.confirmedAt === undefined ? 'issued' : 'active' };
  return {
    disk: { ...disk, generations: disk.generations.map((g) => (g === newest ? back : g)) },
    changes: [{ generation: newest.generation, state: 'kept', retireAfter: null, reasons: ['KEY_KEPT'] }],
  };
}

interface Begun {
  readonly disk: DiskState;
  readonly changes: readonly GenerationChange[];
}

function begin(disk: DiskState, operator: OperatorItem | undefined): Begun {
  const asked = operator?.retire?.[disk.disk];
  if (!asked) return { disk, changes: [] };
  const retireAfter = new Date(Date.parse(asked.at) + RETIRE_AFTER_SECONDS * 1000).toISOString();
  const wanted = (g: KeyGeneration) =>
    (g.state === 'issued' || g.state === 'active') &&
    (asked.generation === undefined || asked.generation === g.generation) &&
    // A key that came after the asking is not what was asked about.
    Date.parse(g.issuedAt) <= Date.parse(asked.at);
  const changes = disk.generations.filter(wanted).map(
    ({ generation }): GenerationChange => ({
      generation,
      state: 'retiring',
      retireAfter,
      reasons: ['OPERATOR_ASKED'],
    }),
  );
  if (changes.length === 0) return { disk, changes };
  const generations = disk.generations.map((g) =>
    wanted(g) ? { ...g, state: 'retiring' as const, retireAfter } : g,
  );
  return { disk: { ...disk, generations }, changes };
}

function complete(begun: Begun, sighting: DiskSighting | undefined, now: Date): RetirementPlan {
  const { disk, changes } = begun;
  const unchanged = { disk: changes.length > 0 ? disk : undefined, changes };
  if (!sighting) return unchanged;
  if (sighting.volume || sighting.snapshots > 0) {
    if (disk.missingSince === undefined) return unchanged;
    const { missingSince: _seen, ...seen } = disk;
    return { disk: seen, changes };
  }
  if (disk.missingSince === undefined) {
    return { disk: { ...disk, missingSince: now.toISOString() }, changes };
  }
  if (now.getTime() - Date.parse(disk.missingSince) < MISSING_SECONDS * 1000) return unchanged;
  const due = disk.generations.filter((g) => isDue(g, now));
  if (due.length === 0) return unchanged;
  const generations = disk.generations.map((g): KeyGeneration => (due.includes(g) ? shredded(g) : g));
  const { recoveryKeys, ...rest } = disk;
  // A recovery key opens the disk beside every generation, so it goes with the last of them.
  const last = generations.every((g) => g.state === 'retired');
  return {
    disk: { ...rest, generations, ...(recoveryKeys && !last ? { recoveryKeys } : {}) },
    changes: [
      ...changes,
      ...due.map(
        ({ generation }): GenerationChange => ({
          generation,
          state: 'retired',
          retireAfter: null,
          reasons: ['KEY_RETIRED'],
        }),
      ),
    ],
  };
}

function isDue(generation: KeyGeneration, now: Date): boolean {
  const { state, retireAfter } = generation;
  return state === 'retiring' && retireAfter !== undefined && Date.parse(retireAfter) <= now.getTime();
}

function shredded(generation: KeyGeneration): KeyGeneration {
  const { escrows: _gone, ...rest } = generation;
  return { ...rest, state: 'retired', wrappedKey: null };
}
