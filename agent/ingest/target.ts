import { existsSync, statSync } from 'node:fs';
import { constants, type FileHandle, open } from 'node:fs/promises';
import type { IngestTarget } from '../../lib/domain/ingest.ts';
import { blockDevice } from '../block-device.ts';
import { signaturesOf } from '../disks/device.ts';
import type { RunTool } from '../disks/tool.ts';
import { IngestError } from './error.ts';

/** What the target is, without touching it. A regular file stands for a device of its size. */
export async function inspectTarget(run: RunTool, path: string): Promise<IngestTarget> {
  if (!existsSync(path)) throw new IngestError('INGEST_TARGET_MISSING', `${path} is not there`);
  const stat = statSync(path, { bigint: true });
  if (!stat.isBlockDevice() && !stat.isFile()) {
    throw new IngestError('INGEST_TARGET_MISSING', `${path} is no block device and no file`);
  }
  const signatures = (await signaturesOf(run, path)).map(({ type }) => type);
  if (stat.isFile()) {
    return {
      path,
      id: `file ${stat.dev}:${stat.ino}`,
      bytes: Number(stat.size),
      encrypted: false,
      signatures,
    };
  }
  const { number, bytes, mapperUuid } = blockDevice(stat.rdev);
  return {
    path,
    id: mapperUuid || `device ${number}`,
    bytes,
    encrypted: mapperUuid?.startsWith('CRYPT-') === true,
    signatures,
  };
}

/**
 * Opens the target for direct I/O: neither the image nor the pages of others pass through its cache. A device that
 * is mounted or held is refused by the kernel (open(2), O_EXCL without O_CREAT).
 */
export async function openTarget(target: IngestTarget): Promise<FileHandle> {
  const exclusive = statSync(target.path).isBlockDevice() ? constants.O_EXCL : 0;
  try {
    return await open(target.path, constants.O_RDWR | constants.O_DIRECT | exclusive);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EBUSY') {
      throw new IngestError('INGEST_TARGET_BUSY', `${target.path} is in use`, { cause });
    }
    throw new IngestError('INGEST_TARGET_FAILED', `${target.path} cannot be opened for direct writing`, {
      cause,
    });
  }
}
