import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { describe } from '@jest/globals';

/** cryptsetup by hand, for looking at what the agent did and for doing what an attacker does. */
export function cryptsetup(args: readonly string[], input?: Uint8Array) {
  const { status, stdout, stderr } = spawnSync('cryptsetup', ['--batch-mode', ...args], {
    input,
    encoding: 'buffer',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
  });
  return { status, stdout: stdout?.toString() ?? '', stderr: stderr?.toString() ?? '' };
}

const installed = cryptsetup(['--version']).status === 0;
const why = installed ? '' : ' (skipped: cryptsetup is not installed)';
export const describeWithCryptsetup = (name: string, tests: () => void) =>
  (installed ? describe : describe.skip)(`${name}${why}`, tests);

/** Whether a key opens the device. */
export const opens = (device: string, key: Uint8Array): boolean =>
  cryptsetup(['open', '--test-passphrase', '--key-file', '-', device], key).status === 0;

export interface Luks2 {
  keyslots: Record<
    string,
    Record<string, unknown> & { area: Record<string, unknown>; kdf: Record<string, unknown> }
  >;
  tokens: Record<string, Record<string, unknown>>;
  segments: Record<string, Record<string, unknown>>;
  digests: Record<string, Record<string, unknown>>;
  config: Record<string, unknown>;
}

export function metadata(device: string): Luks2 {
  return JSON.parse(cryptsetup(['luksDump', '--dump-json-metadata', device]).stdout) as Luks2;
}

/** LUKS2 On-Disk Format Specification 1.1.1 §2.1: binary header of 4096 bytes, JSON area behind it, twice. */
const BINARY_BYTES = 4096;
const HEADER_BYTES = 16 * 1024;
const CHECKSUM_AT = 448;

/** Writes another JSON into both copies of a header, with the checksum that it needs, as an attacker would. */
export function forge(device: string, change: (json: Luks2) => void): void {
  const json = metadata(device);
  change(json);
  const fd = openSync(device, 'r+');
  for (const at of [0, HEADER_BYTES]) {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(fd, header, 0, HEADER_BYTES, at);
    header.fill(0, BINARY_BYTES);
    header.write(JSON.stringify(json), BINARY_BYTES);
    header.fill(0, CHECKSUM_AT, CHECKSUM_AT + 64);
    createHash('sha256').update(header).digest().copy(header, CHECKSUM_AT);
    writeSync(fd, header, 0, HEADER_BYTES, at);
  }
  closeSync(fd);
}

/** Overwrites bytes of a device. */
export function overwrite(device: string, at: number, bytes: Uint8Array): void {
  const fd = openSync(device, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}
