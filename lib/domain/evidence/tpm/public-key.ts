import { createPublicKey, type KeyObject } from 'node:crypto';
import { decodeBase64Lines, digest, equalBytes, requireSize } from '../bytes.ts';
import { createReader, type Reader } from '../reader.ts';
import { EvidenceError } from '../reasons.ts';
import { type HashName, hashes } from './algorithms.ts';

const maxKeyBytes = 4_096;
const algorithm = { rsa: 0x0001, null: 0x0010, ecc: 0x0023 } as const;
const curves: ReadonlyMap<number, { name: 'P-256' | 'P-384'; bytes: number }> = new Map([
  [0x0003, { name: 'P-256', bytes: 32 }],
  [0x0004, { name: 'P-384', bytes: 48 }],
]);
// TPMA_OBJECT (Part 2 §8.3.2).
const attribute = {
  fixedTpm: 1 << 1,
  fixedParent: 1 << 4,
  sensitiveDataOrigin: 1 << 5,
  restricted: 1 << 16,
  decrypt: 1 << 17,
  sign: 1 << 18,
};

/** The public area of a TPM key, or a bare public key that says nothing of the TPM. */
export interface TpmPublicKey {
  readonly key: KeyObject;
  /** From a TPMT_PUBLIC only. */
  readonly area:
    | {
        readonly nameAlgorithm: HashName;
        /** The Name: algorithm and digest of the public area (Part 1 §16). */
        readonly name: Uint8Array;
        /** May sign what the TPM itself made, and nothing else; cannot leave the TPM. */
        readonly isAttestationKey: boolean;
        /** Key bits of the AES-CFB that protects what the key decrypts; undefined for a signing key. */
        readonly symmetricBits: number | undefined;
      }
    | undefined;
}

/** Reads a TPMT_PUBLIC, a TPM2B_PUBLIC, or an SPKI in DER or PEM, of RSA from 2048 bits on, P-256 or P-384. */
export function parsePublicKey(bytes: Uint8Array): TpmPublicKey {
  requireSize(bytes, maxKeyBytes);
  const start = Buffer.from(bytes.subarray(0, 11)).toString('latin1');
  if (start.startsWith('-----BEGIN')) return bare(fromPem(Buffer.from(bytes).toString('latin1')));
  if (bytes[0] === 0x30) return bare(bytes);
  return parsePublicArea(withoutLength(bytes));
}

/** SPKI in the one encoding that OpenSSL writes: it reads others too, and passes over what follows the key. */
function bare(spki: Uint8Array): TpmPublicKey {
  const key = requireStrong(readKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }));
  if (!equalBytes(key.export({ format: 'der', type: 'spki' }), spki)) throw odd('not one SPKI in DER');
  return { key, area: undefined };
}

/** One PEM block and nothing else (RFC 7468). */
function fromPem(pem: string): Uint8Array {
  const block =
    /^-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END PUBLIC KEY-----(?:\r?\n)?$/.exec(
      pem,
    );
  if (!block?.[1]) throw odd('not one PEM block of a public key alone');
  return decodeBase64Lines(block[1]);
}

