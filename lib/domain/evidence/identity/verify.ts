import { verify } from 'node:crypto';
import { equalBytes, sha256 } from '../bytes.ts';
import { type Certificate, parsePem, requireValidAt } from '../certificate.ts';
import { EvidenceError } from '../reasons.ts';
import type { ParsedIdentity } from './bytes.ts';

/** PEM certificates that may sign identity documents of a Region; more than one while AWS changes them. */
export type IdentityIssuers = ReadonlyMap<string, readonly string[]>;

const read = new WeakMap<readonly string[], readonly Certificate[]>();

/** Pinned certificates are read once: that is half of what a document costs. */
function certificatesOf(pinned: readonly string[]): readonly Certificate[] {
  const known = read.get(pinned);
  if (known) return known;
  const certificates = pinned.flatMap((pem) => parsePem(pem));
  read.set(pinned, certificates);
  return certificates;
}

/**
 * Whether the signer is the pinned certificate of the Region that the document itself names, and the
 * signature holds. The certificates are self-signed and long-lived, so being pinned is all their trust.
 */
export function verifyIdentitySignature(
  parsed: ParsedIdentity,
  issuers: IdentityIssuers,
  at?: Date,
): Certificate {
  const { region } = parsed.document;
  const pinned = issuers.get(region);
  if (!pinned || pinned.length === 0) throw new EvidenceError('IDENTITY_REGION_UNKNOWN', region);
  const certificate = certificatesOf(pinned).find(
    ({ issuer, serial }) =>
      equalBytes(issuer, parsed.signerIssuer) && equalBytes(serial, parsed.signerSerial),
  );
  if (!certificate) {
    throw new EvidenceError('IDENTITY_SIGNER_NOT_PINNED', `not the certificate of ${region}`);
  }
  if (at) requireValidAt(certificate, at);
  const key = certificate.publicKey;
  if (key.asymmetricKeyType !== 'rsa' || (key.asymmetricKeyDetails?.modulusLength ?? 0) < 2048) {
    throw new EvidenceError('IDENTITY_NOT_RSA2048', `${key.asymmetricKeyType} key of ${region}`);
  }
  if (!equalBytes(sha256(parsed.content), parsed.messageDigest)) {
    throw new EvidenceError(
      'IDENTITY_DIGEST_MISMATCH',
      'SHA-256 of the document differs from the signed one',
    );
  }
  if (!verify('sha256', parsed.signedAttributes, key, parsed.signature)) {
    throw new EvidenceError('IDENTITY_SIGNATURE_INVALID', `under the certificate of ${region}`);
  }
  return certificate;
}
