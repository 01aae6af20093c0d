import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from '@jest/globals';
import { probe as probeByAddon } from '../../agent/probe.ts';
import { has, machines, make, native, probe, program, repository, run } from './native.ts';

beforeAll(() => make('probe', 'addon'));
const snp = `${machines}/epyc-milan-snp-guest`;
const version = JSON.parse(readFileSync(`${repository}package.json`, 'utf8')).version as string;

test('without a terminal the output is one JSON object on one line', () => {
  const { status, stdout, stderr } = run(['--root', snp]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout.trimEnd().split('\n')).toHaveLength(1);
  expect(Object.keys(JSON.parse(stdout))).toEqual(['schema', 'machine', 'facts']);
});

test('every fact of --list is in every report, once and in that order', () => {
  const listed = JSON.parse(run(['--list', '--json']).stdout) as {
    id: string;
    title: string;
    source: string;
  }[];
  expect(listed.length).toBeGreaterThan(100);
  expect(new Set(listed.map(({ id }) => id)).size).toBe(listed.length);
  for (const { title, source } of listed) expect([title, source]).not.toContain('');
  const ids = listed.map(({ id }) => id);
  for (const args of [[], ['--root', snp], ['--cpuid', `${snp}/cpuid.txt`]])
    expect(probe(args).facts.map(({ id }) => id)).toEqual(ids);
  expect(
    run(['--list'])
      .stdout.trimEnd()
      .split('\n')
      .map((line) => line.split(' ')[0]),
  ).toEqual(ids);
});

test('every unknown has a reason, and every fact evidence', () => {
  for (const args of [
    [],
    ['--root', snp],
    ['--cpuid', `${snp}/cpuid.txt`],
    ['--root', `${machines}/qemu-tcg-max`],
  ]) {
    for (const fact of probe(args).facts) {
      expect(fact.evidence).not.toBe('');
      if (fact.state === 'unknown')
        expect(fact.reason ?? `${fact.id} has none`).toMatch(/^(?!not looked at)./);
    }
  }
});

test('the addon and the program say the same about the same machine', () => {
  for (const name of ['epyc-milan-snp-guest', 'qemu-tcg-icelake-server']) {
    expect(probeByAddon({ root: `${machines}/${name}` })).toEqual(probe(['--root', `${machines}/${name}`]));
  }
  const cpuidFile = `${machines}/qemu-tcg-epyc/cpuid.txt`;
  expect(probeByAddon({ cpuidFile })).toEqual(probe(['--cpuid', cpuidFile]));
  const settled = ({ facts }: ReturnType<typeof probeByAddon>) =>
    facts.map(({ id, state }) => `${id} ${state}`);
  expect(settled(probeByAddon())).toEqual(settled(probe([])));
});

describe('text', () => {
  test('is grouped, each line a fact, its state and why, with a hint where there is something to do', () => {
    const { stdout } = run(['--text', '--root', `${machines}/qemu-tcg-icelake-server`]);
    expect(stdout).toMatch(/^Processor\n {2}cpu\.vendor +present {2}GenuineIntel\n/);
    for (const heading of [
      'Virtualization',
      'Memory protection',
      'Attestation',
      'TPM',
      'Boot',
      'Kernel',
      'Contradictions',
    ])
      expect(stdout).toContain(`\n\n${heading}\n`);
    expect(stdout).toMatch(
      /mem\.swap\.plain +present\s*\n {6}memory is written to disk in the clear; .*\n {6}hint: swapoff/,
    );
    expect(stdout).not.toContain('\u001b');
  });

  const onTerminal = (env: Record<string, string>) =>
    spawnSync('script', ['-qec', `${program} --root ${snp} --fact mem.sev-snp.guest`, '/dev/null'], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'], ...env },
    }).stdout;
  const terminal = has('script') ? test : test.skip;
  const why = has('script') ? '' : ' (skipped: no script(1) to make a terminal)';
  terminal(`is the default on a terminal, coloured unless NO_COLOR or a dumb terminal says no${why}`, () => {
    expect(onTerminal({ TERM: 'xterm' })).toContain('\u001b[32mpresent');
    for (const env of [{ TERM: 'xterm', NO_COLOR: '1' }, { TERM: 'dumb' }]) {
      expect(onTerminal(env)).toContain('mem.sev-snp.guest');
      expect(onTerminal(env)).not.toContain('\u001b');
    }
  });
});

test('--fact gives the facts asked for and nothing else', () => {
  const { facts } = probe(['--root', snp, '--fact', 'mem.swap', '--fact=tpm.present']);
  expect(facts.map(({ id }) => id)).toEqual(['mem.swap', 'tpm.present']);
});

test('--require ends with 1 and one line for each fact that is not present, after the same output', () => {
  const good = run(['--json', '--root', snp, '--require', 'mem.sev-snp.guest']);
  expect(good).toMatchObject({ status: 0, stderr: '' });
  const bad = run([
    '--json',
    '--root',
    snp,
    '--require',
    'mem.sev-snp.guest',
    '--require',
    'tpm.present',
    '--require=mem.sev.enabled',
  ]);
  expect(bad).toMatchObject({ status: 1, stdout: good.stdout });
  expect(bad.stderr.trimEnd().split('\n').sort()).toEqual([
    expect.stringMatching(/^casemate-probe: mem\.sev\.enabled is unknown: /),
    expect.stringMatching(/^casemate-probe: tpm\.present is absent: /),
  ]);
});

describe('wrong usage ends with 2, one line and no output:', () => {
  test.each([
    [['--nonsense']],
    [['extra']],
    [['--fact']],
    [['--fact', 'mem.nothing']],
    [['--fact', 'mem.swa']],
    [['--require', '']],
    [['--cpuid']],
    [['--cpuid', '']],
    [['--root', '/nowhere/at/all']],
    [['--root', program]],
    [['--cpuid', '/a', '--cpuid', '/b']],
    [['--record', '/proc/nope']],
  ])('%j', (args) => {
    const { status, stdout, stderr } = run(args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(/^casemate-probe: [^\n]+\n$/);
  });
});

test('--help and --version answer on standard output', () => {
  expect(run(['--help'])).toMatchObject({
    status: 0,
    stderr: '',
    stdout: expect.stringContaining('--record DIR'),
  });
  expect(run(['--version'])).toMatchObject({
    status: 0,
    stdout: `casemate-probe ${version} (casemate-probe/1)\n`,
  });
});

test('output that cannot be written is an error, not a success', () => {
  const { status, stderr } = spawnSync('sh', ['-c', '"$0" --json > /dev/full', program], {
    encoding: 'utf8',
  });
  expect(status).toBe(2);
  expect(stderr).toMatch(/^casemate-probe: writing the output: .*\n$/);
});

test('the program needs no library but libc, and the core calls no allocator', () => {
  const symbols = execFileSync('sh', ['-c', `nm -u ${native}/build/*.o | awk '{print $NF}' | sort -u`], {
    encoding: 'utf8',
  }).split('\n');
  for (const allocator of [
    'malloc',
    'calloc',
    'realloc',
    'free',
    'strdup',
    'asprintf',
    'fopen',
    'getline',
    'opendir',
  ])
    expect(symbols).not.toContain(allocator);
  const needed =
    execFileSync('readelf', ['-d', program], { encoding: 'utf8' }).match(/\(NEEDED\).*\[(.*)\]/g) ?? [];
  for (const line of needed) expect(line).toContain('[libc.so.6]');
});
