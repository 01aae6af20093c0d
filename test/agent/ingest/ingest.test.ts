import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { runTool } from '../../../agent/disks/tool.ts';
import { ingest as ingestHere } from '../../../agent/ingest/ingest.ts';
import { journalFile, openJournal } from '../../../agent/ingest/journal.ts';
import { inspectImage } from '../../../agent/ingest/source.ts';
import { inspectTarget } from '../../../agent/ingest/target.ts';
import { CHUNK_BYTES } from '../../../lib/domain/ingest.ts';
import { temporaryFolder } from '../harness.ts';
import { describeWithMounts, mountImage, unmount } from '../mounts.ts';

const BIN = fileURLToPath(new URL('../../../bin/casemate-agent.js', import.meta.url));
const MIB = 1024 * 1024;
const has = (tool: string) => spawnSync(tool, ['--version']).error === undefined;
const qcow2 = has('qemu-img') ? test : test.skip;
const qcow2Why = has('qemu-img') ? '' : ' (skipped: qemu-img is not on this machine)';
const suite = has('wipefs') ? describe : describe.skip;

let folder: ReturnType<typeof temporaryFolder>;
const running = new Set<ChildProcess>();
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
  folder.remove();
});

const at = (name: string) => join(folder.path, name);

/** A sparse file with random bytes at the given places. */
function sparse(
  name: string,
  bytes: number,
  data: readonly (readonly [offset: number, bytes: number])[],
): string {
  const fd = openSync(at(name), 'w');
  ftruncateSync(fd, bytes);
  for (const [offset, length] of data) writeSync(fd, randomBytes(length), 0, length, offset);
  closeSync(fd);
  return at(name);
}

/** A target full of noise: what is not written stays visible. */
function noisy(bytes: number): string {
  writeFileSync(at('target'), randomBytes(bytes));
  return at('target');
}

const argumentsOf = (image: string, target: string, more: readonly string[]) => [
  ...['--no-warnings', BIN, 'disk', 'ingest', image, '--to', target],
  ...['--unencrypted', '--yes', '--json', '--state-dir', at('state'), ...more],
];

function ingest(image: string, target: string, ...more: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, argumentsOf(image, target, more), {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'] },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  return {
    status,
    stderr,
    result: status === 0 ? (JSON.parse(stdout) as Record<string, unknown>) : undefined,
  };
}

const start = (target: string, image: string) => readFileSync(target).subarray(0, statSync(image).size);

