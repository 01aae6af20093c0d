import {
  constants,
  createCipheriv,
  createHash,
  createHmac,
  diffieHellman,
  generateKeyPairSync,
  type KeyObject,
  publicEncrypt,
} from 'node:crypto';
import { EvidenceError } from '../reasons.ts';
import type { HashName } from './algorithms.ts';
import type { TpmPublicKey } from './public-key.ts';

/** What TPM2_ActivateCredential takes: only the TPM that holds both keys opens it. */
export interface Credential {
  /** TPM2B_ID_OBJECT. */
  readonly credentialBlob: Uint8Array;
  /** TPM2B_ENCRYPTED_SECRET. */
  readonly encryptedSecret: Uint8Array;
}

/** Randomness of one credential; lib/domain makes none itself. */
export interface CredentialRandomness {
  /** As many bytes as the digest of the endorsement key's name algorithm. */
  readonly seed: Uint8Array;
  /** A fresh key on the endorsement key's curve, for an endorsement key that has one. */
  readonly ephemeral?: { readonly privateKey: KeyObject; readonly publicKey: KeyObject } | undefined;
}

const digestBytes = { sha256: 32, sha384: 48, sha512: 64 } as const;

/** Protection of a given endorsement key: its public area says it, else the TCG's default template for its kind. */
function protectionOf({ key, area }: TpmPublicKey): { hash: HashName; symmetricBits: number } {
  if (area?.symmetricBits) return { hash: area.nameAlgorithm, symmetricBits: area.symmetricBits };
  // TCG EK Credential Profile 2.5, templates L-1, L-2 (RSA-2048, P-256) and H-3 (P-384).
  return key.asymmetricKeyDetails?.namedCurve === 'secp384r1'
    ? { hash: 'sha384', symmetricBits: 256 }
    : { hash: 'sha256', symmetricBits: 128 };
}

/** How many bytes of seed an endorsement key needs. */
export function seedBytes(ek: TpmPublicKey): number {
  return digestBytes[protectionOf(ek).hash];
}

/** A fresh ephemeral key for an endorsement key on a curve, none for RSA. Not pure: call it in the shell. */
export function ephemeralKeyFor(ek: TpmPublicKey): CredentialRandomness['ephemeral'] {
  const namedCurve = ek.key.asymmetricKeyDetails?.namedCurve;
  return namedCurve === undefined ? undefined : generateKeyPairSync('ec', { namedCurve });
}

/**
 * TPM2_MakeCredential (TPM 2.0 Part 1 §24, Part 3 §12.6) without a TPM: encrypts `secret` so that only the TPM with
 * this endorsement key can open it, and only while it holds the key with this Name. An attestation key of
 * another TPM, self-made ones included, cannot answer it.
 */
export function makeCredential(
  ek: TpmPublicKey,
  akName: Uint8Array,
  secret: Uint8Array,
  random: CredentialRandomness,
): Credential {
  const { hash, symmetricBits } = protectionOf(ek);
  if (secret.length > digestBytes[hash] || secret.length === 0) {
    throw new RangeError(`a credential holds 1 to ${digestBytes[hash]} bytes`);
  }
  const { seed, encryptedSecret } = protectSeed(ek.key, hash, random);
  const cipherKey = kdfa(hash, seed, 'STORAGE', akName, symmetricBits);
  const cipher = createCipheriv(`aes-${symmetricBits}-cfb`, cipherKey, new Uint8Array(16));
  const identity = Buffer.concat([cipher.update(tpm2b(secret)), cipher.final()]);
  const hmacKey = kdfa(hash, seed, 'INTEGRITY', new Uint8Array(), 8 * digestBytes[hash]);
  const integrity = createHmac(hash, hmacKey).update(identity).update(akName).digest();
  return {
    credentialBlob: tpm2b(Buffer.concat([tpm2b(integrity), identity])),
    encryptedSecret: tpm2b(encryptedSecret),
  };
}

/** The file that `tpm2_activatecredential -i` reads (tpm2-tools lib/files.c: magic, version 1). */
export function credentialFile({ credentialBlob, encryptedSecret }: Credential): Uint8Array {
  return Buffer.concat([Buffer.from('badcc0de00000001', 'hex'), credentialBlob, encryptedSecret]);
}

function protectSeed(
  key: KeyObject,
  hash: HashName,
  { seed, ephemeral }: CredentialRandomness,
): { seed: Uint8Array; encryptedSecret: Uint8Array } {
  if (key.asymmetricKeyType === 'rsa') {
    if (seed.length !== digestBytes[hash]) throw new RangeError(`the seed has ${digestBytes[hash]} bytes`);
    // Part 1 §B.10.3: OAEP with the label and its terminating zero.
    const oaepLabel = Buffer.from('IDENTITY\0');
    const padding = constants.RSA_PKCS1_OAEP_PADDING;
    return { seed, encryptedSecret: publicEncrypt({ key, padding, oaepHash: hash, oaepLabel }, seed) };
  }
  if (!ephemeral)
    throw new EvidenceError('TPM_KEY_WEAK', 'no ephemeral key for an endorsement key on a curve');
  // Part 1 §C.6.3: one-pass Diffie-Hellman, then KDFe over both x coordinates.
  const shared = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: key });
  const mine = coordinates(ephemeral.publicKey);
  const derived = kdfe(hash, shared, mine.x, coordinates(key).x);
  return { seed: derived, encryptedSecret: Buffer.concat([tpm2b(mine.x), tpm2b(mine.y)]) };
}

/** KDFa (Part 1 §11.4.10.2): SP 800-108 in counter mode; `contextV` is empty everywhere here. */
function kdfa(hash: HashName, key: Uint8Array, label: string, contextU: Uint8Array, bits: number): Buffer {
  const blocks = Math.ceil(bits / 8 / digestBytes[hash]);
  const output = Array.from({ length: blocks }, (_, index) =>
    createHmac(hash, key)
      .update(uint32(index + 1))
      .update(`${label}\0`)
      .update(contextU)
      .update(uint32(bits))
      .digest(),
  );
  return Buffer.concat(output).subarray(0, bits / 8);
}

/** KDFe (Part 1 §11.4.10.3): SP 800-56A; one block, since as many bits as the digest are wanted. */
function kdfe(hash: HashName, shared: Uint8Array, partyU: Uint8Array, partyV: Uint8Array): Buffer {
  return createHash(hash)
    .update(uint32(1))
    .update(shared)
    .update('IDENTITY\0')
    .update(partyU)
    .update(partyV)
    .digest();
}

function coordinates(key: KeyObject): { x: Buffer; y: Buffer } {
  const { x = '', y = '' } = key.export({ format: 'jwk' });
  return { x: Buffer.from(x, 'base64url'), y: Buffer.from(y, 'base64url') };
}

function tpm2b(bytes: Uint8Array): Buffer {
  return Buffer.concat([Uint8Array.of(bytes.length >> 8, bytes.length & 0xff), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
