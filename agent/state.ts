import {
  closeSync,
  fchmodSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

/** Makes the state folder for its owner alone. */
export function openStateDir(path: string): string {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
}

/** Writes a file so that a crash leaves either the old content or the new, readable by its owner alone unless said. */
export function writeDurably(path: string, content: string, mode = 0o600): void {
  const temporary = `${path}.new`;
  const fd = openSync(temporary, 'w', mode);
  try {
    // One that a crash left there keeps its mode otherwise.
    fchmodSync(fd, mode);
    // Writes all or throws; writeSync may write a part, as on a full disk, and what was whole before it would
    // be replaced by that part.
    writeFileSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  const dir = openSync(dirname(path), 'r');
  try {
    fsyncSync(dir);
  } finally {
    closeSync(dir);
  }
}

/** The content of a file, or undefined when there is none. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

export function removeIfThere(path: string): void {
  rmSync(path, { force: true });
}

/**
 * The next sequence number of this boot, stored before it is used: a number that was signed is never
 * signed again, even after a crash.
 */
export function nextSequence(stateDir: string, bootId: string): number {
  const path = join(stateDir, 'sequence.json');
  const text = readIfThere(path);
  const last = text === undefined ? undefined : (JSON.parse(text) as { bootId: string; sequence: number });
  const sequence = last?.bootId === bootId ? last.sequence + 1 : 1;
  writeDurably(path, JSON.stringify({ bootId, sequence }));
  return sequence;
}
