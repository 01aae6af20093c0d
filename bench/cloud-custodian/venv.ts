import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { PROJECT } from '../deployed.ts';

const REQUIREMENTS = fileURLToPath(new URL('./requirements.txt', import.meta.url));
const FOLDER = join(PROJECT, 'node_modules', '.cache', 'casemate-bench', 'cloud-custodian');

/**
 * Cloud Custodian, pinned, in an environment of its own: its boto3 is not the emulators'.
 *
 * @param python any Python 3.10 or newer
 * @returns the path of its interpreter
 */
export async function ensureCloudCustodian(python: string): Promise<string> {
  const wanted = createHash('sha256').update(readFileSync(REQUIREMENTS)).digest('hex');
  const interpreter = join(FOLDER, 'bin', 'python');
  const mark = join(FOLDER, 'requirements.sha256');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return interpreter;
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  const run = promisify(execFile);
  await run(python, ['-m', 'venv', FOLDER]);
  await run(interpreter, [
    '-m',
    'pip',
    'install',
    '--quiet',
    '--disable-pip-version-check',
    '-r',
    REQUIREMENTS,
  ]);
  writeFileSync(mark, wanted);
  return interpreter;
}

/** Its version, out of the pins. */
export const C7N = /^c7n==(\S+)$/m.exec(readFileSync(REQUIREMENTS, 'utf8'))?.[1] ?? '';
