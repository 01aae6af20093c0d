import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskDevice } from '../../lib/domain/disk-plan.ts';
import { type HeaderKeyslot, judgeHeader } from '../../lib/domain/luks-header.ts';
import type { Cryptsetup } from './cryptsetup.ts';
import { readHeaderArea } from './device.ts';
import { DiskError } from './error.ts';

/** A copy of a header area in a file of memory, readable by root alone, gone with the end of its scope. */
export class HeaderCopy implements Disposable {
  readonly path: string;
  readonly bytes: Buffer;
  /** @param folder on a tmpfs: a copy must not outlive a rotation that removes its keyslots */
  constructor(folder: string, device: DiskDevice) {
    this.bytes = readHeaderArea(device);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    removeAbandoned(folder);
    this.path = join(folder, `header-${process.pid}-${randomUUID()}`);
    writeFileSync(this.path, this.bytes, { mode: 0o600, flag: 'wx' });
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { force: true });
  }
}

/** Copies of processes that were killed: their scope never ended. */
function removeAbandoned(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = /^header-(\d+)-/.exec(name)?.[1];
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(folder, name), { force: true });
  }
}

export interface SoundHeader {
  readonly keyslots: readonly HeaderKeyslot[];
  readonly reencrypting: boolean;
}

/**
 * Judges a copy. Nothing is opened by a header that did not pass here, and nothing reads the device's own again.
 *
 * @throws DiskError with the reason of the refusal
 */
export async function judgeCopy(
  cryptsetup: Cryptsetup,
  copy: HeaderCopy,
  facts: { readonly disk: string; readonly device: DiskDevice; readonly reencrypting: boolean },
): Promise<SoundHeader> {
  const [uuid, json] = await Promise.all([cryptsetup.uuid(copy.path), cryptsetup.metadata(copy.path)]);
  if (uuid === undefined || json === undefined) {
    throw new DiskError('HEADER_UNREADABLE', `${facts.device.path} has no header that is whole`);
  }
  const verdict = judgeHeader(json, {
    disk: facts.disk,
    uuid,
    deviceBytes: facts.device.bytes,
    reencrypting: facts.reencrypting,
  });
  if (verdict.kind === 'refuse')
    throw new DiskError(verdict.reason, `${facts.device.path}: ${verdict.detail}`);
  return verdict;
}
