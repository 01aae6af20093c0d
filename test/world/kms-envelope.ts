import { constants, createCipheriv, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto';

/** One element with a definite length (X.690 §8.1.3). */
export function element(identifier: number, ...content: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  const { length } = body;
  const size =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([identifier, ...size]), body]);
}

/** One constructed element with an indefinite length (X.690 §8.1.3.6). */
export function openEnded(identifier: number, ...content: readonly Uint8Array[]): Buffer {
  return Buffer.concat([Buffer.from([identifier, 0x80]), ...content, Buffer.from([0, 0])]);
}

/** OBJECT IDENTIFIERs, as they stand in an envelope. */
const OID = {
  data: '06092a864886f70d010701',
  envelopedData: '06092a864886f70d010703',
  rsaesOaep: '06092a864886f70d010107',
  mgf1: '06092a864886f70d010108',
  sha256: '0609608648016503040201',
  aes256Cbc: '060960864801650304012a',
} as const;
export const oid = (name: keyof typeof OID) => Buffer.from(OID[name], 'hex');

/** What a test makes of an envelope; by itself it is KMS's, as recorded ones are. */
export interface EnvelopeParts {
  readonly contentKey?: Buffer;
  readonly encryptedKey?: Buffer;
  readonly version?: Buffer;
  readonly recipientVersion?: Buffer;
  readonly keyIdentifier?: Buffer;
  readonly keyAlgorithm?: Buffer;
  readonly moreRecipients?: Buffer;
  readonly contentType?: Buffer;
  readonly cipher?: Buffer;
  readonly iv?: Buffer;
  /** Whole element, from what is encrypted. */
  readonly content?: (encrypted: Buffer) => Buffer;
  readonly attributes?: Buffer;
  readonly padding?: boolean;
}

/** AlgorithmIdentifier of RSAES-OAEP. */
export function oaep(
  hash: Uint8Array = oid('sha256'),
  maskHash: Uint8Array = oid('sha256'),
  ...more: readonly Uint8Array[]
): Buffer {
  const nothing = element(0x05);
  return element(
    0x30,
    oid('rsaesOaep'),
    element(
      0x30,
      element(0xa0, element(0x30, hash, nothing)),
      element(0xa1, element(0x30, oid('mgf1'), element(0x30, maskHash, nothing))),
      ...more,
    ),
  );
}

/**
 * `CiphertextForRecipient` as KMS makes it: CMS EnvelopedData in BER, RSAES-OAEP with SHA-256, AES-256-CBC. Written
 * byte by byte from the recorded ones; shares nothing with what reads it.
 *
 * @param publicKey SPKI DER
 */
export function sealForRecipient(
  publicKey: Uint8Array,
  plaintext: Uint8Array,
  parts: EnvelopeParts = {},
): Buffer {
  const contentKey = parts.contentKey ?? randomBytes(32);
  const iv = parts.iv ?? randomBytes(16);
  const cipher = createCipheriv(contentKey.length === 32 ? 'aes-256-cbc' : 'aes-128-cbc', contentKey, iv);
  cipher.setAutoPadding(parts.padding ?? true);
  const encrypted = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  const encryptedKey =
    parts.encryptedKey ??
    publicEncrypt(
      {
        key: createPublicKey({ key: Buffer.from(publicKey), format: 'der', type: 'spki' }),
        padding: constants.RSA_PKCS1_OAEP_PADDING,
        oaepHash: 'sha256',
      },
      contentKey,
    );
  const two = element(0x02, Buffer.of(2));
  const recipient = element(
    0x30,
    parts.recipientVersion ?? two,
    parts.keyIdentifier ?? element(0x80, randomBytes(32)),
    parts.keyAlgorithm ?? oaep(),
    element(0x04, encryptedKey),
  );
  const content = parts.content ?? ((bytes) => openEnded(0xa0, element(0x04, bytes)));
  return openEnded(
    0x30,
    oid('envelopedData'),
    openEnded(
      0xa0,
      openEnded(
        0x30,
        parts.version ?? two,
        element(0x31, recipient, parts.moreRecipients ?? Buffer.of()),
        openEnded(
          0x30,
          parts.contentType ?? oid('data'),
          element(0x30, parts.cipher ?? oid('aes256Cbc'), element(0x04, iv)),
          content(encrypted),
        ),
        parts.attributes ?? Buffer.of(),
      ),
    ),
  );
}
