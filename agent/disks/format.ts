import type { ListedVolume } from '../../lib/domain/disk-api.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { refuseInUse, signaturesOf } from './device.ts';
import { makeFilesystem, wantedFilesystem } from './filesystem.ts';
import { addRecoveryKey, backUpHeaderIfDue, keepKeyslots, nameKeyslot } from './keyslots.ts';
import { mappingPath } from './mapping.ts';
import { begin, end, isUnderWay } from './mark.ts';
import type { DiskOnDevice, DiskParts } from './parts.ts';
import { confirmKey } from './pipeline.ts';

/** What a disk's first formatting goes by. */
export interface FirstTime {
  readonly volume: ListedVolume;
  readonly on: DiskOnDevice;
  readonly generation: number;
  readonly recoveryPublicKey: string | null;
}

/** 4096-byte sectors where the device has whole ones: a tenth of the work per byte in dm-crypt. */
const sectorSizeFor = (bytes: number) => (bytes % 4096 === 0 ? 4096 : 512);

/**
 * Writes a LUKS2 header of the disk onto the device, with the key in its first keyslot. The mark goes first: what a
 * kill leaves between here and the confirmation is known to be this agent's own, with no data in it.
 */
export async function writeHeader(
  parts: DiskParts,
  { on, generation }: FirstTime,
  key: SecureMemory,
): Promise<void> {
  refuseInUse(on.device);
  begin(parts.config.stateDir, on.disk, 'formatting');
  begin(parts.config.stateDir, on.disk, 'backing-up');
  parts.say(`${on.volumeId}: formatting ${on.device.path} as disk ${on.disk}, key ${generation}`);
  await parts.cryptsetup.format(on.device.path, key, {
    uuid: on.disk,
    sectorSize: sectorSizeFor(on.device.bytes),
  });
}

/**
 * The rest of a disk's first formatting, from a header that the key opens: file system, recovery key, header backup,
 * and only then the confirmation, after which nobody formats it again. Each step may be done twice, and none before
 * the confirmation finds data to lose, because the disk is mounted after it.
 */
export async function finishFormat(parts: DiskParts, first: FirstTime, key: SecureMemory, slot: number) {
  const { volume, on, generation, recoveryPublicKey } = first;
  if (on.device.mappedBy !== 'file') {
    const filesystem = wantedFilesystem(volume);
    const mapped = mappingPath(on.volumeId);
    // A file system that this agent does not remember to have begun may be somebody's, whatever the table says.
    const ours = isUnderWay(parts.config.stateDir, on.disk, 'formatting');
    if (filesystem && (ours || (await signaturesOf(parts.run, mapped)).length === 0)) {
      await makeFilesystem(parts.run, mapped, filesystem);
    }
  }
  // Recovery keys of attempts that did not come this far: nobody has them.
  await keepKeyslots(parts, on, key, [slot]);
  await nameKeyslot(parts, on, slot, { generation, role: 'disk-key' });
  const recovery = await addRecoveryKey(parts, on, key, generation, recoveryPublicKey);
  await backUpHeaderIfDue(parts, on, generation);
  await confirmKey(parts, on.disk, generation, recovery ? { recoveryKey: recovery.sealed } : {});
  end(parts.config.stateDir, on.disk, 'formatting');
  parts.say(`${on.volumeId}: key ${generation} confirmed`);
}
