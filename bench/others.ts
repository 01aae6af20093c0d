import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePython } from '../bin/local/python.ts';
import { PROJECT } from './deployed.ts';

/** Tools in Python that Casemate is measured beside: each a folder here, with its pins. */
type Other = 'cloud-custodian' | 'dcap-qvl';

const requirementsOf = (other: Other) => join(PROJECT, 'bench', other, 'requirements.txt');

/**
 * Such a tool in an environment of its own: what it depends on is not the emulators'.
 *
 * @param log file for what pip says
 * @returns the path of its interpreter
 * @throws PrerequisiteError
 */
export function ensureOther(other: Other, log: string): Promise<string> {
  const cache = join(PROJECT, 'node_modules', '.cache', 'casemate-bench');
  mkdirSync(cache, { recursive: true });
  return ensurePython(log, undefined, {
    folder: join(cache, other),
    requirements: requirementsOf(other),
  });
}

/** The version of a package of it, out of the pins. */
export function versionIn(other: Other, name: string): string {
  const pins = readFileSync(requirementsOf(other), 'utf8');
  return new RegExp(`^${name}==(\\S+)$`, 'm').exec(pins)?.[1] ?? '';
}
