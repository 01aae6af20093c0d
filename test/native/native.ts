/** Builds the native parts once a suite, and runs the command-line program. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Fact as ProbeFact, type ProbeResult, probeResult } from '../../lib/domain/fact.ts';

export const repository = fileURLToPath(new URL('../..', import.meta.url));
export const native = `${repository}native`;
export const machines = `${repository}test/fixtures/machines`;
export const program = `${native}/build/casemate-probe`;

/** Shared recordings that are not part of the repository; undefined where they are not. */
export const vectors = [`${repository}../shared/vectors/cpuid`].find((path) => existsSync(path));

/** One at a time: suites run beside each other and build in the same folder. */
export function make(...targets: string[]): void {
  const command = ['make', '-s', '-C', native, ...targets];
  if (has('flock')) command.unshift('flock', `${native}/Makefile`);
  execFileSync(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] });
}

export interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}

export function run(
  args: string[],
  options: { input?: string; env?: NodeJS.ProcessEnv; executable?: string } = {},
): Run {
  const { status, stdout, stderr } = spawnSync(options.executable ?? program, args, {
    encoding: 'utf8',
    input: options.input ?? '',
    env: options.env ?? { PATH: process.env['PATH'] },
    maxBuffer: 8 << 20,
  });
  return { status, stdout, stderr };
}

/** The facts of a run that must succeed, by id. */
export function facts(args: string[], executable?: string): Record<string, ProbeFact> {
  return byId(probe(args, executable));
}

export function probe(args: string[], executable?: string): ProbeResult {
  const { status, stdout, stderr } = run(['--json', ...args], executable === undefined ? {} : { executable });
  if (status !== 0) throw new Error(`casemate-probe ${args.join(' ')}: exit ${status}: ${stderr}`);
  return probeResult.parse(JSON.parse(stdout));
}

export function byId(result: ProbeResult): Record<string, ProbeFact> {
  return Object.fromEntries(result.facts.map((fact) => [fact.id, fact]));
}

/** Whether a program can be started at all: for tests that need one which a user may not have. */
export function has(command: string): boolean {
  return spawnSync('sh', ['-c', 'command -v "$0"', command], { stdio: 'ignore' }).status === 0;
}
