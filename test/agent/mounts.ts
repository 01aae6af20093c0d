import { spawnSync } from 'node:child_process';
import { describe } from '@jest/globals';
import { temporaryFolder } from './harness.ts';

const succeeds = (tool: string, ...args: string[]) => spawnSync(tool, args).status === 0;

/** A file system in memory under any name of a device; false where that is not allowed. */
export function mountTmpfs(at: string, options = 'size=64k', source = 'casemate-test'): boolean {
  return succeeds('mount', '-t', 'tmpfs', '-o', options, source, at);
}

/** The ext4 in a file. */
export function mountImage(file: string, at: string): boolean {
  return succeeds('mount', '-o', 'loop', file, at);
}

/** Everything that is mounted there, one over the other. */
export function unmount(at: string): void {
  while (succeeds('umount', at));
}

const tried = temporaryFolder();
const allowed = mountTmpfs(tried.path);
unmount(tried.path);
tried.remove();

export const describeWithMounts = (name: string, tests: () => void) =>
  (allowed ? describe : describe.skip)(`${name}${allowed ? '' : ' (skipped: not allowed to mount)'}`, tests);
