import { EvidenceError, type ReasonCode } from '../reasons.ts';
import { type IdentityDocument, parseIdentity } from './bytes.ts';
import { type IdentityPolicy, requireIdentity } from './policy.ts';
import { type IdentityIssuers, verifyIdentitySignature } from './verify.ts';

export type { IdentityDocument } from './bytes.ts';
export type { IdentityIssuers } from './verify.ts';

export interface IdentityOptions extends IdentityPolicy {
  readonly issuers: IdentityIssuers;
  /** The time at which the issuer's certificate must be valid; left out, its validity is not looked at. */
  readonly at?: Date | undefined;
}

export type IdentityVerdict =
  | { readonly ok: true; readonly document: IdentityDocument }
  | { readonly ok: false; readonly reason: ReasonCode; readonly detail: string };

/**
 * Verifies an EC2 instance identity document in its `rsa2048` form (base64 lines of a CMS SignedData).
 * The document inside the signature is the answer; a copy sent beside it proves nothing.
 */
export function verifyIdentityDocument(pkcs7Base64: string, options: IdentityOptions): IdentityVerdict {
  try {
    const parsed = parseIdentity(pkcs7Base64);
    verifyIdentitySignature(parsed, options.issuers, options.at);
    requireIdentity(parsed.document, options);
    return { ok: true, document: parsed.document };
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    return { ok: false, reason: error.code, detail: error.detail };
  }
}