suite(`disk ingest${has('wipefs') ? '' : ' (skipped: wipefs is not on this machine)'}`, () => {
  test('writes the image, its holes as zeros, and nothing behind it', () => {
    const image = sparse('image', 21 * MIB + 1536, [
      [1000, 5000],
      [9 * MIB, MIB],
      [21 * MIB + 1500, 36],
    ]);
    const target = noisy(24 * MIB);
    const behind = readFileSync(target).subarray(22 * MIB);
    const { result } = ingest(image, target);
    expect(start(target, image).equals(readFileSync(image))).toBe(true);
    expect(
      readFileSync(target)
        .subarray(22 * MIB)
        .equals(behind),
    ).toBe(true);
    // Chunks of 4 MiB: 0, 2 and the last have data.
    expect(result).toMatchObject({ format: 'raw', bytes: 21 * MIB + 1536, holeBytes: 12 * MIB });
    expect(readdirSync(at('state/ingest')).filter((name) => name.endsWith('.journal'))).toEqual([]);
  });

  qcow2(`unpacks qcow2, also compressed, and gives the digest of the raw image${qcow2Why}`, () => {
    const image = sparse('image', 150 * MIB + 512, [
      [3 * MIB, 2 * MIB],
      [66 * MIB, 100],
      [150 * MIB, 512],
    ]);
    const packed = at('image, with "a name".qcow2');
    expect(spawnSync('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', image, packed]).status).toBe(
      0,
    );
    const target = noisy(160 * MIB);
    const { result } = ingest(packed, target);
    expect(start(target, image).equals(readFileSync(image))).toBe(true);
    expect(result).toMatchObject({ format: 'qcow2', bytes: 150 * MIB + 512 });
    const again = ingest(image, target);
    expect(again.result?.['digest']).toBe(result?.['digest']);
  });

  qcow2(`refuses qcow2 that leans on another file, whatever it is${qcow2Why}`, () => {
    writeFileSync(at('secret'), randomBytes(MIB));
    const create = ['create', '-q', '-f', 'qcow2', '-b', at('secret'), '-F', 'raw', at('leaning.qcow2')];
    expect(spawnSync('qemu-img', create).status).toBe(0);
    const target = noisy(4 * MIB);
    const before = readFileSync(target);
    const { status, stderr } = ingest(at('leaning.qcow2'), target);
    expect([status, stderr]).toEqual([1, expect.stringContaining('has a backing file')]);
    expect(readFileSync(target).equals(before)).toBe(true);
  });

  test('killed in the middle, goes on where it was and ends with the same bytes', async () => {
    const image = sparse('image', 700 * MIB, [
      [0, MIB],
      [650 * MIB, MIB],
    ]);
    const target = sparse('target', 700 * MIB, [[600 * MIB, 4096]]);
    const child = spawn(process.execPath, argumentsOf(image, target, []), {
      env: { PATH: process.env['PATH'] },
      stdio: 'ignore',
    });
    running.add(child);
    const ended = once(child, 'exit');
    const journal = () =>
      existsSync(at('state/ingest'))
        ? readdirSync(at('state/ingest')).find((name) => name.endsWith('.journal'))
        : undefined;
    const flushed = () => {
      const name = journal();
      if (name === undefined) return 0;
      const [, ...lines] = readFileSync(join(at('state/ingest'), name), 'utf8')
        .trimEnd()
        .split('\n');
      return Number(lines.at(-1) ?? 0);
    };
    while (flushed() < 64 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill('SIGKILL');
    await ended;
    const done = flushed();
    expect(done).toBeGreaterThanOrEqual(64);

    // What a crash may leave at its end does not count.
    const name = journal();
    expect(name).toBeDefined();
    writeFileSync(join(at('state/ingest'), name as string), '17', { flag: 'a' });
    const { result, stderr } = ingest(image, target);
    expect(stderr).not.toContain('INGEST_');
    expect(result).toMatchObject({ copiedBytes: 700 * MIB - done * 4 * MIB });
    expect(spawnSync('cmp', [image, target]).status).toBe(0);
    expect(journal()).toBeUndefined();
  }, 60_000);

  test('interrupted by Ctrl-C, says so, keeps what it has and does not take another image for it', async () => {
    const image = sparse('image', 4000 * MIB, [[0, MIB]]);
    const target = sparse('target', 4000 * MIB, []);
    const child = spawn(process.execPath, argumentsOf(image, target, []), {
      env: { PATH: process.env['PATH'] },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    running.add(child);
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const ended = once(child, 'close');
    while (
      !existsSync(at('state/ingest')) ||
      !readdirSync(at('state/ingest')).some((n) => n.endsWith('.journal'))
    ) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    child.kill('SIGINT');
    expect(await ended).toEqual([1, null]);
    expect(said).toContain('the same command goes on from here');
    utimesSync(image, 1, 1);
    const other = ingest(image, target);
    expect([other.status, other.stderr]).toEqual([1, expect.stringContaining('INGEST_OTHER_IMAGE')]);
  }, 60_000);

  test.each<[string, (target: string) => string, string]>([
    ['an image that is too large', () => sparse('image', 9 * MIB, []), 'INGEST_DOES_NOT_FIT'],
    ['an image that is not there', () => at('nowhere'), 'INGEST_IMAGE_REFUSED'],
    ['an empty image', () => sparse('image', 0, []), 'INGEST_IMAGE_REFUSED'],
    [
      'an image of another kind',
      () => {
        writeFileSync(at('image'), `KDMV${'\0'.repeat(512)}`);
        return at('image');
      },
      'looks like vmdk',
    ],
    [
      'a target with a signature',
      (target) => {
        spawnSync('mkswap', [target]);
        return sparse('image', MIB, []);
      },
      'INGEST_TARGET_NOT_EMPTY: it carries swap',
    ],
  ])('refuses %s and writes nothing', (_, prepare, says) => {
    const target = noisy(8 * MIB);
    const image = prepare(target);
    const before = readFileSync(target);
    const { status, stderr } = ingest(image, target);
    expect([status, stderr]).toEqual([1, expect.stringContaining(says)]);
    expect(readFileSync(target).equals(before)).toBe(true);
  });

  test('refuses a target that is not there, one that does not encrypt, and to guess a yes', () => {
    const image = sparse('image', MIB, []);
    const agent = (...args: string[]) =>
      spawnSync(
        process.execPath,
        ['--no-warnings', BIN, 'disk', 'ingest', image, '--state-dir', at('state'), ...args],
        {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'pipe'],
        },
      );
    expect(agent('--to', at('nowhere'), '--yes').stderr).toContain('INGEST_TARGET_MISSING');
    const target = noisy(2 * MIB);
    expect(agent('--to', target, '--yes').stderr).toContain('INGEST_UNENCRYPTED');
    expect(agent('--to', target, '--unencrypted').stderr).toContain('say --yes');
    expect(agent('--yes')).toMatchObject({ status: 2 });
  });

  describe('reading back', () => {
    /** An image, and a target that lost its first chunk although the journal has it. */
    const lossy = async () => {
      const image = sparse('image', 8 * MIB, [[0, 8 * MIB]]);
      const target = noisy(8 * MIB);
      const to = await inspectTarget(runTool, target);
      const header = {
        schema: 'casemate.ingest/2',
        image: await inspectImage(runTool, image, undefined),
        target: to.id,
        chunkBytes: CHUNK_BYTES,
      } as const;
      const journal = openJournal(journalFile(at('state'), to.id), header, undefined);
      journal.reached(1);
      journal.close();
      return { image, target };
    };

    test('tells where the device does not give back what was written to it', async () => {
      const { image, target } = await lossy();
      const { status, stderr } = ingest(image, target);
      expect([status, stderr]).toEqual([
        1,
        expect.stringMatching(/INGEST_MISMATCH: 4194304 bytes at 0 differ/),
      ]);
    });

    test('tells an image that was written to meanwhile from a device that fails', async () => {
      const { image, target } = await lossy();
      const ingested = ingestHere(runTool, {
        image,
        format: undefined,
        device: target,
        stateDir: at('state'),
        order: { replace: [], unencrypted: true, restart: false },
        stop: new AbortController().signal,
        out: process.stderr,
        confirm: async () => utimesSync(image, 1, 1),
      });
      await expect(ingested).rejects.toMatchObject({ reason: 'INGEST_IMAGE_CHANGED' });
    });

    test('gives the SHA-256 over the SHA-256 of each 4 MiB, holes among them', () => {
      const image = sparse('image', 13 * MIB + 100, [[5 * MIB, MIB]]);
      const bytes = readFileSync(image);
      const whole = createHash('sha256');
      for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
        whole.update(
          createHash('sha256')
            .update(bytes.subarray(at, at + CHUNK_BYTES))
            .digest(),
        );
      }
      expect(ingest(image, noisy(16 * MIB)).result).toMatchObject({ digest: whole.digest('hex') });
    });
  });
});

