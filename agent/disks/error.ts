import type { Reason } from '../../lib/domain/reasons.ts';
import { REASONS } from '../../lib/domain/reasons.ts';

/** A disk could not be formatted, opened, mounted or rotated. `reason` says what to do; nothing was destroyed. */
export class DiskError extends Error {
  override readonly name = 'DiskError';
  readonly reason: Reason;
  constructor(reason: Reason, detail: string, options?: ErrorOptions) {
    super(`${reason}: ${detail}. ${REASONS[reason]}`, options);
    this.reason = reason;
  }
}
