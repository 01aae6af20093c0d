import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { removeAtEnd } from './process.ts';

/** Where the logs of a start that failed are kept, until the next start. */
export const FAILURE = fileURLToPath(new URL('../../.local/failure', import.meta.url));

/** A new folder for everything that one run leaves on disk; gone when this process is. */
export function makeScratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-local-'));
  removeAtEnd(folder);
  return folder;
}

/** Copies the logs of a run, and nothing else of it: the state of its agents holds their keys. */
export function keepLogs(folder: string, kept = FAILURE): void {
  rmSync(kept, { recursive: true, force: true });
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const isLog = file === 'events.jsonl' || /^([^/]+|agents\/[^/]+\/[^/]+)\.log$/.test(file);
    if (isLog) cpSync(join(folder, file), join(kept, file)); // makes the folders on the way
  }
}
