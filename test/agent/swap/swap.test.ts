import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { runTool } from '../../../agent/disks/tool.ts';
import { inspectSwap } from '../../../agent/swap/device.ts';
import { openAreas, readRecords, type SwapParts } from '../../../agent/swap/encrypt.ts';
import { swapMark } from '../../../lib/domain/swap.ts';
import { temporaryFolder } from '../harness.ts';

const BIN = fileURLToPath(new URL('../../../bin/casemate-agent.js', import.meta.url));
const TOOLS = ['/usr/sbin/mkswap', '/usr/sbin/wipefs', '/usr/sbin/cryptsetup'].filter(
  (path) => !existsSync(path),
);
const suite = TOOLS.length === 0 ? describe : describe.skip;
const UUID = '8c1f5e0b-9a7d-4236-b3f0-6c2e5d914a78';

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

const at = (name: string) => join(folder.path, name);

/** A swap file with pages of a process in it. */
function swapFile(secret: Buffer): string {
  const fd = openSync(at('swapfile'), 'w', 0o600);
  ftruncateSync(fd, 8 * 1024 * 1024);
  writeSync(fd, secret, 0, secret.length, 4 * 1024 * 1024);
  closeSync(fd);
  spawnSync('/usr/sbin/mkswap', [at('swapfile')]);
  return at('swapfile');
}

const swap = (...args: string[]) =>
  spawnSync(process.execPath, ['--no-warnings', BIN, 'swap', ...args, '--state-dir', at('state')], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });

function partsOf(): SwapParts & { readonly lines: string[] } {
  const lines: string[] = [];
  return {
    run: runTool,
    stateDir: at('state'),
    fstab: at('fstab'),
    say: (line) => lines.push(line),
    out: process.stderr,
    lines,
  };
}

const remembered = (marked: boolean) =>
  JSON.stringify({
    schema: 'casemate.swap/1',
    swaps: [{ device: at('swapfile'), uuid: UUID, name: 'casemate-swap9', marked, wiped: false }],
  });

// Device-mapper itself is tried in a virtual machine: test/system.
suite(`swap encrypt, up to device-mapper${TOOLS.length === 0 ? '' : ` (skipped: no ${TOOLS.join(', ')})`}`, () => {
  test('sees what a swap file is', async () => {
    const path = swapFile(randomBytes(16));
    expect(await inspectSwap(runTool, path)).toMatchObject({
      path,
      type: 'file',
      bytes: 8 * 1024 * 1024,
      signatures: ['swap'],
      kind: 'plain',
      active: false,
    });
  });

  test('does nothing without a yes', () => {
    const before = readFileSync(swapFile(randomBytes(16)));
    const { status, stderr } = swap('encrypt', at('swapfile'));
    expect([status, stderr]).toEqual([1, expect.stringContaining('say --yes')]);
    expect(readFileSync(at('swapfile')).equals(before)).toBe(true);
    expect(readRecords(at('state'))).toEqual([]);
  });

  test('does not touch a file that is no swap, and then none of the others', () => {
    swapFile(randomBytes(16));
    writeFileSync(at('data'), randomBytes(4 * 1024 * 1024));
    const before = [readFileSync(at('swapfile')), readFileSync(at('data'))];
    const { status, stderr } = swap('encrypt', at('swapfile'), at('data'), '--yes');
    expect([status, stderr]).toEqual([1, expect.stringContaining('SWAP_NOT_OURS')]);
    expect(readFileSync(at('swapfile')).equals(before[0] as Buffer)).toBe(true);
    expect(readFileSync(at('data')).equals(before[1] as Buffer)).toBe(true);
    expect(readRecords(at('state'))).toEqual([]);
  });

  test('at boot, does not touch what lost its mark, and says so', async () => {
    swapFile(randomBytes(16));
    const before = readFileSync(at('swapfile'));
    const parts = partsOf();
    spawnSync('mkdir', [at('state')]);
    writeFileSync(at('state/swap.json'), remembered(true));
    expect(await openAreas(parts)).toEqual([
      { device: at('swapfile'), mapping: null, reason: 'SWAP_NOT_OURS' },
    ]);
    expect(parts.lines).toEqual([expect.stringContaining('lost the mark')]);
    expect(readFileSync(at('swapfile')).equals(before)).toBe(true);
  });

  test('at boot, does nothing where nothing is remembered', () => {
    expect(swap('open', '--json')).toMatchObject({ status: 0, stdout: '[]\n' });
  });

  test('at boot, says what is not there, and exits 1', () => {
    spawnSync('mkdir', [at('state')]);
    writeFileSync(at('state/swap.json'), remembered(true));
    const { status, stdout } = swap('open', '--json');
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toEqual([{ device: at('swapfile'), mapping: null, reason: 'SWAP_NOT_OURS' }]);
  });

  test('refuses to act on records that it does not understand', () => {
    spawnSync('mkdir', [at('state')]);
    writeFileSync(at('state/swap.json'), remembered(true).replace('casemate-swap9', '../sda'));
    expect(swap('open').status).toBe(1);
  });

  const mapper = spawnSync('dmsetup', ['version']).status === 0;
  const here = mapper ? ' (skipped: device-mapper is here, and would open it)' : '';
  (mapper ? test.skip : test)(
    `remembers, marks and takes out of fstab first, so that a boot goes on${here}`,
    async () => {
      const path = swapFile(randomBytes(16));
      const parts = partsOf();
      spawnSync('mkdir', [at('state')]);
      writeFileSync(at('state/swap.json'), remembered(false));
      writeFileSync(at('fstab'), `${path} none swap sw 0 0\n`);
      // Here there is no device-mapper: as if killed right before the mapping.
      await expect(openAreas(parts)).rejects.toMatchObject({ reason: 'SWAP_FAILED' });
      expect(readFileSync(path).subarray(0, 4096).equals(swapMark(UUID))).toBe(true);
      expect(readRecords(at('state'))).toMatchObject([{ marked: true, wiped: false }]);
      expect(readFileSync(at('fstab'), 'utf8')).toBe(
        `# casemate-swap.service has it: ${path} none swap sw 0 0\n`,
      );
      // The next boot finds the mark and gets as far again.
      await expect(openAreas(parts)).rejects.toMatchObject({ reason: 'SWAP_FAILED' });
    },
  );
});
