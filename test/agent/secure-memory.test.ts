import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';
import { SecureMemory, SecureMemoryError } from '../../agent/secure-memory.ts';
import { has, make, native } from '../native/native.ts';

const directory = mkdtempSync(join(tmpdir(), 'casemate-secure-'));
make(
  'addon',
  'build/secure-test',
  'build/secure-test-no-secret',
  'build/no-secret/casemate.node',
  'build/exit-scan.so',
);
afterAll(() => rmSync(directory, { recursive: true }));

const child = fileURLToPath(new URL('./secure-memory-child.mjs', import.meta.url));
const built = `${native}/build/casemate.node`;
const fallback = `${native}/build/no-secret/casemate.node`;
let count = 0;

function runChild(ending: string, { addon = built, preload = '' } = {}) {
  const addressFile = join(directory, `address-${count++}`);
  const { stdout, status, signal } = spawnSync(process.execPath, [child, addon, ending, addressFile], {
    cwd: directory,
    env: { PATH: process.env['PATH'], LD_PRELOAD: preload, CASEMATE_SCAN_ADDRESS_FILE: addressFile },
  });
  return { key: stdout, status, signal, seen: readFileSync(addressFile, 'utf8').split(' ')[2] };
}

/** VmFlags of the mapping that holds an address. */
function flags(address: string): string[] {
  let inside = false;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    const at = BigInt(`0x${address}`);
    if (range !== null) inside = BigInt(`0x${range[1]}`) <= at && at < BigInt(`0x${range[2]}`);
    if (inside && line.startsWith('VmFlags:')) return line.slice(8).trim().split(' ');
  }
  return [];
}

describe.each([
  ['as the kernel gives it', 'build/secure-test'],
  ['without memfd_secret', 'build/secure-test-no-secret'],
])('key memory %s, seen from C:', (_name, program) => {
  const { stdout, status } = spawnSync(`${native}/${program}`, { encoding: 'utf8' });
  const lines = stdout.trim().split('\n').slice(1);
  test.each(lines.map((line) => line.replace(/^(not )?ok /, '')))('%s', (name) =>
    expect(lines).toContain(`ok ${name}`),
  );
  test('every look was taken', () =>
    expect({ status, lines: lines.length }).toEqual({ status: 0, lines: 12 }));
});

test('its pages are locked, in no dump and in no child, by /proc/self/smaps', () => {
  const memory = new SecureMemory(32);
  const seen = flags(memory.address);
  expect(seen).toEqual(expect.arrayContaining(['rd', 'wr', 'lo', 'dd']));
  expect(seen.includes('dc') || seen.includes('wf')).toBe(true);
  expect(seen).toEqual(expect.arrayContaining(memory.backing === 'memfd_secret' ? ['sh', 'dc'] : ['wf']));
  memory.release();
});

test('on this kernel memfd_secret is used when it is there', () => {
  const memory = new SecureMemory(1);
  const line = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .some((each) => each.includes('/secretmem'));
  expect(memory.backing).toBe(line ? 'memfd_secret' : 'locked');
  memory.release();
});

describe('at the end of the process the key is wiped', () => {
  const preload = `${native}/build/exit-scan.so`;
  for (const [name, addon] of [
    ['', built],
    [', without memfd_secret', fallback],
  ] as const) {
    test.each([
      ['when the program ends', 'return', 0],
      ['at process.exit', 'exit', 3],
      ['after an uncaught error', 'throw', 1],
    ])(`%s${name}`, (_name, ending, status) => {
      const seen = runChild(ending, { preload, addon });
      // Where Node still finalizes, the memory is released, which wipes and unmaps it.
      expect(seen).toMatchObject({ status, seen: expect.stringMatching(/^(wiped|unmapped)$/) });
      expect(seen.key).toHaveLength(48);
      expect(new Set(seen.key).size).toBeGreaterThan(16);
    });
  }

  test('and the same look finds bytes that nobody wipes', () => {
    // The addon's own code is mapped, is not key memory, and is there to the end.
    const path = join(directory, 'not-wiped');
    const code = `require('${built}'); const map = require('fs').readFileSync('/proc/self/maps', 'utf8').split('\\n').find((l) => l.endsWith('casemate.node'));
      require('fs').writeFileSync('${path}', map.split('-')[0] + ' 10'); process.exit(0);`;
    spawnSync(process.execPath, ['-e', code], {
      env: { LD_PRELOAD: preload, CASEMATE_SCAN_ADDRESS_FILE: path },
    });
    expect(readFileSync(path, 'utf8').split(' ')[2]).toBe('left');
  });
});

const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8').trim();
const dumps = !pattern.startsWith('|') && !pattern.includes('/') && pattern !== '' && has('prlimit');
const why = dumps ? '' : ` (skipped: core_pattern is "${pattern}", or prlimit is missing)`;
describe.each([
  ['', built],
  [' without memfd_secret', fallback],
])('a core dump%s', (_name, addon) => {
  (dumps ? test : test.skip)(`has the heap in it and not the key${why}`, () => {
    const before = new Set(readdirSync(directory));
    const script = 'ulimit -c unlimited; exec "$@"';
    const { stdout: key, signal } = spawnSync(
      'sh',
      ['-c', script, 'sh', process.execPath, child, addon, 'abort', join(directory, `address-${count++}`)],
      { cwd: directory },
    );
    expect(signal).toBe('SIGABRT');
    expect(key).toHaveLength(48);
    const core = readdirSync(directory).find((name) => name.startsWith('core') && !before.has(name));
    const bytes = readFileSync(join(directory, core ?? 'no core file'));
    rmSync(join(directory, core ?? ''));
    expect(bytes.includes('casemate control pattern, in the heap')).toBe(true);
    for (const part of [key, key.subarray(0, 16), key.subarray(32)]) expect(bytes.includes(part)).toBe(false);
  });
});

