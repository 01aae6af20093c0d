import { existsSync, readFileSync } from 'node:fs';

const folder = '../shared/vectors';

/** Recorded evidence is not part of the project. */
export const vectorsAreHere = existsSync(folder);

export function vector(path: string): Buffer {
  return readFileSync(`${folder}/${path}`);
}

export function vectorJson<T>(path: string): T {
  return JSON.parse(vector(path).toString('utf8')) as T;
}
