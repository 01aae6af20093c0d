/**
 * The same program by other compilers and under instruments: each is skipped, with the reason in its name, where
 * the machine does not have the tool.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from '@jest/globals';
import { facts, has, machines, make, native, probe, program, run, vectors } from './native.ts';

const roots = readdirSync(machines)
  .filter((name) => !name.includes('.'))
  .map((name) => join(machines, name));
const shared = vectors ?? '';
const recordings = [
  ...roots.map((root) => join(root, 'cpuid.txt')),
  ...(shared === '' ? [] : readdirSync(shared).filter((name) => name !== 'expected.json')).map((name) =>
    join(shared, name),
  ),
];
const everything: string[][] = [
  ...roots.map((root) => ['--root', root]),
  ...recordings.map((file) => ['--cpuid', file]),
];

beforeAll(() => make('probe'));

function withTool(tool: string, name: string, body: () => void, timeout = 120_000): void {
  if (has(tool)) test(name, body, timeout);
  else test.skip(`${name} (skipped: no ${tool})`, () => {});
}

/** Runs the program as built elsewhere over every recording, and expects the same answers. */
function expectSame(executable: string, wrapper: string[] = []): void {
  for (const args of everything) {
    const command = [...wrapper, executable, '--json', ...args];
    const { status, stdout, stderr } = spawnSync(command[0] ?? '', command.slice(1), {
      encoding: 'utf8',
      maxBuffer: 8 << 20,
    });
    expect({ args, status, stderr }).toEqual({ args, status: 0, stderr: '' });
    expect(JSON.parse(stdout)).toEqual(probe(args));
  }
}

withTool('musl-gcc', 'built with musl, statically, it says the same of every recording', () => {
  make('CC=musl-gcc', 'BUILD=build/musl', 'LDFLAGS=-static', 'HARDENING=-fstack-protector-strong', 'probe');
  expectSame(`${native}/build/musl/casemate-probe`);
  expect(
    execFileSync(`${native}/build/musl/casemate-probe`, ['--fact', 'cpu.vendor', '--json'], {
      encoding: 'utf8',
    }),
  ).toContain('"state":"present"');
});

describe('for aarch64', () => {
  const emulator = ['qemu-aarch64-static', 'qemu-aarch64'].find(has);
  const missing = !has('aarch64-linux-gnu-gcc')
    ? 'no aarch64-linux-gnu-gcc'
    : emulator === undefined
      ? 'no qemu-aarch64'
      : undefined;
  const when = missing === undefined ? test : test.skip;
  const why = missing === undefined ? '' : ` (skipped: ${missing})`;
  const built = `${native}/build/aarch64`;
  const arm = [
    'CC=aarch64-linux-gnu-gcc',
    'BUILD=build/aarch64',
    'LDFLAGS=-static',
    'HARDENING=-fstack-protector-strong',
  ];

  when(
    `it reads every recording as it does on x86-64${why}`,
    () => {
      make('-j2', ...arm, 'probe');
      expectSame(`${built}/casemate-probe`, [emulator ?? '']);
    },
    120_000,
  );
  when(
    `it executes no CPUID, and says that x86 features are absent and what it cannot see unknown${why}`,
    () => {
      make(...arm, 'probe');
      const { status, stdout } = run([`${built}/casemate-probe`, '--json'], { executable: emulator ?? '' });
      expect(status).toBe(0);
      const { machine, facts: list } = JSON.parse(stdout) as ReturnType<typeof probe>;
      expect(machine).toMatchObject({ architecture: 'aarch64', cpuid: 'none' });
      const fact = Object.fromEntries(list.map((each) => [each.id, each]));
      expect(fact['virt.vmx.advertised']).toMatchObject({
        state: 'absent',
        evidence: 'architecture aarch64',
      });
      expect(fact['mem.sev-snp.guest']).toMatchObject({ state: 'absent' });
      expect(fact['arm.memory-encryption']?.reason).toContain('cannot be seen from here');
    },
    120_000,
  );
  when(
    `made-up machines and key memory behave as on x86-64${why}`,
    () => {
      make(...arm, 'build/aarch64/seams-test', 'build/aarch64/secure-test');
      expect(run([`${built}/seams-test`], { executable: emulator ?? '' }).stdout).not.toContain('not ok');
      const { status, stdout } = run([`${built}/secure-test`], { executable: emulator ?? '' });
      expect(stdout).toContain('backing locked'); // qemu-user has no memfd_secret: the fallback is what runs
      // Guard pages and mappings are the emulator's own to fault on; what is left is the same.
      expect(stdout).toContain('ok a forked child finds zeros or nothing, not the key');
      expect([0, 1]).toContain(status);
    },
    120_000,
  );
});

