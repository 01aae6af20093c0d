import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ProcessError, runToEnd } from './process.ts';

/** The machine lacks something; the message says what to install. */
export class PrerequisiteError extends Error {
  override readonly name = 'PrerequisiteError';
}

const VENV = fileURLToPath(new URL('../../.venv', import.meta.url));
const REQUIREMENTS = fileURLToPath(new URL('./requirements.txt', import.meta.url));
const MARK = `${VENV}/casemate-requirements`;

/**
 * The project's own Python environment with the pinned emulators; made when it is not there or the pins
 * changed.
 *
 * @returns the path of its interpreter
 */
export async function ensurePython(log: string): Promise<string> {
  const wanted = createHash('sha256').update(readFileSync(REQUIREMENTS)).digest('hex');
  const python = `${VENV}/bin/python`;
  try {
    if (readFileSync(MARK, 'utf8') === wanted) return python;
  } catch {
    // not made yet, or not to its end
  }
  const system = await findPython(log);
  rmSync(VENV, { recursive: true, force: true });
  try {
    await runToEnd([system, '-m', 'venv', VENV], { log });
  } catch (error) {
    throw new PrerequisiteError(
      `${system} cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)`,
      { cause: error },
    );
  }
  await runToEnd(
    [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r', REQUIREMENTS],
    { log },
  );
  writeFileSync(MARK, wanted);
  return python;
}

async function findPython(log: string): Promise<string> {
  for (const candidate of ['python3', 'python3.13', 'python3.12', 'python3.11', 'python3.10', 'python']) {
    try {
      await runToEnd([candidate, '-c', 'import sys; sys.exit(sys.version_info < (3, 10))'], { log });
      return candidate;
    } catch (error) {
      if (!(error instanceof ProcessError)) throw error;
    }
  }
  throw new PrerequisiteError(
    'the embedded cloud needs Python 3.10 or newer: install python3 and python3-venv',
  );
}
