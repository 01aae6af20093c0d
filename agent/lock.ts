import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';

/** Another process of this machine has the lock. Retryable. */
export class LockedError extends Error {
  override readonly name = 'LockedError';
}

/** flock(1) exits so when another has the lock for as long as it waited. */
const CONFLICT = 75;

/**
 * Runs `work` while no other process of this machine has the lock file. flock(1) locks the open file description that
 * it inherits, so that the lock is this process's and goes with it, however it ends (flock(2)).
 *
 * @throws LockedError after `waitSeconds`
 */
export async function withLock<T>(path: string, waitSeconds: number, work: () => Promise<T>): Promise<T> {
  const fd = openSync(path, 'a', 0o600);
  try {
    const child = spawn('/usr/bin/flock', ['-w', String(waitSeconds), '-E', String(CONFLICT), '3'], {
      stdio: ['ignore', 'ignore', 'ignore', fd],
    });
    const [code] = (await once(child, 'close')) as [number | null];
    if (code === CONFLICT) throw new LockedError(`${path} is locked by another process`);
    if (code !== 0) throw new Error(`flock ended with ${code}`);
    return await work();
  } finally {
    closeSync(fd);
  }
}
