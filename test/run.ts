/**
 * Runs jest and tells what a green run can hide: every skipped test with its reason. Arguments go to jest:
 * `npm test -- test/pipeline` runs one suite.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'casemate-test-'));
const resultsFile = join(folder, 'results.json');
const jest = createRequire(import.meta.url).resolve('jest/bin/jest');

const { status, signal } = spawnSync(
  process.execPath,
  [
    '--no-warnings=ExperimentalWarning',
    '--experimental-vm-modules',
    jest,
    '--json',
    `--outputFile=${resultsFile}`,
    '--silent=false',
    ...process.argv.slice(2),
  ],
  { stdio: ['ignore', 'ignore', 'inherit'] },
);

interface Results {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numRuntimeErrorTestSuites: number;
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

let results: Results | undefined;
try {
  results = JSON.parse(readFileSync(resultsFile, 'utf8')) as Results;
} catch {
  process.stderr.write(`jest ended with ${status ?? signal} and left no results\n`);
}
rmSync(folder, { recursive: true, force: true });

if (results) {
  const skipped = results.testResults
    .flatMap((suite) => suite.assertionResults)
    .filter((test) => test.status === 'pending' || test.status === 'todo');
  for (const test of skipped) process.stdout.write(`skipped: ${test.fullName.replace(/skipped: /, '')}\n`);
  // A suite that could not even be loaded ran none of its tests: it counts as a failure.
  const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
  process.stdout.write(`\nTests: ${results.numPassedTests} passed, ${failed} failed\n`);
}
process.exitCode = results && status === 0 ? 0 : 1;
