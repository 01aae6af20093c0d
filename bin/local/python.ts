import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ProcessError, runToEnd } from './process.ts';

/** The machine lacks something; the message says what to install. */
export class PrerequisiteError extends Error {
  override readonly name = 'PrerequisiteError';
}

/** A Python environment: where it is made, and the file of the pins that it is made from. */
export interface PythonEnvironment {
  readonly folder: string;
  readonly requirements: string;
}

const EMULATORS: PythonEnvironment = {
  folder: fileURLToPath(new URL('../../.venv', import.meta.url)),
  requirements: fileURLToPath(new URL('./requirements.txt', import.meta.url)),
};
const MARK = 'casemate-requirements';
const CANDIDATES = [
  'python3',
  'python3.14',
  'python3.13',
  'python3.12',
  'python3.11',
  'python3.10',
  'python',
];

/** What an environment is marked with: the pins it was made from. */
export function requirementsHash(requirements: string): string {
  return createHash('sha256').update(requirements).digest('hex');
}

/** Whether a virtual environment was made to its end from these pins, and its interpreter is still there. */
export function isCurrent(venv: string, requirements: string): boolean {
  try {
    return (
      readFileSync(join(venv, MARK), 'utf8') === requirementsHash(requirements) &&
      existsSync(join(venv, 'bin', 'python')) // a link to the system's, which may have been upgraded away
    );
  } catch {
    return false; // not made yet
  }
}

/**
 * A Python environment of the project's own, the one with the pinned emulators unless another is named; made when it
 * is not there or the pins changed. It is made aside and moved into place, so that an interrupted or concurrent start never leaves or
 * meets half of one.
 *
 * @returns the path of its interpreter
 * @throws PrerequisiteError
 */
export async function ensurePython(
  log: string,
  signal?: AbortSignal,
  { folder, requirements: file }: PythonEnvironment = EMULATORS,
): Promise<string> {
  const requirements = readFileSync(file, 'utf8');
  const python = join(folder, 'bin', 'python');
  if (isCurrent(folder, requirements)) return python;
  const options = { log, ...(signal ? { signal } : {}) };
  const system = await findPython(CANDIDATES, options);
  const aside = `${folder}.${process.pid}`;
  try {
    await runToEnd([system, '-m', 'venv', '--clear', aside], options).catch((cause: unknown) => {
      if (signal?.aborted) throw cause;
      throw new PrerequisiteError(
        `${system} cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)`,
        { cause },
      );
    });
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r', file];
    await runToEnd([join(aside, 'bin', 'python'), ...pip], options).catch((cause: unknown) => {
      if (signal?.aborted) throw cause;
      throw new PrerequisiteError(
        `pip cannot install what ${file} names: it needs to reach a Python package index, or a mirror named in pip's own configuration\n${cause instanceof Error ? cause.message : cause}`,
        { cause },
      );
    });
    writeFileSync(join(aside, MARK), requirementsHash(requirements));
    // Another start may have put its own there meanwhile: that one may be in use already.
    if (!isCurrent(folder, requirements)) {
      rmSync(folder, { recursive: true, force: true });
      renameSync(aside, folder);
    }
    return python;
  } finally {
    rmSync(aside, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * The first of these interpreters that is new enough.
 *
 * @throws PrerequisiteError
 */
export async function findPython(
  candidates: readonly string[],
  options: { readonly log: string; readonly signal?: AbortSignal },
): Promise<string> {
  for (const candidate of candidates) {
    try {
      await runToEnd([candidate, '-c', 'import sys; sys.exit(sys.version_info < (3, 10))'], options);
      return candidate;
    } catch (error) {
      if (!(error instanceof ProcessError) || options.signal?.aborted) throw error;
    }
  }
  throw new PrerequisiteError(
    'the embedded cloud needs Python 3.10 or newer: install it (Debian: apt-get install python3 python3-venv)',
  );
}
