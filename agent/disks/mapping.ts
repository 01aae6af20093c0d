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
  const uuid = mappingUuid(volumeId, sysfs);
  if (uuid === undefined) return false;
  const kind = disk === undefined ? 'CRYPT-BITLK-' : `CRYPT-LUKS2-${disk.replaceAll('-', '')}-`;
  if (uuid.startsWith(kind)) return true;
  throw new DiskError('DEVICE_FAILED', `${mappingPath(volumeId)} is another device (${uuid})`);
}

/** The UUID of the mapping with the volume's name, whatever it maps; undefined when there is none. */
export function mappingUuid(volumeId: string, sysfs: string = SYSFS): string | undefined {
  const folder = join(sysfs, 'class/block');
  if (!existsSync(folder)) return undefined;
  const dm = readdirSync(folder)
    .map((name) => join(folder, name, 'dm'))
    .find((each) => existsSync(each) && read(join(each, 'name')) === mappingName(volumeId));
  return dm && read(join(dm, 'uuid'));
}

const read = (path: string) => readFileSync(path, 'utf8').trim();