/** TPMT_PUBLIC (Part 2 §12.2.4). */
function parsePublicArea(bytes: Uint8Array): TpmPublicKey {
  const reader = createReader(bytes, 'big', 'TPM_KEY_MALFORMED');
  const type = reader.uint(2);
  const nameAlgorithm = hashes.get(reader.uint(2))?.name;
  if (!nameAlgorithm) throw odd('name algorithm');
  const attributes = reader.uint(4);
  reader.bytes(reader.uint(2)); // authPolicy
  const symmetricBits = parseSymmetric(reader);
  const schemeId = reader.uint(2);
  if (schemeId !== algorithm.null) reader.uint(2); // the scheme's hash
  let key: KeyObject;
  if (type === algorithm.rsa) {
    const bits = reader.uint(2);
    const exponent = reader.uint(4) || 65_537;
    const n = reader.bytes(reader.uint(2));
    if (bits !== 8 * n.length) throw odd('key bits');
    key = readJwk({ kty: 'RSA', n: url(n), e: url(unpadded(exponent)) });
  } else if (type === algorithm.ecc) {
    const curve = curves.get(reader.uint(2));
    if (reader.uint(2) !== algorithm.null) reader.uint(2); // key derivation function
    if (!curve) throw new EvidenceError('TPM_KEY_WEAK', 'curve');
    const x = padded(reader.bytes(reader.uint(2)), curve.bytes);
    const y = padded(reader.bytes(reader.uint(2)), curve.bytes);
    key = readJwk({ kty: 'EC', crv: curve.name, x: url(x), y: url(y) });
  } else throw odd(`key type 0x${type.toString(16)}`);
  reader.end();
  const wanted =
    attribute.fixedTpm |
    attribute.fixedParent |
    attribute.sensitiveDataOrigin |
    attribute.restricted |
    attribute.sign;
  return {
    key: requireStrong(key),
    area: {
      nameAlgorithm,
      name: nameOf(nameAlgorithm, bytes),
      isAttestationKey: (attributes & wanted) === wanted && (attributes & attribute.decrypt) === 0,
      symmetricBits,
    },
  };
}

function parseSymmetric(reader: Reader): number | undefined {
  if (reader.uint(2) === algorithm.null) return undefined;
  const bits = reader.uint(2);
  reader.uint(2); // mode
  return bits;
}

function nameOf(hash: HashName, publicArea: Uint8Array): Uint8Array {
  const id = [...hashes].find(([, { name }]) => name === hash)?.[0] ?? 0;
  return Buffer.concat([Uint8Array.of(id >> 8, id & 0xff), digest(hash, publicArea)]);
}

/** Whether `bytes` spell this key: SPKI in DER, or for a curve the uncompressed point (SEC 1 §2.3.3). */
export function isSameKey(key: KeyObject, bytes: Uint8Array): boolean {
  const spki = key.export({ format: 'der', type: 'spki' });
  if (equalBytes(spki, bytes)) return true;
  const { crv, x, y } = key.asymmetricKeyType === 'ec' ? key.export({ format: 'jwk' }) : {};
  if (!crv || !x || !y) return false;
  return equalBytes(
    Buffer.concat([Uint8Array.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')]),
    bytes,
  );
}

function requireStrong(key: KeyObject): KeyObject {
  const { modulusLength = 0, publicExponent = 0n, namedCurve = '' } = key.asymmetricKeyDetails ?? {};
  const isStrong =
    key.asymmetricKeyType === 'rsa'
      ? modulusLength >= 2048 && publicExponent >= 65_537n && publicExponent % 2n === 1n
      : key.asymmetricKeyType === 'ec' && ['prime256v1', 'secp384r1'].includes(namedCurve);
  if (!isStrong)
    throw new EvidenceError('TPM_KEY_WEAK', `${key.asymmetricKeyType} ${modulusLength || namedCurve}`);
  return key;
}

function readJwk(key: Record<string, string>): KeyObject {
  return readKey({ key, format: 'jwk' });
}

function readKey(input: Parameters<typeof createPublicKey>[0]): KeyObject {
  try {
    return createPublicKey(input);
  } catch (cause) {
    throw odd('OpenSSL does not read it', cause);
  }
}

function withoutLength(bytes: Uint8Array): Uint8Array {
  const length = ((bytes[0] ?? 0) << 8) | (bytes[1] ?? 0);
  return length === bytes.length - 2 ? bytes.subarray(2) : bytes;
}

function unpadded(value: number): Uint8Array {
  return Buffer.from(
    value
      .toString(16)
      .padStart(8, '0')
      .replace(/^(?:00)+/, ''),
    'hex',
  );
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length > length) throw odd('a coordinate is too long');
  return Buffer.concat([new Uint8Array(length - bytes.length), bytes]);
}

function url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64url');
}

function odd(detail: string, cause?: unknown): EvidenceError {
  return new EvidenceError('TPM_KEY_MALFORMED', detail, { cause });
}
