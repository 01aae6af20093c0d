import {
  type Asn1Node,
  contents,
  decodeAsn1,
  elements,
  identifier,
  objectIdentifier,
  smallInteger,
  tag,
} from './evidence/asn1.ts';

/** The bytes are not an envelope as KMS writes them. Not retryable as they are. */
export class EnvelopeError extends Error {
  override readonly name = 'EnvelopeError';
}

/** What stands in an envelope; nothing of it is decrypted yet. */
export interface RecipientEnvelope {
  /** The content key, RSAES-OAEP with SHA-256 and MGF1-SHA-256, for RSA-2048. */
  readonly encryptedKey: Uint8Array;
  readonly iv: Uint8Array;
  /** AES-256-CBC, padded to whole blocks (PKCS #7). */
  readonly encryptedContent: Uint8Array;
}

const oid = {
  data: '1.2.840.113549.1.7.1',
  envelopedData: '1.2.840.113549.1.7.3',
  rsaesOaep: '1.2.840.113549.1.1.7',
  mgf1: '1.2.840.113549.1.1.8',
  sha256: '2.16.840.1.101.3.4.2.1',
  aes256Cbc: '2.16.840.1.101.3.4.1.42',
} as const;

/** [0] IMPLICIT of a primitive: the key identifier, and the content where KMS writes it in one piece. */
const primitive0 = 0x80;

const RSA_2048_BYTES = 256;
const BLOCK_BYTES = 16;
/** A wrapped disk key makes some 500 bytes; the answer to a release has room for no more than this. */
const MAX_BYTES = 12_288;

/**
 * Reads `CiphertextForRecipient`: CMS EnvelopedData (RFC 5652 §6) for one recipient, in BER with the indefinite lengths
 * that KMS writes, and in nothing but the algorithms that it documents: RSAES-OAEP with SHA-256 (RFC 4055 §4.1) around
 * an AES-256-CBC key (RFC 3565). The recipient's key identifier is KMS's own and says nothing that opening does not.
 *
 * @throws EnvelopeError for anything else, bytes behind it among them
 */
export function parseRecipientEnvelope(bytes: Uint8Array): RecipientEnvelope {
  try {
    return parse(bytes);
  } catch (cause) {
    if (cause instanceof EnvelopeError) throw cause;
    throw new EnvelopeError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function parse(bytes: Uint8Array): RecipientEnvelope {
  if (bytes.length > MAX_BYTES) throw new EnvelopeError(`${bytes.length} bytes are too many`);
  const [contentType, wrapper, ...afterWrapper] = elements(decodeAsn1(bytes, 'ber'), tag.sequence);
  requireOid(contentType, oid.envelopedData);
  const [envelopedData, ...afterEnveloped] = elements(wrapper, tag.context0);
  // Neither originator information nor unprotected attributes: KMS writes none.
  const [version, recipients, contentInfo, ...afterContent] = elements(envelopedData, tag.sequence);
  requireVersionTwo(version);
  const [recipient, ...moreRecipients] = elements(recipients, tag.set);
  const [recipientVersion, keyIdentifier, keyAlgorithm, encryptedKey, ...afterKey] = elements(
    recipient,
    tag.sequence,
  );
  requireVersionTwo(recipientVersion);
  contents(keyIdentifier, primitive0);
  requireOaep(keyAlgorithm);
  const [dataType, contentAlgorithm, content, ...afterData] = elements(contentInfo, tag.sequence);
  requireOid(dataType, oid.data);
  const [cipher, iv, ...afterIv] = elements(contentAlgorithm, tag.sequence);
  requireOid(cipher, oid.aes256Cbc);
  requireNone(afterWrapper, afterEnveloped, afterContent, moreRecipients, afterKey, afterData, afterIv);
  return {
    encryptedKey: requireLength(contents(encryptedKey, tag.octetString), RSA_2048_BYTES, 'encrypted key'),
    iv: requireLength(contents(iv, tag.octetString), BLOCK_BYTES, 'initialisation vector'),
    encryptedContent: wholeBlocks(octets(content)),
  };
}

/** RSAES-OAEP-params with both hashes named: what is left out would mean SHA-1 (RFC 4055 §4.1). */
function requireOaep(node: Asn1Node | undefined): void {
  const [algorithm, parameters, ...more] = elements(node, tag.sequence);
  requireOid(algorithm, oid.rsaesOaep);
  const [hash, mask, ...afterMask] = elements(parameters, tag.sequence);
  const [hashAlgorithm, ...moreHashes] = elements(hash, tag.context0);
  requireSha256(hashAlgorithm);
  const [maskAlgorithm, ...moreMasks] = elements(mask, tag.context1);
  const [mgf, maskHash, ...afterMaskHash] = elements(maskAlgorithm, tag.sequence);
  requireOid(mgf, oid.mgf1);
  requireSha256(maskHash);
  // A label (pSource) would be an element behind the mask.
  requireNone(more, afterMask, moreHashes, moreMasks, afterMaskHash);
}

function requireSha256(node: Asn1Node | undefined): void {
  const [algorithm, parameters, ...more] = elements(node, tag.sequence);
  requireOid(algorithm, oid.sha256);
  if (parameters && contents(parameters, tag.null).length > 0) throw new EnvelopeError('a NULL with content');
  requireNone(more);
}

/** [0] IMPLICIT OCTET STRING, in one piece or, as BER may, in several. */
function octets(node: Asn1Node | undefined): Uint8Array {
  if (identifier(node) === primitive0) return contents(node, primitive0);
  return Buffer.concat(elements(node, tag.context0).map((segment) => contents(segment, tag.octetString)));
}

function wholeBlocks(content: Uint8Array): Uint8Array {
  if (content.length === 0 || content.length % BLOCK_BYTES !== 0) {
    throw new EnvelopeError(`${content.length} bytes of content are not whole blocks`);
  }
  return content;
}

function requireLength(bytes: Uint8Array, length: number, what: string): Uint8Array {
  if (bytes.length !== length) throw new EnvelopeError(`${what} of ${bytes.length} bytes, not ${length}`);
  return bytes;
}

function requireOid(node: Asn1Node | undefined, expected: string): void {
  const seen = objectIdentifier(node);
  if (seen !== expected) throw new EnvelopeError(`${expected} expected, ${seen} found`);
}

/** Both are 2 because the recipient is named by a key identifier (RFC 5652 §6.1, §6.2.1). */
function requireVersionTwo(node: Asn1Node | undefined): void {
  if (smallInteger(node) !== 2) throw new EnvelopeError('CMS version is not 2');
}

function requireNone(...rests: readonly (readonly Asn1Node[])[]): void {
  if (rests.some((rest) => rest.length > 0)) throw new EnvelopeError('an element that KMS does not write');
}
