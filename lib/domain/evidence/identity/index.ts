import type { ReasonCode } from '../reasons.ts';
import { judge, trustOf, type Verdict } from '../verdict.ts';
import { type IdentityDocument, parseIdentity } from './bytes.ts';
import { type IdentityPolicy, judgeIdentity } from './policy.ts';
import { type IdentityIssuers, verifyIdentitySignature } from './verify.ts';

export type { IdentityDocument } from './bytes.ts';
export type { IdentityPolicy } from './policy.ts';
export type { IdentityIssuers } from './verify.ts';

export interface IdentityOptions extends IdentityPolicy {
  readonly issuers: IdentityIssuers;
  /** The time at which the issuer's certificate must be valid; left out, its validity is not looked at. */
  readonly at?: Date | undefined;
}

/** Verifies an identity document like any other evidence. */
export function verifyIdentity(pkcs7Base64: string, options: IdentityOptions): Verdict<IdentityDocument> {
  return judge({
    format: 'identity',
    parse: () => parseIdentity(pkcs7Base64),
    verify: (parsed, checks) => {
      const certificate = verifyIdentitySignature(parsed, options.issuers, options.at);
      checks.demand('signed by the pinned certificate of its Region', true, 'IDENTITY_SIGNATURE_INVALID');
      return trustOf([certificate]);
    },
    signedBytes: ({ content }) => content,
    claims: ({ document }) => document,
    policy: ({ document }, checks) => judgeIdentity(document, options, checks),
  });
}

export type IdentityVerdict =
  | { readonly ok: true; readonly document: IdentityDocument }
  | { readonly ok: false; readonly reason: ReasonCode; readonly detail: string };

/**
 * Verifies an EC2 instance identity document in its `rsa2048` form (base64 lines of a CMS SignedData).
 * The document inside the signature is the answer; a copy sent beside it proves nothing.
 */
export function verifyIdentityDocument(pkcs7Base64: string, options: IdentityOptions): IdentityVerdict {
  const { accepted, claims, checks } = verifyIdentity(pkcs7Base64, options);
  if (accepted && claims) return { ok: true, document: claims };
  const failed = checks.find(({ outcome }) => outcome === 'fail');
  // Not accepted without a failed check would be a bug of `judge`; it must not become an acceptance.
  return { ok: false, reason: failed?.reason ?? 'IDENTITY_MALFORMED', detail: failed?.detail ?? 'no reason' };
}