describe('under the address and undefined behaviour sanitizers', () => {
  const linked =
    spawnSync(
      'sh',
      ['-c', 'echo "int main(void){return 0;}" | cc -fsanitize=address,undefined -x c - -o /dev/null'],
      { stdio: 'ignore' },
    ).status === 0;
  const when = linked ? test : test.skip;
  const why = linked ? '' : ' (skipped: cc has no sanitizers)';
  const flags = ['SANITIZED=1', 'BUILD=build/asan'];

  when(
    `every recording, this host and a made-up one are looked at clean${why}`,
    () => {
      make(
        '-j2',
        ...flags,
        'probe',
        ...['seams', 'secure', 'sev-guest'].map((name) => `build/asan/${name}-test`),
      );
      expectSame(`${native}/build/asan/casemate-probe`);
      expect(run(['--text'], { executable: `${native}/build/asan/casemate-probe` })).toMatchObject({
        status: 0,
        stderr: '',
      });
      expect(run([], { executable: `${native}/build/asan/seams-test` })).toMatchObject({
        status: 0,
        stderr: '',
      });
      expect(run([], { executable: `${native}/build/asan/sev-guest-test` })).toMatchObject({
        status: 0,
        stderr: '',
      });
      const keys = run([], {
        executable: `${native}/build/asan/secure-test`,
        env: { PATH: process.env['PATH'], ASAN_OPTIONS: 'handle_segv=0' }, // guard pages are meant to fault
      });
      expect(keys).toMatchObject({ status: 0, stderr: '' });
      const directory = mkdtempSync(join(tmpdir(), 'casemate-asan-'));
      expect(
        run(['--record', join(directory, 'host')], { executable: `${native}/build/asan/casemate-probe` }),
      ).toMatchObject({ status: 0, stderr: '' });
      rmSync(directory, { recursive: true });
    },
    120_000,
  );

  when(
    `the stored fuzzing corpus of every parser runs clean${why}`,
    () => {
      make('-j2', ...flags, 'replay');
      for (const target of readdirSync(`${native}/fuzz/corpus`)) {
        const inputs = readdirSync(`${native}/fuzz/corpus/${target}`).map(
          (name) => `${native}/fuzz/corpus/${target}/${name}`,
        );
        expect(inputs.length).toBeGreaterThan(1);
        expect(run(inputs, { executable: `${native}/build/asan/replay-${target}` })).toMatchObject({
          status: 0,
          stderr: '',
        });
      }
    },
    120_000,
  );
});

withTool(
  'valgrind',
  'under valgrind nothing is read before it is written, and every descriptor is closed',
  () => {
    // With libc as a library: valgrind knows its string functions by their names there, and there alone.
    make('-j2', 'BUILD=build/dynamic', 'LDFLAGS=-pie', 'probe');
    const dynamic = `${native}/build/dynamic/casemate-probe`;
    for (const args of [
      ['--root', `${machines}/qemu-tcg-icelake-server`],
      ['--cpuid', `${machines}/qemu-tcg-epyc/cpuid.txt`],
      [],
    ]) {
      const { status, stderr } = run(
        [
          '--quiet',
          '--error-exitcode=99',
          '--leak-check=full',
          '--track-fds=yes',
          dynamic,
          '--json',
          ...args,
        ],
        { executable: 'valgrind' },
      );
      const complaints = stderr
        .split('\n')
        .filter((line) =>
          /Invalid|uninitialised|definitely lost|Open file descriptor [3-9].*\/(proc|sys|dev)\b/.test(line),
        );
      expect({ args, status, complaints }).toEqual({ args, status: 0, complaints: [] });
    }
  },
);

const fuzzer =
  has('clang') &&
  spawnSync(
    'sh',
    [
      '-c',
      'echo "int LLVMFuzzerTestOneInput(const char*d,unsigned long n){return 0;}" | clang -fsanitize=fuzzer -x c - -o /dev/null',
    ],
    { stdio: 'ignore' },
  ).status === 0;
(fuzzer ? test : test.skip)(
  `a few seconds of fuzzing find nothing${fuzzer ? '' : ' (skipped: no clang with libFuzzer)'}`,
  () => {
    const { status, stdout, stderr } = spawnSync(`${native}/fuzz/run.sh`, {
      encoding: 'utf8',
      env: { ...process.env, FUZZ_SECONDS: '1' },
    });
    expect({ status, stderr, crashes: stdout.match(/ERROR|SUMMARY|Test unit written/g) }).toEqual({
      status: 0,
      stderr: '',
      crashes: null,
    });
    expect(stdout.match(/fuzzing (\w+)/g)).toHaveLength(5);
  },
  240_000,
);

const privileged = process.getuid?.() === 0 && has('setpriv');
(privileged ? test : test.skip)(
  `without privileges, what only root may read is unknown with EACCES${privileged ? '' : ' (skipped: not root, or no setpriv)'}`,
  () => {
    const directory = mkdtempSync(join(tmpdir(), 'casemate-user-'));
    execFileSync('chmod', ['755', directory]);
    execFileSync('cp', [program, join(directory, 'casemate-probe')]);
    execFileSync('sh', [
      '-c',
      `cp -r "$0" "$1/machine" && chmod -R a+rX "$1/machine"`,
      `${machines}/qemu-tcg-icelake-server`,
      directory,
    ]);
    writeFileSync(join(directory, 'machine/proc/swaps'), 'Filename\n', { mode: 0o600 });
    execFileSync('chmod', ['600', join(directory, 'machine/proc/swaps')]);
    const user = [
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      join(directory, 'casemate-probe'),
      '--json',
    ];
    const { status, stdout } = run([...user, '--root', join(directory, 'machine')], {
      executable: 'setpriv',
    });
    expect(status).toBe(0);
    const swap = (JSON.parse(stdout) as ReturnType<typeof probe>).facts.find(({ id }) => id === 'mem.swap');
    expect(swap).toMatchObject({ state: 'unknown', reason: '/proc/swaps: EACCES', hint: 'Run as root.' });
    const here = run(user, { executable: 'setpriv' });
    expect(here.status).toBe(0);
    rmSync(directory, { recursive: true });
    expect(facts(['--root', `${machines}/qemu-tcg-icelake-server`])['mem.swap']).toMatchObject({
      state: 'present',
    });
  },
);
