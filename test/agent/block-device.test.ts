import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { blockDevice } from '../../agent/block-device.ts';

/** A block device of this machine with a node below /dev. */
const name = existsSync('/sys/class/block')
  ? readdirSync('/sys/class/block').find((each) => existsSync(join('/dev', each)))
  : undefined;

(name === undefined ? test.skip : test)(
  `${name === undefined ? 'skipped: this machine shows no block device: ' : ''}a block device is known by its number`,
  () => {
    const device = blockDevice(statSync(join('/dev', name ?? ''), { bigint: true }).rdev);
    const number = readFileSync(join('/sys/class/block', name ?? '', 'dev'), 'utf8').trim();
    expect(device).toMatchObject({ name, number });
    expect(device.bytes % 512).toBe(0);
  },
);

test('numbers are unpacked as glibc packs them', () => {
  // makedev(0xabcde, 0x12345678): https://sourceware.org/git/glibc.git, bits/sysmacros.h
  const packed =
    ((0xabcden & 0xfffff000n) << 32n) |
    ((0xabcden & 0xfffn) << 8n) |
    ((0x12345678n & 0xffffff00n) << 12n) |
    0x78n;
  expect(() => blockDevice(packed)).toThrow(`/sys/dev/block/${0xabcde}:${0x12345678}`);
});