describeWithMounts('disk ingest, when the device takes no more', () => {
  test('says so, keeps what it has, and goes on once it does', () => {
    const image = sparse('image', 40 * MIB, [[0, 40 * MIB]]);
    const before = readFileSync(image);
    const small = sparse('small', 64 * MIB, []);
    expect(spawnSync('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', small]).status).toBe(0);
    mkdirSync(at('mounted'));
    expect(mountImage(small, at('mounted'))).toBe(true);
    try {
      // What stands for the device has no blocks yet, and the file system not enough of them.
      const target = sparse('mounted/target', 40 * MIB, []);
      writeFileSync(at('mounted/filler'), Buffer.alloc(36 * MIB));
      const { status, stderr } = ingest(image, target);
      expect([status, stderr]).toEqual([1, expect.stringMatching(/INGEST_TARGET_FAILED.*ENOSPC/s)]);
      expect(readFileSync(image).equals(before)).toBe(true);
      rmSync(at('mounted/filler'));
      const { result } = ingest(image, target);
      expect(result?.['bytes']).toBe(40 * MIB);
      expect(readFileSync(target).equals(before)).toBe(true);
    } finally {
      unmount(at('mounted'));
    }
  }, 60_000);

  test('is refused a device that is mounted, which stays as it is', () => {
    const device = sparse('device', 16 * MIB, []);
    expect(spawnSync('mkfs.ext4', ['-q', '-F', device]).status).toBe(0);
    mkdirSync(at('mounted'));
    expect(mountImage(device, at('mounted'))).toBe(true);
    try {
      writeFileSync(at('mounted/file'), 'theirs');
      const [, loop = ''] =
        spawnSync('findmnt', ['-no', 'SOURCE', at('mounted')], { encoding: 'utf8' }).stdout.match(/^(\S+)/) ??
        [];
      const { status, stderr } = ingest(sparse('image', MIB, [[0, MIB]]), loop, '--replace', 'ext4');
      expect([status, stderr]).toEqual([1, expect.stringContaining('INGEST_TARGET_BUSY')]);
      expect(readFileSync(at('mounted/file'), 'utf8')).toBe('theirs');
    } finally {
      unmount(at('mounted'));
    }
  }, 60_000);
});
