import { closeSync, existsSync, openSync, readFileSync, readSync, realpathSync, statSync } from 'node:fs';
import { parseSwaps, resumeNames, type SwapDevice, swapMark } from '../../lib/domain/swap.ts';
import { blockDevice } from '../block-device.ts';
import { signaturesOf } from '../disks/device.ts';
import type { RunTool } from '../disks/tool.ts';
import { readIfThere } from '../state.ts';
import { SwapError } from './error.ts';

/** blkid(8): exit code 2 when it finds nothing. */
const BLKID_NOTHING = 2;
const NAMED = ['UUID', 'LABEL', 'PARTUUID', 'PARTLABEL'];

/** What is known of a swap area by its path. */
export async function inspectSwap(run: RunTool, path: string): Promise<SwapDevice> {
  if (!existsSync(path)) throw new SwapError('SWAP_NOT_OURS', `${path} is not there`);
  const real = realpathSync(path);
  const stat = statSync(real, { bigint: true });
  const active = parseSwaps(readFileSync('/proc/swaps', 'utf8')).some((swap) => swap.path === real);
  const common = {
    path: real,
    signatures: (await signaturesOf(run, real)).map(({ type }) => type),
    head: headOf(real),
    active,
  };
  if (stat.isFile()) {
    return { ...common, type: 'file', bytes: Number(stat.size), names: [real], kind: 'plain' };
  }
  if (!stat.isBlockDevice()) throw new SwapError('SWAP_NOT_OURS', `${path} is no block device and no file`);
  const { name, number, bytes, mapperUuid } = blockDevice(stat.rdev);
  return {
    ...common,
    type: 'partition',
    bytes,
    names: [real, ...(path === real ? [] : [path]), number, ...(await namesOf(run, real))],
    kind: name.startsWith('zram') ? 'zram' : mapperUuid?.startsWith('CRYPT-') ? 'encrypted' : 'plain',
  };
}

function headOf(path: string): Uint8Array {
  const head = Buffer.alloc(swapMark('').length);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, head, 0, head.length, 0);
  } finally {
    closeSync(fd);
  }
  return head;
}

/** `UUID=…`, `PARTUUID=…` and the like, as fstab(5) and the kernel name devices. */
async function namesOf(run: RunTool, path: string): Promise<string[]> {
  const { stdout } = await run('blkid', ['--probe', '--output', 'export', path], {
    answers: [0, BLKID_NOTHING],
  });
  const names: string[] = [];
  for (const line of stdout.split('\n')) {
    const [name = '', value = ''] = line.split(/=(.*)/s);
    if (name === 'PART_ENTRY_UUID') names.push(`PARTUUID=${value}`);
    else if (name === 'PART_ENTRY_NAME') names.push(`PARTLABEL=${value}`);
    else if (NAMED.includes(name)) names.push(`${name}=${value}`);
  }
  return names;
}

/** The name that stays from boot to boot. Paths of disks do not, so a disk without partitions relies on its mark. */
export function lastingName(device: SwapDevice): string {
  return device.names.find((name) => name.startsWith('PARTUUID=')) ?? device.path;
}

/** The path of a device by its lasting name; undefined while it is not there. */
export async function findSwap(run: RunTool, lasting: string): Promise<string | undefined> {
  if (!lasting.startsWith('PARTUUID=')) return existsSync(lasting) ? lasting : undefined;
  const { stdout } = await run(
    'blkid',
    ['--cache-file', '/dev/null', '--match-token', lasting, '--output', 'device'],
    {
      answers: [0, BLKID_NOTHING],
    },
  );
  const paths = stdout.split('\n').filter((line) => line !== '');
  if (paths.length > 1) throw new SwapError('SWAP_NOT_OURS', `${paths.join(' and ')} are both ${lasting}`);
  return paths[0];
}

/** Where this machine would resume from. */
export function whereToResume(): readonly string[] {
  return resumeNames({
    commandLine: readFileSync('/proc/cmdline', 'utf8'),
    sysPowerResume: readIfThere('/sys/power/resume'),
    initramfs: readIfThere('/etc/initramfs-tools/conf.d/resume'),
  });
}
