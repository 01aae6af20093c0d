import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  statSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import * as z from 'zod';
import type { DeviceContent, DiskDevice } from '../../lib/domain/disk-plan.ts';
import { HEADER_AREA_BYTES } from '../../lib/domain/luks-header.ts';
import { DiskError } from './error.ts';
import type { RunTool } from './tool.ts';

const SECTOR = 512;
/** Linux Documentation/ABI/stable/sysfs-block: whole disks and partitions by name. */
export const SYSFS = '/sys';

/**
 * The device that is an EBS volume: by the path that the configuration names, else by its serial, which on Nitro is
 * the volume id without its dash (https://docs.aws.amazon.com/ebs/latest/userguide/nvme-ebs-volumes.html). Two devices
 * with one serial are none: one of them is somebody's.
 */
export function findDevice(
  volumeId: string,
  configured: Readonly<Record<string, string>>,
  sysfs: string = SYSFS,
): DiskDevice | undefined {
  const path = configured[volumeId];
  if (path !== undefined) return existsSync(path) ? deviceAt(path, volumeId, sysfs) : undefined;
  const found = wholeDisks(sysfs).filter((name) => serialOf(name, sysfs) === serialOfVolume(volumeId));
  if (found.length > 1) {
    throw new DiskError(
      'DEVICE_NOT_BY_SERIAL',
      `${found.join(' and ')} both carry the serial of ${volumeId}`,
    );
  }
  const [name] = found;
  return name === undefined
    ? undefined
    : { path: `/dev/${name}`, bytes: blockBytes(name, sysfs), mappedBy: 'serial' };
}

/** A device by a path that somebody named. */
export function deviceAt(path: string, volumeId: string, sysfs: string = SYSFS): DiskDevice {
  const stat = statSync(path);
  if (stat.isFile()) return { path, bytes: stat.size, mappedBy: 'file' };
  if (!stat.isBlockDevice()) throw new DiskError('DEVICE_MISSING', `${path} is no block device and no file`);
  const name = basename(realpathSync(path));
  const known = serialOf(name, sysfs) === serialOfVolume(volumeId);
  return { path, bytes: blockBytes(name, sysfs), mappedBy: known ? 'serial' : 'named' };
}

function serialOfVolume(volumeId: string): string {
  return volumeId.replace('-', '');
}

function wholeDisks(sysfs: string): string[] {
  const folder = join(sysfs, 'class/block');
  if (!existsSync(folder)) return [];
  return readdirSync(folder).filter((name) => !existsSync(join(folder, name, 'partition')));
}

/** NVMe has it at its controller; other buses at the disk. */
function serialOf(name: string, sysfs: string): string | undefined {
  for (const file of ['device/serial', 'serial']) {
    const path = join(sysfs, 'class/block', name, file);
    if (existsSync(path)) return readFileSync(path, 'utf8').trim();
  }
  return undefined;
}

function blockBytes(name: string, sysfs: string): number {
  return Number(readFileSync(join(sysfs, 'class/block', name, 'size'), 'utf8')) * SECTOR;
}

/** The header area of a device, read once: everything that is judged and opened is this copy. */
export function readHeaderArea(device: DiskDevice): Buffer {
  return readAt(device, 0, Math.min(HEADER_AREA_BYTES, device.bytes));
}

function readAt(device: DiskDevice, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  try {
    const fd = openSync(device.path, constants.O_RDONLY);
    try {
      for (let done = 0; done < length; ) {
        const count = readSync(fd, bytes, done, length - done, offset + done);
        if (count === 0) throw new Error(`it ends after ${offset + done} of ${device.bytes} bytes`);
        done += count;
      }
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw new DiskError('DEVICE_FAILED', `${device.path} cannot be read`, { cause });
  }
  return bytes;
}

/** Refuses a block device that is mounted, or that something else holds: O_EXCL without O_CREAT, see open(2). */
export function refuseInUse(device: DiskDevice): void {
  if (device.mappedBy === 'file') return;
  try {
    closeSync(openSync(device.path, constants.O_RDONLY | constants.O_EXCL));
  } catch (cause) {
    throw new DiskError('DEVICE_FAILED', `${device.path} is in use`, { cause });
  }
}

const found = z.looseObject({
  signatures: z.array(z.looseObject({ type: z.string(), uuid: z.string().nullable() })),
});
/** As much as a partition table, a RAID or a file system leaves at the end of a disk. */
const TAIL_BYTES = 1024 * 1024;

/** The signatures on a device, by the library that mount asks too. */
export async function signaturesOf(run: RunTool, path: string) {
  const { stdout } = await run('wipefs', ['--no-act', '--json', path]);
  // It says nothing at all where there is nothing.
  return stdout.trim() === '' ? [] : found.parse(JSON.parse(stdout)).signatures;
}

/**
 * What is on a device: for planning, and believed in nothing that opens it. Without any signature it is blank only
 * when its first 16 MiB and its last are zero: noise may be a header that was overwritten.
 */
export async function contentOf(run: RunTool, device: DiskDevice): Promise<DeviceContent> {
  const signatures = await signaturesOf(run, device.path);
  const luks = signatures.find((each) => each.type === 'crypto_LUKS');
  if (luks) return { kind: 'luks', uuid: luks.uuid ?? undefined };
  if (signatures.some((each) => each.type === 'BitLocker')) return { kind: 'bitlk' };
  const headerIsZero = isZero(readHeaderArea(device));
  const [first] = signatures;
  if (first) return { kind: 'other', signature: first.type, headerIsZero };
  const tail = Math.min(TAIL_BYTES, device.bytes);
  const blank = headerIsZero && isZero(readAt(device, device.bytes - tail, tail));
  return blank ? { kind: 'blank' } : { kind: 'other', signature: 'data', headerIsZero };
}

function isZero(bytes: Buffer): boolean {
  return bytes.length === 0 || (bytes[0] === 0 && bytes.subarray(1).equals(bytes.subarray(0, -1)));
}
