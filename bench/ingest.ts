/**
 * Copying a disk image: `casemate-agent disk ingest` beside `dd bs=4M oflag=direct` and `qemu-img convert` of the same
 * image onto the same file, dense and sparse. Copying alone is held against them, for they do not read back; the whole
 * with reading back is told too.
 *
 *   node bench/ingest.ts [MiB]
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { IngestResult } from '../agent/ingest/ingest.ts';
import { PROJECT } from './deployed.ts';
import { type Item, item, median, type PartResult, print, say } from './measuring.ts';

const MIB = 2 ** 20;
const SIZE_MIB = Number(process.argv[2] ?? 1024);
/** Each is measured this often, in turn, so that a busy moment meets all of them. */
const ROUNDS = 3;
const BAR = { of: 'ratio', max: 1 } as const;

const run = promisify(execFile);
// Not /tmp: a tmpfs takes no direct I/O.
const folder = mkdtempSync('/var/tmp/casemate-bench-');
const target = join(folder, 'target');

async function filled(name: string, dataMib: number): Promise<string> {
  const path = join(folder, name);
  const file: FileHandle = await open(path, 'w');
  await file.truncate(SIZE_MIB * MIB);
  // Spread over the image, 4 MiB at a time.
  const pieces = dataMib / 4;
  for (let i = 0; i < pieces; i++) {
    await file.write(randomBytes(4 * MIB), 0, 4 * MIB, Math.floor((i * SIZE_MIB) / pieces / 4) * 4 * MIB);
  }
  await file.sync();
  await file.close();
  return path;
}

async function secondsOf(command: string, args: readonly string[]): Promise<number> {
  const began = performance.now();
  await run(command, args);
  return (performance.now() - began) / 1000;
}

const dd = (image: string) =>
  secondsOf('dd', [
    `if=${image}`,
    `of=${target}`,
    'bs=4M',
    'oflag=direct',
    'conv=notrunc,fdatasync',
    'status=none',
  ]);
const convert = (image: string) =>
  secondsOf('qemu-img', ['convert', '-n', '-t', 'none', '-f', 'raw', '-O', 'raw', image, target]);

async function ingest(image: string): Promise<IngestResult> {
  const agent = [join(PROJECT, 'bin/casemate-agent.js'), 'disk', 'ingest', image, '--to', target];
  const how = ['--unencrypted', '--yes', '--json', '--state-dir', join(folder, 'state')];
  const { stdout } = await run(process.execPath, ['--no-warnings', ...agent, ...how]);
  return JSON.parse(stdout) as IngestResult;
}

async function measure(): Promise<PartResult> {
  try {
    await run('qemu-img', ['--version']);
  } catch {
    return { skipped: 'qemu-img is not on this machine' };
  }
  const items: Item[] = [];
  for (const [kind, dataMib] of [
    ['dense', SIZE_MIB],
    ['sparse', SIZE_MIB / 16],
  ] as const) {
    const image = await filled(`${kind}.raw`, dataMib);
    await secondsOf('dd', [
      'if=/dev/zero',
      `of=${target}`,
      'bs=4M',
      `count=${SIZE_MIB / 4}`,
      'conv=fdatasync',
      'status=none',
    ]);
    const seconds = {
      ours: [] as number[],
      whole: [] as number[],
      dd: [] as number[],
      convert: [] as number[],
    };
    for (let round = 1; round <= ROUNDS; round++) {
      seconds.dd.push(await dd(image));
      const result = await ingest(image);
      seconds.ours.push(result.copySeconds);
      seconds.whole.push(result.copySeconds + result.verifySeconds);
      seconds.convert.push(await convert(image));
      say(`${kind}, round ${round} of ${ROUNDS}`);
    }
    const ours = median(seconds.ours);
    items.push(
      item(`ingest.${kind}`, ours, `s for ${SIZE_MIB} MiB`, {
        other: { name: 'dd bs=4M oflag=direct conv=fdatasync', value: median(seconds.dd) },
        bar: BAR,
      }),
      item(`ingest.${kind}.over-qemu-img`, ours, `s for ${SIZE_MIB} MiB`, {
        other: { name: 'qemu-img convert -n -t none', value: median(seconds.convert) },
      }),
      item(`ingest.${kind}.and-read-back`, median(seconds.whole), `s for ${SIZE_MIB} MiB`),
    );
    rmSync(image);
  }
  return { items, rounds: ROUNDS };
}

let result: PartResult;
try {
  result = await measure();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
print(result);
