import { readFileSync, rmSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { type HeaderKeyslot, type HeaderToken, TOKEN_TYPE } from '../../lib/domain/luks-header.ts';
import { RefusedError, UnreachableError } from '../api.ts';
import { explain } from '../log.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { DiskError } from './error.ts';
import { HeaderCopy, judgeCopy, type SoundHeader } from './header.ts';
import { end, isUnderWay } from './mark.ts';
import type { DiskOnDevice, DiskParts } from './parts.ts';
import { backUpHeader } from './pipeline.ts';
import { createRecoveryKey, sealRecoveryKey } from './recovery-key.ts';

/** A fresh copy of the device's header, judged; the caller disposes of the copy. */
export async function readHeader(
  parts: DiskParts,
  on: DiskOnDevice,
): Promise<SoundHeader & { copy: HeaderCopy }> {
  const copy = new HeaderCopy(parts.config.runtimeDir, on.device);
  try {
    const reencrypting = isUnderWay(parts.config.stateDir, on.disk, 'reencrypting');
    return { ...(await judgeCopy(parts.cryptsetup, copy, { ...on, reencrypting })), copy };
  } catch (error) {
    copy[Symbol.dispose]();
    throw error;
  }
}

/** The keyslot that a key opens by the header as it is on the device now. */
export async function provenKeyslot(
  parts: DiskParts,
  on: DiskOnDevice,
  key: SecureMemory,
): Promise<number | undefined> {
  const { copy } = await readHeader(parts, on);
  using _ = copy;
  return await parts.cryptsetup.keyslotOf(on.device.path, copy.path, key);
}

/** Adds a key, and proves that the device opens with it. @returns its keyslot */
export async function addProvenKey(
  parts: DiskParts,
  on: DiskOnDevice,
  authority: SecureMemory,
  added: SecureMemory,
): Promise<number> {
  const slot = await parts.cryptsetup.addKey(on.device.path, authority, added);
  const proven = await provenKeyslot(parts, on, added);
  if (proven !== slot) {
    throw new DiskError(
      'KEY_DOES_NOT_OPEN',
      `the key that was just added to keyslot ${slot} does not open it`,
    );
  }
  return slot;
}

/** Writes down, for people and tools, what is in a keyslot: a token with the keyslot's own number. */
export async function nameKeyslot(
  parts: DiskParts,
  on: DiskOnDevice,
  slot: number,
  claims: Pick<HeaderToken, 'generation' | 'role'>,
): Promise<void> {
  await parts.cryptsetup.importToken(on.device.path, slot, {
    type: TOKEN_TYPE,
    keyslots: [String(slot)],
    disk: on.disk,
    ...claims,
  });
}

/** Removes a keyslot, and then its name. */
export async function dropKeyslot(
  parts: DiskParts,
  on: DiskOnDevice,
  authority: SecureMemory,
  { slot, claims }: HeaderKeyslot,
): Promise<void> {
  await parts.cryptsetup.killSlot(on.device.path, authority, slot);
  if (claims) await parts.cryptsetup.removeToken(on.device.path, slot);
}

/** Removes every keyslot but these. */
export async function keepKeyslots(
  parts: DiskParts,
  on: DiskOnDevice,
  authority: SecureMemory,
  kept: readonly number[],
): Promise<void> {
  const { copy, keyslots } = await readHeader(parts, on);
  copy[Symbol.dispose]();
  for (const each of keyslots) {
    if (!kept.includes(each.slot)) await dropKeyslot(parts, on, authority, each);
  }
}

/**
 * A new recovery key in a keyslot of its own, sealed for its escrow. The key itself is gone afterwards.
 *
 * @returns undefined when the pipeline has no escrow
 */
export async function addRecoveryKey(
  parts: DiskParts,
  on: DiskOnDevice,
  authority: SecureMemory,
  generation: number,
  recoveryPublicKey: string | null,
): Promise<{ readonly slot: number; readonly sealed: string } | undefined> {
  if (recoveryPublicKey === null) return undefined;
  using recovery = createRecoveryKey();
  const slot = await addProvenKey(parts, on, authority, recovery);
  await nameKeyslot(parts, on, slot, { generation, role: 'recovery' });
  const sealed = sealRecoveryKey(recovery, Buffer.from(recoveryPublicKey, 'base64')).toString('base64');
  return { slot, sealed };
}

/**
 * Sends the header as it is now, as `cryptsetup luksHeaderRestore` takes it, if it changed since it last was. A backup
 * that cannot be sent is owed, not waited for: a disk is worth opening without one.
 */
export async function backUpHeaderIfDue(
  parts: DiskParts,
  on: DiskOnDevice,
  generation: number,
): Promise<void> {
  const { stateDir } = parts.config;
  if (!isUnderWay(stateDir, on.disk, 'backing-up')) return;
  const { copy } = await readHeader(parts, on);
  using _ = copy;
  const file = `${copy.path}.backup`;
  try {
    await parts.cryptsetup.backUp(copy.path, file);
    await backUpHeader(parts, on.disk, generation, gzipSync(readFileSync(file)));
    end(stateDir, on.disk, 'backing-up');
  } catch (error) {
    if (!(error instanceof RefusedError || error instanceof UnreachableError)) throw error;
    parts.say(`${on.volumeId}: the header backup is still owed: ${explain(error)}`);
  } finally {
    rmSync(file, { force: true });
  }
}
