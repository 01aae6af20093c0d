import { existsSync, readFileSync } from 'node:fs';
import { test } from '@jest/globals';

const folder = '../shared/vectors';
const isHere = existsSync(folder);

/** Recorded evidence is not part of the project; where it is missing, its tests say that they were skipped. */
export function recorded(name: string, run: () => void | Promise<void>): void {
  if (isHere) test(name, run);
  else test.skip(`skipped: no ${folder} here: ${name}`, run);
}

export function vector(path: string): Buffer {
  return readFileSync(`${folder}/${path}`);
}

export function vectorJson<T>(path: string): T {
  return JSON.parse(vector(path).toString('utf8')) as T;
}
