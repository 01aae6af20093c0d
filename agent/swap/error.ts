import { REASONS, type Reason } from '../../lib/domain/reasons.ts';

/** A swap area was not encrypted. Retryable where the reason is `SWAP_FAILED`: what was done so far is gone on with. */
export class SwapError extends Error {
  override readonly name = 'SwapError';
  readonly reason: Reason;
  constructor(reason: Reason, detail: string, options?: ErrorOptions) {
    super(`${reason}: ${detail}. ${REASONS[reason]}`, options);
    this.reason = reason;
  }
}