describe('in JavaScript', () => {
  test('bytes move in and leave zeros where they came from', () => {
    const source = Buffer.from('correct horse battery staple');
    using memory = SecureMemory.from(source);
    expect(source.equals(Buffer.alloc(28))).toBe(true);
    expect(memory.equals(Buffer.from('correct horse battery staple'))).toBe(true);
    expect(memory.equals(Buffer.from('correct horse battery stapl!'))).toBe(false);
    expect(memory.equals(Buffer.from('correct'))).toBe(false);
  });

  test('a lent view is the memory itself, and is empty once it is given back', () => {
    using memory = SecureMemory.from(Uint8Array.of(1, 2, 3));
    let kept: Uint8Array = new Uint8Array(1);
    const sum = memory.use((view) => {
      kept = view;
      view[0] = 9;
      return (view[0] ?? 0) + (view[1] ?? 0) + (view[2] ?? 0);
    });
    expect(sum).toBe(14);
    expect(kept).toHaveLength(0);
    expect(memory.equals(Uint8Array.of(9, 2, 3))).toBe(true);
    expect(() =>
      memory.use((view) => {
        kept = view;
        throw new RangeError('as it should');
      }),
    ).toThrow('as it should');
    expect(kept).toHaveLength(0);
  });

  test('goes to a file descriptor and comes from one, whole', () => {
    const path = join(directory, 'key');
    using memory = new SecureMemory(64);
    memory.randomize();
    const out = openSync(path, 'w');
    memory.writeTo(out);
    closeSync(out);
    expect(memory.equals(readFileSync(path))).toBe(true);
    using copy = new SecureMemory(64);
    const input = openSync(path, 'r');
    expect(copy.readFrom(input)).toBe(64);
    closeSync(input);
    expect(copy.equals(memory)).toBe(true);
    using small = new SecureMemory(63);
    const again = openSync(path, 'r');
    expect(() => small.readFrom(again)).toThrow(
      expect.objectContaining({ code: 'CASEMATE_SECURE_MEMORY_IO' }),
    );
    closeSync(again);
    expect(small.equals(new Uint8Array(63))).toBe(true);
  });

  test('the key reaches a child through a pipe, as often as asked, and never a file', () => {
    using memory = SecureMemory.from(Buffer.from('correct horse battery staple'));
    for (let i = 0; i < 2; i++) {
      const fd = memory.toPipe();
      const { stdout } = spawnSync('cat', ['/dev/fd/3'], {
        stdio: ['ignore', 'pipe', 'inherit', fd],
        encoding: 'utf8',
      });
      closeSync(fd);
      expect(stdout).toBe('correct horse battery staple');
    }
    using large = new SecureMemory(4097);
    expect(() => large.toPipe()).toThrow(/more than a pipe holds/);
  });

  test('released memory says so, and releasing it again does nothing', () => {
    const memory = new SecureMemory(16);
    memory.release();
    memory.release();
    for (const act of [
      () => memory.size,
      () => memory.randomize(),
      () => memory.equals(memory),
      () => memory.use(() => 1),
      () => memory.writeTo(1),
    ]) {
      expect(act).toThrow(
        expect.objectContaining({ name: 'SecureMemoryError', code: 'CASEMATE_SECURE_MEMORY_RELEASED' }),
      );
    }
  });

  test.each([[0], [-1], [1.5], [Number.NaN], [(1 << 20) + 1], ['8'], [undefined]])(
    'refuses a size of %p',
    (size) => {
      expect(() => new SecureMemory(size as number)).toThrow(SecureMemoryError);
    },
  );

  test('refuses what is no bytes, does not fit, or is no descriptor', () => {
    using memory = new SecureMemory(8);
    expect(() => memory.take(new Uint8Array(9))).toThrow(SecureMemoryError);
    expect(() => memory.take(new Uint8Array(4), 5)).toThrow(SecureMemoryError);
    expect(() => memory.take(new Uint16Array(2) as never)).toThrow(SecureMemoryError);
    expect(() => memory.equals('12345678' as never)).toThrow(SecureMemoryError);
    expect(() => memory.writeTo(-1)).toThrow(SecureMemoryError);
    expect(() => memory.writeTo(9999)).toThrow(
      expect.objectContaining({ code: 'CASEMATE_SECURE_MEMORY_IO' }),
    );
    expect(memory.equals(new Uint8Array(8))).toBe(true);
  });

  test('what is forgotten is collected, so that the limit is not used up', async () => {
    const script = join(directory, 'forget.mjs');
    writeFileSync(
      script,
      `import { createRequire } from 'node:module'; const { SecureMemory } = createRequire(import.meta.url)(${JSON.stringify(`${native}/build/casemate.node`)});
      for (let i = 0; i < 2000; i++) { new SecureMemory(32); if (i % 100 === 0) { globalThis.gc(); await new Promise(setImmediate); } }
      console.log('done');`,
    );
    const { stdout } = spawnSync(process.execPath, ['--expose-gc', script], { encoding: 'utf8' });
    expect(stdout).toBe('done\n');
  });
});
