import { describe, expect, test } from '@jest/globals';
import {
  fstabWithout,
  parseSwaps,
  planSwap,
  resumeNames,
  type SwapDevice,
  type SwapRecord,
  swapMark,
} from '../../lib/domain/swap.ts';

const UUID = '8c1f5e0b-9a7d-4236-b3f0-6c2e5d914a78';
const device: SwapDevice = {
  path: '/dev/nvme0n1p3',
  type: 'partition',
  bytes: 2 ** 30,
  head: new Uint8Array(4096),
  signatures: ['swap'],
  names: ['/dev/nvme0n1p3', '259:3', 'UUID=1', 'PARTUUID=2', 'LABEL=swap'],
  kind: 'plain',
  active: true,
};
const record: SwapRecord = {
  device: 'PARTUUID=2',
  uuid: UUID,
  name: 'casemate-swap0',
  marked: true,
  wiped: true,
};
const marked = { ...device, head: swapMark(UUID), signatures: [] };

describe('a swap area', () => {
  test('with a swap signature and nothing else is encrypted', () => {
    expect(planSwap(device, undefined, [])).toEqual({ kind: 'encrypt' });
  });

  test('with our mark is encrypted at every boot, whatever noise follows it', () => {
    expect(planSwap(marked, record, [])).toEqual({ kind: 'encrypt' });
    expect(planSwap({ ...marked, signatures: ['swap', 'dos'] }, record, [])).toEqual({ kind: 'encrypt' });
  });

  test('is gone on with after a kill before its mark was written, and after one before that was remembered', () => {
    const begun = { ...record, marked: false, wiped: false };
    expect(planSwap(device, begun, [])).toEqual({ kind: 'encrypt' });
    expect(planSwap(marked, begun, [])).toEqual({ kind: 'encrypt' });
  });

  test.each([
    ['zram', 'ZRAM'],
    ['encrypted', 'ENCRYPTED'],
  ] as const)('of kind %s is left alone', (kind, reason) => {
    expect(planSwap({ ...device, kind }, undefined, [])).toEqual({ kind: 'leave', reason });
  });

  test.each<[string, Partial<SwapDevice>, SwapRecord | undefined]>([
    ['carries a file system', { signatures: ['ext4'] }, undefined],
    ['carries a file system beside the swap signature', { signatures: ['swap', 'ext4'] }, undefined],
    ['carries nothing', { signatures: [] }, undefined],
    [
      'carries the mark of a machine that it was cloned from',
      { head: swapMark(UUID), signatures: [] },
      undefined,
    ],
    ['lost its mark', { signatures: [] }, record],
    ['lost its mark and is somebody’s swap now', {}, record],
    ['carries another area’s mark', { head: swapMark(crypto.randomUUID()), signatures: [] }, record],
    ['is too small', { bytes: 2 * 1024 * 1024 }, undefined],
  ])('is not touched when it %s', (_, changes, known) => {
    expect(planSwap({ ...device, ...changes }, known, [])).toMatchObject({
      kind: 'refuse',
      reason: 'SWAP_NOT_OURS',
    });
  });

  test.each(['UUID=1', 'PARTUUID=2', 'LABEL=swap', '/dev/nvme0n1p3', '259:3'])(
    'is refused when the machine resumes from %s',
    (name) => {
      expect(planSwap(device, undefined, ['/dev/other', name])).toMatchObject({
        kind: 'refuse',
        reason: 'SWAP_HIBERNATION',
      });
      expect(planSwap(marked, record, [name])).toMatchObject({ kind: 'refuse', reason: 'SWAP_HIBERNATION' });
    },
  );

  test('in a file is refused when the machine resumes from a file, and only then', () => {
    const file: SwapDevice = { ...device, type: 'file', path: '/swapfile', names: ['/swapfile'] };
    expect(planSwap(file, undefined, ['UUID=9'])).toEqual({ kind: 'encrypt' });
    expect(planSwap(file, undefined, ['UUID=9', 'offset:34816'])).toMatchObject({
      reason: 'SWAP_HIBERNATION',
    });
  });
});

test('the mark is no swap signature, and names the area', () => {
  const mark = swapMark(UUID);
  expect(mark.length).toBe(4096);
  expect(mark.toString('latin1')).toContain(UUID);
  // mkswap(8): SWAPSPACE2 at the end of the first page.
  expect(mark.subarray(4086).equals(Buffer.alloc(10))).toBe(true);
});

test('names of swap areas are read as the kernel escapes them', () => {
  const text = `Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/dm-0                               partition\t1048572\t\t0\t\t-2
/srv/swap\\040file\\134                   file\t\t1048572\t\t0\t\t-3
`;
  expect(parseSwaps(text)).toEqual([
    { path: '/dev/dm-0', type: 'partition' },
    { path: '/srv/swap file\\', type: 'file' },
  ]);
  expect(parseSwaps('')).toEqual([]);
});

test('every place that names a hibernation image is heard', () => {
  const none = { commandLine: '', sysPowerResume: undefined, initramfs: undefined };
  expect(resumeNames(none)).toEqual([]);
  expect(resumeNames({ ...none, sysPowerResume: '0:0\n', initramfs: 'RESUME=none\n' })).toEqual([]);
  const everywhere = {
    commandLine: 'root=/dev/vda1 resume=UUID=1 noresume resume_offset=34816\n',
    sysPowerResume: '259:3\n',
    initramfs: '# RESUME=UUID=0\nRESUME="PARTUUID=2"\n',
  };
  expect(resumeNames(everywhere)).toEqual(['UUID=1', 'offset:34816', '259:3', 'PARTUUID=2']);
});

test('fstab loses the lines of the area, as comments, and nothing else', () => {
  const fstab = `# <file system> <mount point> <type>
UUID=0 / ext4 errors=remount-ro 0 1
UUID="1" none swap sw 0 0
  /dev/nvme0n1p3\tswap\tswap\tdefaults 0 0
UUID=1 /odd ext4 defaults 0 0
UUID=3 none swap sw 0 0
`;
  const after = fstabWithout(fstab, device.names);
  const lines = fstab.split('\n');
  expect(after.split('\n')).toEqual([
    lines[0],
    lines[1],
    `# casemate-swap.service has it: ${lines[2]}`,
    `# casemate-swap.service has it: ${lines[3]}`,
    ...lines.slice(4),
  ]);
  expect(fstabWithout(after, device.names)).toBe(after);
});
