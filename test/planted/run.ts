/**
 * `npm run planted`: plants each defect of test/planted/defects.ts alone into a copy of the sources and plays
 * histories against it until one breaks an invariant, or runs the suite that is named for it. Exits 1 when a defect
 * survives, or is not where it was.
 *
 *   node test/planted/run.ts [word of a name] …
 */
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEFECTS, type Defect } from './defects.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const SOURCES = ['agent', 'bin', 'lambdas', 'lib', 'policies', 'test', 'package.json', 'jest.config.js'];
/** Fewer than CI plays. */
const HISTORIES = 3_000;

const wanted = process.argv.slice(2);
const chosen = DEFECTS.filter(
  ({ name }) => wanted.length === 0 || wanted.some((word) => name.includes(word)),
);
const folder = mkdtempSync(join(tmpdir(), 'casemate-planted-'));
let survived = 0;
try {
  for (const source of SOURCES) cpSync(join(PROJECT, source), join(folder, source), { recursive: true });
  symlinkSync(join(PROJECT, 'node_modules'), join(folder, 'node_modules'));
  for (const defect of chosen) {
    const found = await planted(defect);
    if (found.violation === undefined) survived++;
    process.stdout.write(
      `| ${defect.name} | ${defect.file} | ${found.violation ?? 'SURVIVED'} | ${defect.suite ?? found.histories} |\n`,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = survived > 0 ? 1 : 0;

interface Hunt {
  readonly histories: number;
  readonly violation?: string;
}

async function planted({ name, file, find, plant, suite }: Defect): Promise<Hunt> {
  const path = join(folder, file);
  const sound = readFileSync(path, 'utf8');
  if (sound.split(find).length !== 2) throw new Error(`${name}: not once in ${file}: ${find}`);
  writeFileSync(
    path,
    sound.replace(find, () => plant),
  );
  try {
    return await (suite === undefined ? hunt() : failing(suite));
  } finally {
    writeFileSync(path, sound);
  }
}

/** Plays histories in the copy, in a process that has read nothing else. */
function hunt(): Promise<Hunt> {
  const child = spawn(process.execPath, ['--no-warnings', 'test/planted/hunt.ts', String(HISTORIES)], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, POWERTOOLS_METRICS_DISABLED: 'true', POWERTOOLS_SERVICE_NAME: 'test' },
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(JSON.parse(output) as Hunt);
      else reject(new Error(`the hunt ended with ${code}`));
    });
  });
}

/** The first test of a suite that fails in the copy. */
function failing(suite: string): Hunt {
  const jest = join(PROJECT, 'node_modules/jest/bin/jest.js');
  const { stdout } = spawnSync(
    process.execPath,
    ['--no-warnings', '--experimental-vm-modules', jest, '--json', '--silent', suite],
    { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 64 * 1024 * 1024 },
  );
  const { testResults } = JSON.parse(stdout) as {
    testResults: { assertionResults: { status: string; fullName: string }[] }[];
  };
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
  // A suite that could not be loaded catches nothing.
  if (tests.length === 0) throw new Error(`${suite} ran no test`);
  const failed = tests.find(({ status }) => status === 'failed');
  return { histories: 0, ...(failed ? { violation: failed.fullName } : {}) };
}
