import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { ListedVolume } from '../../lib/domain/disk-api.ts';
import {
  type DeviceContent,
  type DiskDevice,
  planFilesystem,
  planMount,
  planVolume,
} from '../../lib/domain/disk-plan.ts';

const DISK = '11111111-2222-4333-8444-555555555555';
const OTHER = '99999999-2222-4333-8444-555555555555';
const volume = (overrides: Partial<ListedVolume> = {}): ListedVolume => ({
  volumeId: 'vol-0123456789abcdef0',
  sizeGiB: 1,
  notCovered: null,
  disk: DISK,
  kind: 'luks2',
  fromSnapshot: false,
  confirmed: false,
  generations: [{ generation: 1, state: 'issued' }],
  rotate: null,
  mountPoint: null,
  filesystem: null,
  ...overrides,
});
const device = (mappedBy: DiskDevice['mappedBy'] = 'serial'): DiskDevice => ({
  path: '/dev/nvme1n1',
  bytes: 1 << 30,
  mappedBy,
});
const plan = (overrides: Partial<Parameters<typeof planVolume>[0]> = {}) =>
  planVolume({
    volume: volume(),
    device: device(),
    content: { kind: 'blank' },
    formatting: false,
    order: {},
    ...overrides,
  });

/** Bytes that are no LUKS header; some of them where one would be, unless said. */
const other = (signature: string, headerIsZero = false) =>
  ({ kind: 'other', signature, headerIsZero }) as const;

