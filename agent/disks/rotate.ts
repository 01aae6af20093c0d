import type { ListedVolume } from '../../lib/domain/disk-api.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { DiskError } from './error.ts';
import {
  addProvenKey,
  addRecoveryKey,
  backUpHeaderIfDue,
  dropKeyslot,
  keepKeyslots,
  nameKeyslot,
  provenKeyslot,
  readHeader,
} from './keyslots.ts';
import { isOpen, mappingName } from './mapping.ts';
import { begin, end } from './mark.ts';
import type { DiskOnDevice, DiskParts } from './parts.ts';
import { confirmKey, releaseKey, requestRotation } from './pipeline.ts';
import type { Progress } from './progress.ts';

type Generations = ListedVolume['generations'];

/** The generations that a rotation is between, by what the pipeline lists. */
export interface RotationPlan {
  /** Opens the disk now. */
  readonly from: number;
  readonly to: number;
  /** `to` is not issued yet. */
  readonly ask: boolean;
}

/**
 * A generation issued beside the active one is a rotation that did not end: it goes on with that. Without an active
 * one there is nothing to rotate from.
 */
export function planRotation(generations: Generations): RotationPlan | undefined {
  const active = generations.findLast((g) => g.state === 'active');
  if (!active) return undefined;
  const next = generations.find((g) => g.state === 'issued' && g.generation > active.generation);
  if (next) return { from: active.generation, to: next.generation, ask: false };
  const highest = Math.max(...generations.map((g) => g.generation));
  return { from: active.generation, to: highest + 1, ask: true };
}

/**
 * Replaces access to a disk: a new generation into a keyslot of its own, proven by opening with it, then confirmed,
 * and only then every other keyslot removed, the old recovery key's too. Killed anywhere, the next call goes on: until
 * the confirmation the old key opens, from it on the new one, in between both.
 */
export async function rotateKey(
  parts: DiskParts,
  on: DiskOnDevice,
  generations: Generations,
  recoveryPublicKey: string | null,
): Promise<number> {
  const plan = planRotation(generations);
  if (!plan) throw new DiskError('KEY_NOT_ISSUED_YET', `disk ${on.disk} has no active key to rotate from`);
  const { from, to } = plan;
  begin(parts.config.stateDir, on.disk, 'rotating');
  parts.say(`${on.volumeId}: rotating key ${from} to ${to}`);
  if (plan.ask) await requestRotation(parts, on.disk, to);
  using fresh = await releaseKey(parts, on.disk, to);
  if ((await provenKeyslot(parts, on, fresh.key)) === undefined) {
    using old = await releaseKey(parts, on.disk, from);
    const opened = await provenKeyslot(parts, on, old.key);
    if (opened === undefined) throw new DiskError('KEY_DOES_NOT_OPEN', `generation ${from}`);
    await addProvenKey(parts, on, old.key, fresh.key);
  }
  await settleKeyslots(parts, on, to, fresh.key, recoveryPublicKey);
  return to;
}

/**
 * From a keyslot that the generation opens to a header that has that and a recovery key, and nothing else. Also what
 * ends a rotation whose confirmation was lost: which keyslot the confirmed recovery key is in would be the header's
 * word, so that a new one is made and confirmed.
 */
export async function settleKeyslots(
  parts: DiskParts,
  on: DiskOnDevice,
  generation: number,
  key: SecureMemory,
  recoveryPublicKey: string | null,
): Promise<void> {
  const slot = await provenKeyslot(parts, on, key);
  if (slot === undefined) throw new DiskError('KEY_DOES_NOT_OPEN', `generation ${generation}`);
  begin(parts.config.stateDir, on.disk, 'backing-up');
  await makeRoom(parts, on, key, slot, generation);
  await nameKeyslot(parts, on, slot, { generation, role: 'disk-key' });
  const recovery = await addRecoveryKey(parts, on, key, generation, recoveryPublicKey);
  const retiring = await confirmKey(
    parts,
    on.disk,
    generation,
    recovery ? { recoveryKey: recovery.sealed } : {},
  );
  await keepKeyslots(parts, on, key, recovery ? [slot, recovery.slot] : [slot]);
  await backUpHeaderIfDue(parts, on, generation);
  end(parts.config.stateDir, on.disk, 'rotating');
  const gone = retiring.length > 0 ? `, key ${retiring.join(', ')} retiring` : '';
  parts.say(`${on.volumeId}: key ${generation} confirmed${gone}`);
}

/** A header has eight keyslots; adding a recovery key takes one, and a rotation that is repeated leaves more. */
const CROWDED = 6;

/**
 * Makes room where attempts that did not end left too many recovery keys, which died with the agents that made them.
 * By what the header itself says of them: a forged name costs a keyslot that the confirmation removes anyway. The newest
 * may be the confirmed one, so that nothing is removed while there is room.
 */
async function makeRoom(
  parts: DiskParts,
  on: DiskOnDevice,
  key: SecureMemory,
  slot: number,
  generation: number,
): Promise<void> {
  const { copy, keyslots } = await readHeader(parts, on);
  copy[Symbol.dispose]();
  if (keyslots.length < CROWDED) return;
  for (const each of keyslots) {
    const { claims } = each;
    const left = claims === undefined || (claims.role === 'recovery' && claims.generation === generation);
    if (left && each.slot !== slot) await dropKeyslot(parts, on, key, each);
  }
}

/**
 * Replaces the volume key itself, the only thing that shuts out who once had it: every sector is written anew, online,
 * with checksums that survive a kill. cryptsetup keeps only the keyslot that it is given; the recovery key comes back
 * in a new one at the end.
 */
export async function reencrypt(
  parts: DiskParts,
  on: DiskOnDevice,
  generation: number,
  recoveryPublicKey: string | null,
  progress: Progress,
  stop?: AbortSignal,
): Promise<void> {
  using released = await releaseKey(parts, on.disk, generation);
  const { stateDir } = parts.config;
  const before = await readHeader(parts, on);
  before.copy[Symbol.dispose]();
  const slot = await provenKeyslot(parts, on, released.key);
  if (slot === undefined) throw new DiskError('KEY_DOES_NOT_OPEN', `generation ${generation}`);
  const active = isOpen(on.volumeId, on.disk) ? mappingName(on.volumeId) : undefined;
  if (active === undefined && on.device.mappedBy !== 'file') {
    throw new DiskError('DEVICE_FAILED', `${on.volumeId} is not open: open it first`);
  }
  begin(stateDir, on.disk, 'reencrypting');
  begin(stateDir, on.disk, 'rotating'); // its keyslots are to be settled afterwards
  await parts.cryptsetup.reencrypt(on.device.path, active, released.key, {
    slot,
    resume: before.reencrypting,
    onLine: (line) => progress.report(line),
    ...(stop ? { stop } : {}),
  });
  progress.end();
  end(stateDir, on.disk, 'reencrypting');
  await settleKeyslots(parts, on, generation, released.key, recoveryPublicKey);
}
