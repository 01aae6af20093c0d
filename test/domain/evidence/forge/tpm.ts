import {
  constants,
  createDecipheriv,
  createHash,
  createHmac,
  type KeyObject,
  privateDecrypt,
  sign,
} from 'node:crypto';
import { keyPair } from './pki.ts';

export const akKeys = keyPair('P-256');
export const rsaKeys = keyPair('RSA');

export interface QuoteOptions {
  readonly magic?: number;
  readonly type?: number;
  readonly nonce?: Uint8Array;
  readonly bank?: number;
  readonly pcrs?: ReadonlyMap<number, Uint8Array>;
  readonly hash?: 'sha256' | 'sha384';
  readonly pcrDigest?: Uint8Array;
  readonly selections?: Buffer;
  readonly safe?: number;
}

export const pcrs = new Map([0, 4, 7, 12].map((index) => [index, Buffer.alloc(32, index + 1)]));
export const spki = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' });

/** JSON of PCR values, as a file. */
export function pcrJson(
  values: ReadonlyMap<number, Uint8Array> = pcrs,
  bank: string | null = 'sha256',
): Buffer {
  const named = Object.fromEntries(
    [...values].map(([index, value]) => [index, Buffer.from(value).toString('hex')]),
  );
  return Buffer.from(JSON.stringify(bank === null ? named : { [bank]: named }));
}

/** A TPMS_ATTEST over the values. */
export function makeAttest(options: QuoteOptions = {}): Buffer {
  const { nonce = Buffer.alloc(32, 0x6e), bank = 0x000b, pcrs: values = pcrs, hash = 'sha256' } = options;
  const bitmap = Buffer.alloc(3);
  for (const index of values.keys()) bitmap[index >> 3] = (bitmap[index >> 3] ?? 0) | (1 << (index & 7));
  const digest = createHash(hash);
  for (const [, value] of [...values].toSorted(([a], [b]) => a - b)) digest.update(value);
  return Buffer.concat([
    u32(options.magic ?? 0xff544347),
    u16(options.type ?? 0x8018),
    sized(Buffer.concat([u16(0x000b), Buffer.alloc(32, 0x51)])),
    sized(nonce),
    Buffer.alloc(8),
    u32(1),
    u32(0),
    Buffer.of(options.safe ?? 1),
    Buffer.alloc(8),
    options.selections ?? Buffer.concat([u32(1), selection(bank, bitmap)]),
    sized(options.pcrDigest ?? digest.digest()),
  ]);
}

export function selection(bank: number, bitmap: Uint8Array): Buffer {
  return Buffer.concat([u16(bank), Buffer.of(bitmap.length), bitmap]);
}

/** A TPMT_SIGNATURE. */
export function makeSignature(
  attest: Uint8Array,
  key: KeyObject = akKeys.privateKey,
  scheme: 'ecdsa' | 'rsassa' | 'rsapss' = 'ecdsa',
  hash: 'sha256' | 'sha384' = 'sha256',
): Buffer {
  const hashId = u16(hash === 'sha256' ? 0x000b : 0x000c);
  if (scheme === 'ecdsa') {
    const rs = sign(hash, attest, { key, dsaEncoding: 'ieee-p1363' });
    const half = rs.length / 2;
    // A TPM leaves out leading zeros.
    const number = (bytes: Buffer) => sized(bytes.subarray(bytes.findIndex((byte) => byte !== 0)));
    return Buffer.concat([u16(0x18), hashId, number(rs.subarray(0, half)), number(rs.subarray(half))]);
  }
  const padding = scheme === 'rsapss' ? constants.RSA_PKCS1_PSS_PADDING : constants.RSA_PKCS1_PADDING;
  return Buffer.concat([
    u16(scheme === 'rsapss' ? 0x16 : 0x14),
    hashId,
    sized(sign(hash, attest, { key, padding })),
  ]);
}

export const attestationAttributes = 0x00050072;