describe('a volume', () => {
  test('that is fresh, blank and mapped by its serial is formatted', () => {
    expect(plan()).toEqual({ kind: 'format', disk: DISK, generation: 1 });
    expect(plan({ device: device('file') })).toMatchObject({ kind: 'format' });
  });

  const human = { format: true };
  test.each<[string, Parameters<typeof plan>[0], string]>([
    ['known by a path alone', { device: device('named') }, 'DEVICE_NOT_BY_SERIAL'],
    ['made from a snapshot', { volume: volume({ fromSnapshot: true }) }, 'VOLUME_FROM_SNAPSHOT'],
    ['with a file system', { content: other('ext4') }, 'DEVICE_NOT_BLANK'],
    ['with bytes and no signature', { content: other('data') }, 'DEVICE_NOT_BLANK'],
    ['with BitLocker', { content: { kind: 'bitlk' } }, 'DEVICE_NOT_BLANK'],
    ['that is too small', { device: { ...device(), bytes: 1 << 20 } }, 'DEVICE_TOO_SMALL'],
    ['confirmed once and blank now', { volume: volume({ confirmed: true }) }, 'DISK_BLANK_CONFIRMED'],
    [
      'confirmed once and blank, even for a human who says yes',
      { volume: volume({ confirmed: true }), order: human },
      'DISK_BLANK_CONFIRMED',
    ],
    [
      'confirmed once whose header is something else',
      { volume: volume({ confirmed: true }), content: other('data') },
      'HEADER_UNREADABLE',
    ],
    [
      'confirmed once whose header alone was wiped',
      { volume: volume({ confirmed: true }), content: other('data', true) },
      'DISK_BLANK_CONFIRMED',
    ],
    [
      'confirmed once whose header alone was wiped, even for a human who says what to overwrite',
      {
        volume: volume({ confirmed: true }),
        content: other('data', true),
        order: { format: true, replace: 'data' },
      },
      'DISK_BLANK_CONFIRMED',
    ],
    [
      'never confirmed, with zeros in front of its data',
      { content: other('data', true) },
      'DEVICE_NOT_BLANK',
    ],
    ['of another disk', { content: { kind: 'luks', uuid: OTHER } }, 'HEADER_OTHER_DISK'],
    ['whose header has no UUID', { content: { kind: 'luks', uuid: undefined } }, 'HEADER_UNREADABLE'],
    ['without a device', { device: undefined, content: undefined }, 'DEVICE_MISSING'],
    ['tagged bitlk and blank', { volume: volume({ kind: 'bitlk' }) }, 'DEVICE_NOT_BITLOCKER'],
    [
      'with ext4 that a human orders to replace xfs on',
      { content: other('ext4'), order: { format: true, replace: 'xfs' } },
      'DEVICE_NOT_BLANK',
    ],
    [
      'with ext4 that a human orders to format without naming it',
      { content: other('ext4'), order: human },
      'DEVICE_NOT_BLANK',
    ],
  ])('%s is refused', (_, overrides, reason) => {
    expect(plan(overrides)).toMatchObject({ kind: 'refuse', reason });
  });

  test('is formatted by a human who names the device, and the signature where it has one', () => {
    expect(plan({ device: device('named'), order: human })).toMatchObject({ kind: 'format' });
    expect(plan({ volume: volume({ fromSnapshot: true }), order: human })).toMatchObject({ kind: 'format' });
    expect(
      plan({ content: { kind: 'luks', uuid: OTHER }, order: { format: true, replace: 'crypto_LUKS' } }),
    ).toMatchObject({ kind: 'format' });
    expect(plan({ content: other('ext4'), order: { format: true, replace: 'ext4' } })).toMatchObject({
      kind: 'format',
    });
  });

  test('that this agent began to format is formatted over what a kill left', () => {
    expect(plan({ content: other('data'), formatting: true })).toMatchObject({
      kind: 'format',
    });
    expect(plan({ content: { kind: 'luks', uuid: undefined }, formatting: true })).toMatchObject({
      kind: 'format',
    });
    for (const content of [{ kind: 'luks', uuid: OTHER }, { kind: 'bitlk' }, other('ext4')] as const) {
      expect(plan({ content, formatting: true })).toMatchObject({ kind: 'refuse' });
    }
    const confirmed = volume({ confirmed: true });
    expect(plan({ volume: confirmed, content: other('data'), formatting: true })).toMatchObject({
      kind: 'refuse',
    });
  });

  test('with its disk on it is opened, with the active key before an issued one', () => {
    const rotating = volume({
      confirmed: true,
      generations: [
        { generation: 1, state: 'retired' },
        { generation: 2, state: 'active' },
        { generation: 3, state: 'issued' },
      ],
    });
    expect(plan({ volume: rotating, content: { kind: 'luks', uuid: DISK } })).toEqual({
      kind: 'open',
      disk: DISK,
      generations: [2, 3],
      unfinished: false,
    });
    expect(plan({ content: { kind: 'luks', uuid: DISK } })).toMatchObject({ unfinished: true });
  });

  test('of a disk that waits to be adopted tells its UUID; without one it waits', () => {
    for (const notCovered of ['AWAITING_ADOPTION', 'DISK_MOVED']) {
      const waiting = volume({ notCovered, disk: null });
      expect(plan({ volume: waiting, content: { kind: 'luks', uuid: OTHER } })).toEqual({
        kind: 'adopt',
        disk: OTHER,
      });
      expect(plan({ volume: waiting })).toEqual({ kind: 'leave', reason: notCovered });
    }
  });

  test('that is not covered, or has no key yet, is left alone', () => {
    expect(plan({ volume: volume({ notCovered: 'ROOT_VOLUME' }) })).toMatchObject({ kind: 'leave' });
    expect(plan({ volume: volume({ generations: [] }) })).toEqual({
      kind: 'leave',
      reason: 'KEY_NOT_ISSUED_YET',
    });
  });

  test('is never formatted once it was confirmed, whatever else is true', () => {
    const content: fc.Arbitrary<DeviceContent | undefined> = fc.constantFrom<DeviceContent | undefined>(
      undefined,
      { kind: 'blank' },
      { kind: 'bitlk' },
      { kind: 'luks', uuid: DISK },
      { kind: 'luks', uuid: OTHER },
      other('data'),
    );
    fc.assert(
      fc.property(
        content,
        fc.boolean(),
        fc.boolean(),
        fc.constantFrom<DiskDevice['mappedBy']>('serial', 'file', 'named'),
        fc.record({ format: fc.boolean(), replace: fc.constantFrom(undefined, 'data', 'BitLocker') }),
        (onIt, formatting, fromSnapshot, mappedBy, order) => {
          const { kind } = planVolume({
            volume: volume({ confirmed: true, fromSnapshot }),
            device: device(mappedBy),
            content: onIt,
            formatting,
            order,
          });
          expect(kind).not.toBe('format');
        },
      ),
    );
  });
});

describe('a mount point', () => {
  const prefixes = ['/mnt', '/var/lib'];
  test.each(['/mnt/data', '/var/lib/postgresql/16', '/mnt'])('%s is taken', (at) => {
    expect(planMount(at, prefixes)).toEqual({ kind: 'mount', at });
  });
  test.each([
    '/etc',
    '/mnt/../etc',
    '/mnt/./a',
    '/mnt//a',
    'mnt/a',
    '/mnta',
    '/mnt/a b',
    '/mnt/',
    '/mnt/.ssh',
    '/',
    '',
  ])('%j is refused', (at) => {
    expect(planMount(at, prefixes)).toMatchObject({ kind: 'refuse', reason: 'MOUNT_POINT_REFUSED' });
  });
  test('need not be there', () => expect(planMount(null, prefixes)).toEqual({ kind: 'none' }));
});

test('a file system is made where something asks for one', () => {
  expect(planFilesystem({ filesystem: null, mountPoint: null })).toBeUndefined();
  expect(planFilesystem({ filesystem: null, mountPoint: '/mnt/a' })).toBe('ext4');
  expect(planFilesystem({ filesystem: 'xfs', mountPoint: null })).toBe('xfs');
  expect(planFilesystem({ filesystem: 'ntfs', mountPoint: null })).toEqual({ refused: 'ntfs' });
});
