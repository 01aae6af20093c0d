import { afterAll, beforeAll, describe, test } from '@jest/globals';
import * as fc from 'fast-check';
import { holds } from './histories/commands.ts';
import { withoutWaiting } from './histories/turns.ts';

const SEED = Number(process.env['SEED'] ?? 20261128);
const HISTORIES = Number(process.env['HISTORIES'] ?? 5_000);

describe('any history of VMs, with any faults', () => {
  let waitAgain: () => void;
  beforeAll(() => {
    waitAgain = withoutWaiting();
  });
  afterAll(() => waitAgain());

  test(`keeps every invariant of isolation, and one sweep puts everything right (${HISTORIES} histories)`, async () => {
    // The same histories each time: a check must not fail on what a change did not do. `npm run bench -- histories`
    // plays others.
    await fc.assert(holds(), { numRuns: HISTORIES, seed: SEED });
  }, 1_200_000);
});
