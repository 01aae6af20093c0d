import { test } from '@jest/globals';
import { vectorsAreHere } from './vector-files.ts';

export { vector, vectorJson } from './vector-files.ts';

/** Where recorded evidence is missing, its tests say that they were skipped. */
export function recorded(name: string, run: () => void | Promise<void>): void {
  if (vectorsAreHere) test(name, run);
  else test.skip(`skipped: no ../shared/vectors here: ${name}`, run);
}
