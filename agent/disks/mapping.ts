import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SYSFS } from './device.ts';
import { DiskError } from './error.ts';

/** The name of a volume's opened device below /dev/mapper. */
export function mappingName(volumeId: string): string {
  return `casemate-${volumeId}`;
}

export function mappingPath(volumeId: string): string {
  return `/dev/mapper/${mappingName(volumeId)}`;
}

/**
 * Whether the volume's disk is open. cryptsetup writes the disk into the mapping's UUID (`CRYPT-LUKS2-<uuid>-<name>`);
 * a mapping of that name that is another's is a fault, not an open disk.
 *
 * @param disk the LUKS UUID; undefined for BitLocker
 */
export function isOpen(volumeId: string, disk: string | undefined, sysfs: string = SYSFS): boolean {
  const folder = join(sysfs, 'class/block');
  if (!existsSync(folder)) return false;
  for (const name of readdirSync(folder)) {
    const dm = join(folder, name, 'dm');
    if (!existsSync(dm) || read(join(dm, 'name')) !== mappingName(volumeId)) continue;
    const uuid = read(join(dm, 'uuid'));
    const kind = disk === undefined ? 'CRYPT-BITLK-' : `CRYPT-LUKS2-${disk.replaceAll('-', '')}-`;
    if (!uuid.startsWith(kind)) {
      throw new DiskError('DEVICE_FAILED', `${mappingPath(volumeId)} is another device (${uuid})`);
    }
    return true;
  }
  return false;
}

const read = (path: string) => readFileSync(path, 'utf8').trim();
