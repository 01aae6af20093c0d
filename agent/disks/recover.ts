import type { DiskListResponse } from '../../lib/domain/disk-api.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { lookAt } from './converge.ts';
import { DiskError } from './error.ts';
import { sealSecret } from './escrow.ts';
import { growFilesystem } from './filesystem.ts';
import { addProvenKey, provenKeyslot, readHeader } from './keyslots.ts';
import { isOpen, mappingName } from './mapping.ts';
import { begin } from './mark.ts';
import type { DiskOnDevice, DiskParts } from './parts.ts';
import { confirmKey, releaseKey } from './pipeline.ts';
import { settleKeyslots } from './rotate.ts';

/** The device of a volume, which must carry a LUKS header; the disk is what that says where nobody else does. */
async function diskOf(
  parts: DiskParts,
  volumeId: string,
  list: DiskListResponse | undefined,
): Promise<DiskOnDevice> {
  const seen = await lookAt(parts, volumeId);
  if (!seen) throw new DiskError('DEVICE_MISSING', volumeId);
  if (seen.content.kind !== 'luks' || seen.content.uuid === undefined) {
    throw new DiskError('HEADER_UNREADABLE', `${seen.device.path} carries no LUKS header`);
  }
  const disk = list?.volumes.find((v) => v.volumeId === volumeId)?.disk ?? seen.content.uuid;
  return { volumeId, disk, device: seen.device };
}

/**
 * Opens a disk with its recovery key, by a header that is judged as ever. Needs nothing but this machine: it is for
 * the day when the pipeline is away.
 */
export async function openWithRecoveryKey(
  parts: DiskParts,
  volumeId: string,
  recovery: SecureMemory,
  list: DiskListResponse | undefined,
): Promise<DiskOnDevice> {
  const on = await diskOf(parts, volumeId, list);
  const { copy, reencrypting } = await readHeader(parts, on);
  using _ = copy;
  if ((await parts.cryptsetup.keyslotOf(on.device.path, copy.path, recovery)) === undefined) {
    throw new DiskError('RECOVERY_KEY_WRONG', on.device.path);
  }
  if (on.device.mappedBy !== 'file' && !isOpen(volumeId, on.disk)) {
    const name = mappingName(volumeId);
    const header = reencrypting ? undefined : copy.path;
    await parts.cryptsetup.open(
      { device: on.device.path, header, name, discards: parts.config.discards },
      recovery,
    );
  }
  return on;
}

/**
 * Puts the newest generation back into a keyslot, on the authority of the recovery key, and settles the header: the
 * recovery key that was typed has been seen by people, and is replaced.
 */
export async function reenrol(
  parts: DiskParts,
  on: DiskOnDevice,
  recovery: SecureMemory,
  list: DiskListResponse,
): Promise<number> {
  const volume = list.volumes.find((each) => each.volumeId === on.volumeId);
  const newest = volume?.generations.findLast((g) => g.state === 'active' || g.state === 'issued');
  if (!newest) throw new DiskError('KEY_NOT_ISSUED_YET', on.volumeId);
  using released = await releaseKey(parts, on.disk, newest.generation);
  begin(parts.config.stateDir, on.disk, 'rotating');
  if ((await provenKeyslot(parts, on, released.key)) === undefined) {
    await addProvenKey(parts, on, recovery, released.key);
  }
  await settleKeyslots(parts, on, newest.generation, released.key, list.recoveryPublicKey);
  return newest.generation;
}

/**
 * Escrows the secret of a BitLocker volume as a disk key of that volume: proven by opening, sealed under the disk's
 * key, confirmed.
 */
export async function escrowSecret(
  parts: DiskParts,
  list: DiskListResponse,
  volumeId: string,
  secret: SecureMemory,
): Promise<void> {
  const volume = list.volumes.find((each) => each.volumeId === volumeId);
  const newest = volume?.generations.findLast((g) => g.state === 'active' || g.state === 'issued');
  if (!volume?.disk || !newest) throw new DiskError('KEY_NOT_ISSUED_YET', volumeId);
  const seen = await lookAt(parts, volumeId);
  if (!seen) throw new DiskError('DEVICE_MISSING', volumeId);
  if (volume.kind !== 'bitlk' || seen.content.kind !== 'bitlk') {
    throw new DiskError('DEVICE_NOT_BITLOCKER', `${seen.device.path}, tagged ${volume.kind}`);
  }
  if (!(await parts.cryptsetup.provesBitlk(seen.device.path, secret))) {
    throw new DiskError('BITLOCKER_SECRET_WRONG', seen.device.path);
  }
  using released = await releaseKey(parts, volume.disk, newest.generation);
  const escrow = sealSecret(secret, released.key, volume.disk, newest.generation).toString('base64');
  await confirmKey(parts, volume.disk, newest.generation, { escrow });
}

/** Lets an open disk, and the file system on it, fill a volume that grew. */
export async function growDisk(parts: DiskParts, list: DiskListResponse, volumeId: string): Promise<void> {
  const on = await diskOf(parts, volumeId, list);
  const active = list.volumes
    .find((each) => each.volumeId === volumeId)
    ?.generations.findLast((g) => g.state === 'active');
  if (!active) throw new DiskError('KEY_NOT_ISSUED_YET', volumeId);
  if (!isOpen(volumeId, on.disk)) throw new DiskError('DEVICE_FAILED', `${volumeId} is not open`);
  using released = await releaseKey(parts, on.disk, active.generation);
  await parts.cryptsetup.resize(mappingName(volumeId), released.key);
  await growFilesystem(parts.run, volumeId);
}
