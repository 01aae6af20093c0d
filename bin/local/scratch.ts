import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PREFIX = 'casemate-local-';

/** Where the logs of a start that failed are kept, until the next start. */
export const FAILURE = fileURLToPath(new URL('../../.local/failure', import.meta.url));

/**
 * A new folder for everything that one run leaves on disk, named after this process; folders of runs that were
 * killed before they could tidy up are removed.
 */
export function makeScratch(parent = tmpdir()): string {
  for (const name of readdirSync(parent)) {
    const pid = name.startsWith(PREFIX) ? Number.parseInt(name.slice(PREFIX.length), 10) : Number.NaN;
    if (Number.isInteger(pid) && !isRunning(pid))
      rmSync(join(parent, name), { recursive: true, force: true });
  }
  return mkdtempSync(join(parent, `${PREFIX}${process.pid}-`));
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // somebody else's
  }
}

/** Copies the logs of a run, and nothing else of it: the state of its agents holds their keys. */
export function keepLogs(folder: string, kept = FAILURE): void {
  rmSync(kept, { recursive: true, force: true });
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const isLog = file === 'events.jsonl' || /^([^/]+|agents\/[^/]+\/[^/]+)\.log$/.test(file);
    if (isLog) cpSync(join(folder, file), join(kept, file)); // makes the folders on the way
  }
}
