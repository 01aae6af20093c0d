import { REASONS, type Reason } from '../../lib/domain/reasons.ts';

/** An image was not copied, or not rightly. Not retryable as it is: the reason says what to do. */
export class IngestError extends Error {
  override readonly name = 'IngestError';
  readonly reason: Reason;
  constructor(reason: Reason, detail: string, options?: ErrorOptions) {
    super(`${reason}: ${detail}. ${REASONS[reason]}`, options);
    this.reason = reason;
  }
}
