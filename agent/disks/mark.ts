import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { removeIfThere, writeDurably } from '../state.ts';

/**
 * What this agent began on a disk and has not ended, by a file of root's on this machine: written before the first
 * step, removed after the last. Unlike anything on the volume, it can be believed.
 */
export type Work = 'formatting' | 'rotating' | 'reencrypting' | 'backing-up';

const pathOf = (stateDir: string, disk: string, work: Work) => join(stateDir, 'disks', `${disk}.${work}`);

export function isUnderWay(stateDir: string, disk: string, work: Work): boolean {
  return existsSync(pathOf(stateDir, disk, work));
}

export function begin(stateDir: string, disk: string, work: Work): void {
  mkdirSync(join(stateDir, 'disks'), { recursive: true, mode: 0o700 });
  writeDurably(pathOf(stateDir, disk, work), '');
}

export function end(stateDir: string, disk: string, work: Work): void {
  removeIfThere(pathOf(stateDir, disk, work));
}