/** A TPMT_PUBLIC of an attestation key (or of whatever `attributes` say). */
export function makePublicArea(
  key: KeyObject = akKeys.publicKey,
  attributes = attestationAttributes,
): Buffer {
  const { kty, crv, x = '', y = '', n = '' } = key.export({ format: 'jwk' });
  const head = [u16(kty === 'RSA' ? 1 : 0x23), u16(0x000b), u32(attributes), sized(Buffer.alloc(0))];
  const none = u16(0x0010);
  const isDecrypting = (attributes & (1 << 17)) !== 0;
  const symmetric = isDecrypting ? Buffer.concat([u16(6), u16(128), u16(0x43)]) : none;
  const scheme = isDecrypting ? none : Buffer.concat([u16(kty === 'RSA' ? 0x14 : 0x18), u16(0x000b)]);
  if (kty === 'RSA') {
    return Buffer.concat([...head, symmetric, scheme, u16(2048), u32(0), sized(Buffer.from(n, 'base64url'))]);
  }
  const point = [x, y].map((text) => sized(Buffer.from(text, 'base64url')));
  return Buffer.concat([...head, symmetric, scheme, u16(crv === 'P-384' ? 4 : 3), none, ...point]);
}

/** The file of `tpm2_quote -o`. */
export function makeSerialized(values: ReadonlyMap<number, Uint8Array> = pcrs, bank = 0x000b): Buffer {
  const file = Buffer.alloc(132 + 4 + 532 * Math.ceil(values.size / 8));
  file.writeUInt32LE(1, 0);
  file.writeUInt16LE(bank, 4);
  file[6] = 3;
  for (const index of values.keys())
    file[7 + (index >> 3)] = (file[7 + (index >> 3)] ?? 0) | (1 << (index & 7));
  file.writeUInt32LE(Math.ceil(values.size / 8), 132);
  [...values]
    .toSorted(([a], [b]) => a - b)
    .forEach(([, value], position) => {
      const list = 136 + 532 * Math.floor(position / 8);
      file.writeUInt32LE((position % 8) + 1, list);
      const at = list + 4 + 66 * (position % 8);
      file.writeUInt16LE(value.length, at);
      Buffer.from(value).copy(file, at + 2);
    });
  return file;
}

export function sized(bytes: Uint8Array): Buffer {
  return Buffer.concat([u16(bytes.length), bytes]);
}

export function u16(value: number): Buffer {
  return Buffer.of(value >> 8, value & 0xff);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function kdfa(hash: string, key: Buffer, label: string, context: Uint8Array, bits: number): Buffer {
  const message = [u32(1), Buffer.from(`${label}\0`), context, u32(bits)];
  return createHmac(hash, key)
    .update(Buffer.concat(message))
    .digest()
    .subarray(0, bits / 8);
}

/** What TPM2_ActivateCredential does once it has the seed. */
export function openWithSeed(
  seed: Buffer,
  hash: 'sha256' | 'sha384',
  aesBits: number,
  name: Uint8Array,
  blob: Uint8Array,
): Buffer {
  const inner = Buffer.from(blob).subarray(2);
  const hmacLength = inner.readUInt16BE(0);
  const [hmac, identity] = [inner.subarray(2, 2 + hmacLength), inner.subarray(2 + hmacLength)];
  const hmacKey = kdfa(hash, seed, 'INTEGRITY', Buffer.alloc(0), 8 * hmacLength);
  if (!createHmac(hash, hmacKey).update(identity).update(name).digest().equals(hmac))
    throw new Error('TPM_RC_INTEGRITY');
  const decipher = createDecipheriv(
    `aes-${aesBits}-cfb`,
    kdfa(hash, seed, 'STORAGE', name, aesBits),
    Buffer.alloc(16),
  );
  return decipher.update(identity).subarray(2);
}

/** The seed that an RSA endorsement key decrypts. */
export function seedByRsa(encrypted: Uint8Array, privateKey: KeyObject = rsaKeys.privateKey): Buffer {
  const key = {
    key: privateKey,
    padding: constants.RSA_PKCS1_OAEP_PADDING,
    oaepHash: 'sha256',
    oaepLabel: Buffer.from('IDENTITY\0'),
  };
  return privateDecrypt(key, Buffer.from(encrypted).subarray(2));
}
