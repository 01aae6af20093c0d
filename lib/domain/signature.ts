import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto';

/**
 * The agent's key is ECDSA P-256: the curve that every TPM 2.0 has. Signatures are SHA-256,
 * R || S, 64 bytes (IEEE P1363).
 */
const DSA_ENCODING = 'ieee-p1363';

/** SPKI DER of an agent's key, or undefined when it is not exactly a P-256 public key. */
export function parseAgentPublicKey(spki: Uint8Array): KeyObject | undefined {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  } catch {
    // The only question is whether the bytes are such a key: anything that does not parse is not.
    return undefined;
  }
  if (key.asymmetricKeyType !== 'ec' || key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    return undefined;
  // One key, one encoding: a second encoding of the same key would be a second identity.
  return key.export({ format: 'der', type: 'spki' }).equals(Buffer.from(spki)) ? key : undefined;
}

export function signAsAgent(key: KeyObject, bytes: Uint8Array): Buffer {
  return sign('sha256', bytes, { key, dsaEncoding: DSA_ENCODING });
}

export function verifyAgentSignature(key: KeyObject, bytes: Uint8Array, signature: Uint8Array): boolean {
  return verify('sha256', bytes, { key, dsaEncoding: DSA_ENCODING }, signature);
}
