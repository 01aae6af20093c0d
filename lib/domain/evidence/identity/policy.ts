import { EvidenceError } from '../reasons.ts';
import type { IdentityDocument } from './bytes.ts';

/** Whom the document must name; what is left out is not asked for. */
export interface IdentityPolicy {
  readonly region?: string | undefined;
  readonly instanceId?: string | undefined;
  readonly accountId?: string | undefined;
}

/**
 * A genuine document is a bearer token of whichever VM it names: it carries no nonce and does not expire
 * (PROTOCOL.md, what evidence proves), so the caller says whom it expects.
 */
export function requireIdentity(document: IdentityDocument, policy: IdentityPolicy): void {
  if (policy.region !== undefined && document.region !== policy.region) {
    throw new EvidenceError('IDENTITY_REGION_MISMATCH', `${document.region}, expected ${policy.region}`);
  }
  if (policy.accountId !== undefined && document.accountId !== policy.accountId) {
    throw new EvidenceError(
      'IDENTITY_ACCOUNT_MISMATCH',
      `${document.accountId}, expected ${policy.accountId}`,
    );
  }
  if (policy.instanceId !== undefined && document.instanceId !== policy.instanceId) {
    throw new EvidenceError(
      'IDENTITY_INSTANCE_MISMATCH',
      `${document.instanceId}, expected ${policy.instanceId}`,
    );
  }
}
