import { type Generation, matchGeneration } from './rollout.ts';
import type { Checklist } from './verdict.ts';

/** Notes whether the measured values are of a generation that counts. */
export function expectGeneration(
  generations: readonly Generation[],
  measured: Readonly<Record<string, Uint8Array>>,
  at: Date,
  checks: Checklist,
): void {
  const match = matchGeneration(generations, measured, at);
  const reason = {
    match: 'MEASUREMENT_UNKNOWN',
    unknown: 'MEASUREMENT_UNKNOWN',
    outdated: 'MEASUREMENT_OUTDATED',
    early: 'MEASUREMENT_EARLY',
  } as const;
  const detail = match.kind === 'unknown' ? undefined : match.generation;
  checks.expect('measurement', match.kind === 'match', reason[match.kind], detail);
}
