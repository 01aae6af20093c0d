import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto';

/**
 * The agent's key is ECDSA P-256: the curve that every TPM 2.0 has. Signatures are SHA-256,
 * R || S, 64 bytes (IEEE P1363).
 */
const DSA_ENCODING = 'ieee-p1363';

/**
 * What stands before the point in the SPKI of an uncompressed point on the named curve P-256 (RFC 5480
 * §2.1.1, §2.2). A compressed or hybrid point, and the curve spelt out as parameters, are further encodings
 * of the same key that OpenSSL reads and writes back unchanged: one key, one encoding, because a second one
 * would be a second identity.
 */
const P256_SPKI_PREFIX = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d03010703420004', 'hex');
const P256_SPKI_LENGTH = P256_SPKI_PREFIX.length + 64;

/** SPKI DER of an agent's key, or undefined when it is not exactly a P-256 public key. */
export function parseAgentPublicKey(spki: Uint8Array): KeyObject | undefined {
  const der = Buffer.from(spki);
  if (der.length !== P256_SPKI_LENGTH || !der.subarray(0, P256_SPKI_PREFIX.length).equals(P256_SPKI_PREFIX)) {
    return undefined;
  }
  try {
    return createPublicKey({ key: der, format: 'der', type: 'spki' });
  } catch {
    return undefined; // not a point on the curve
  }
}

export function signAsAgent(key: KeyObject, bytes: Uint8Array): Buffer {
  return sign('sha256', bytes, { key, dsaEncoding: DSA_ENCODING });
}

export function verifyAgentSignature(key: KeyObject, bytes: Uint8Array, signature: Uint8Array): boolean {
  return verify('sha256', bytes, { key, dsaEncoding: DSA_ENCODING }, signature);
}
