import { readFileSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readIfThere } from './state.ts';

/** What the kernel says of a block device, by its number: without udev a name below /dev is nobody's promise. */
export interface BlockDevice {
  /** The kernel's name: `nvme1n1p3`, `dm-0`, `zram0`. */
  readonly name: string;
  /** `259:3`. */
  readonly number: string;
  readonly bytes: number;
  /** Of a device-mapper device: `CRYPT-LUKS2-…`; libcryptsetup's all begin with `CRYPT-`. */
  readonly mapperUuid: string | undefined;
}

/** @param rdev of the device's node, by stat(2) @throws ENOENT where sysfs does not know it */
export function blockDevice(rdev: bigint): BlockDevice {
  const number = deviceNumber(rdev);
  const sysfs = realpathSync(join('/sys/dev/block', number));
  return {
    name: basename(sysfs),
    number,
    bytes: Number(readFileSync(join(sysfs, 'size'), 'utf8')) * 512, // whatever the device's own sectors are
    mapperUuid: readIfThere(join(sysfs, 'dm/uuid'))?.trim(),
  };
}

/** Major and minor as Linux packs them for programs: makedev(3). */
function deviceNumber(rdev: bigint): string {
  const major = ((rdev >> 32n) & 0xfffff000n) | ((rdev >> 8n) & 0xfffn);
  const minor = ((rdev >> 12n) & 0xffffff00n) | (rdev & 0xffn);
  return `${major}:${minor}`;
}
