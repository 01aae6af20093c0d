import { spawnSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { POLICY_FOLDER } from '../../../lib/constructs/policies.ts';

// Each command is a process of its own, which compiles Cedar.
jest.setTimeout(60_000);

const CLI = fileURLToPath(new URL('../../../bin/casemate-cli.js', import.meta.url));
const run = (...args: string[]) =>
  spawnSync(process.execPath, ['--no-warnings', CLI, 'policy', ...args], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'] },
  });

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-policies-'));
  cpSync(POLICY_FOLDER, folder, { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

const FAILING = `
- action: Manage
  cases:
    - it: lets anybody in
      decision: allow
      reasons: [IN_SCOPE]
`;
const UNTRIED =
  '@id("mine") @reason("MINE") forbid (principal, action == Casemate::Action::"Manage", resource) when { principal.hasTag("mine") };';

describe('casemate policy', () => {
  test('tests the policies that are deployed when no folder is named', () => {
    const { status, stdout } = run('test');
    expect([status, stdout]).toEqual([0, expect.stringMatching(/^\d+ cases hold, 0 do not\n$/)]);
  });

  test('shows a case that does not hold, with what was decided, and exits with 1', () => {
    writeFileSync(join(folder, 'mine.test.yaml'), FAILING);
    const { status, stdout } = run('test', '--policies', folder);
    expect(status).toBe(1);
    expect(stdout).toMatch(
      /mine\.test\.yaml: Manage lets anybody in\n {2}expected {2}allow, IN_SCOPE\n {2}decided {3}deny, NO_POLICY_PERMITS, by no policy\n.*1 do not/s,
    );
  });

  test('names a policy that no case shows, and exits with 1', () => {
    writeFileSync(join(folder, 'mine.cedar'), UNTRIED);
    const { status, stdout } = run('test', '--policies', folder, '--json');
    expect(status).toBe(1);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ passed: false, coverage: { neverDetermining: ['mine'] } });
    expect(report.cases.every((one: { holds: boolean }) => one.holds)).toBe(true);
  });

  test('checks policies without running cases', () => {
    writeFileSync(join(folder, 'mine.cedar'), UNTRIED);
    const { status, stdout } = run('check', '--policies', folder, '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout).policies).toContainEqual({
      id: 'mine',
      reason: 'MINE',
      file: 'mine.cedar',
      effect: 'forbid',
      actions: ['Manage'],
      refusesInObserve: false,
      text: UNTRIED,
    });
  });

  test.each<[string, () => void, string[], number, RegExp]>([
    ['no such folder', () => undefined, ['check', '--policies', '/nowhere'], 2, /no folder of policies/],
    ['an unknown option', () => undefined, ['test', '--polices'], 2, /unknown option/],
    [
      'cases that are no cases',
      () => writeFileSync(join(folder, 'mine.test.yaml'), 'cases: []'),
      ['test', '--policies'],
      2,
      /mine\.test\.yaml/,
    ],
    [
      'policies that do not validate',
      () => appendFileSync(join(folder, 'scope.cedar'), UNTRIED.replace('hasTag', 'hasTga')),
      ['check', '--policies'],
      1,
      /hasTga/,
    ],
    [
      'policies that do not validate, with cases to run',
      () =>
        appendFileSync(
          join(folder, 'scope.cedar'),
          UNTRIED.replace('principal.hasTag("mine")', 'context.foo'),
        ),
      ['test', '--policies'],
      1,
      /mine/,
    ],
    [
      'demands on evidence that cannot be read',
      () => writeFileSync(join(folder, 'evidence.json'), '{"snp": {"vmlp": [0]}}'),
      ['check', '--policies'],
      1,
      /vmlp/,
    ],
  ])('%s: one line or few, no stack', (_, prepare, args, status, message) => {
    prepare();
    const result = run(...args, ...(args.at(-1) === '--policies' ? [folder] : []));
    expect([result.status, result.stdout]).toEqual([status, '']);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).not.toMatch(/^ {4}at /m);
  });
});
