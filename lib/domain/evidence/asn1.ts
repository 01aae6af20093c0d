import * as asn1js from 'asn1js';
import { hex } from './bytes.ts';
import { EvidenceError, type ReasonCode } from './reasons.ts';

export type Asn1Node = asn1js.AsnType;

// Genuine certificates and CMS messages stay below 200 elements and 12 levels.
const limits = { maxDepth: 24, maxNodes: 1_000, maxContentLength: 1_048_576, parseEmbedded: false };

/**
 * Reads one ASN.1 value that fills `bytes` exactly. `der` also demands definite lengths; `ber` admits
 * indefinite ones, which EC2 and KMS write. Both demand minimal lengths, and that writing the value again
 * gives the same bytes: asn1js is lenient, and bytes that nobody reads are bytes that anybody can change.
 */
export function decodeAsn1(bytes: Uint8Array, encoding: 'der' | 'ber', maxNodes = limits.maxNodes): Asn1Node {
  requireShortIdentifiers(bytes);
  const { offset, result } = tryTo('ASN1_MALFORMED', () => asn1js.fromBER(bytes, { ...limits, maxNodes }));
  if (offset === -1) {
    const code = result.error.startsWith('Maximum ASN.1') ? 'ASN1_TOO_COMPLEX' : 'ASN1_MALFORMED';
    throw new EvidenceError(code, result.error || 'not ASN.1');
  }
  if (offset !== bytes.length) {
    throw new EvidenceError('ASN1_MALFORMED', `${bytes.length - offset} bytes after the value`);
  }
  requireStrict(result, encoding);
  const again = tryTo('ASN1_NOT_CANONICAL', () => result.toBER());
  if (Buffer.compare(Buffer.from(again), bytes) !== 0) {
    throw new EvidenceError('ASN1_NOT_CANONICAL', 'written again it gives other bytes');
  }
  return result;
}

/** Identifier octets that we meet; all tags of interest fit one octet (X.690 §8.1.2). */
export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
  context1: 0xa1,
  context3: 0xa3,
} as const;

/** The whole element as it was received, identifier and length included. */
export function received(node: Asn1Node): Uint8Array {
  return node.valueBeforeDecodeView;
}

/** The identifier octet; class, constructed bit and number together, so that nothing passes as its look-alike. */
export function identifier(node: Asn1Node | undefined): number | undefined {
  return node && received(node)[0];
}

/** The elements of a constructed value with exactly this identifier. */
export function elements(node: Asn1Node | undefined, expected: number): readonly Asn1Node[] {
  if (!node || identifier(node) !== expected) throw unexpected(node, expected);
  return children(node);
}

/** The content octets of a primitive value with exactly this identifier. */
export function contents(node: Asn1Node | undefined, expected: number): Uint8Array {
  if (!node || identifier(node) !== expected) throw unexpected(node, expected);
  return received(node).subarray(node.idBlock.blockLength + node.lenBlock.blockLength);
}

/** Dotted object identifier. */
export function objectIdentifier(node: Asn1Node | undefined): string {
  contents(node, tag.oid);
  return node?.valueBlock.toString() ?? '';
}

/** A non-negative INTEGER that fits a JavaScript number; DER spells 0x80 and above with a leading zero. */
export function smallInteger(node: Asn1Node | undefined): number {
  const bytes = contents(node, tag.integer);
  const [first = 0xff, second = 0xff] = bytes;
  const padded = bytes.length > 1 && first === 0 && second < 0x80;
  if (bytes.length === 0 || bytes.length > 5 || first >= 0x80 || padded) {
    throw new EvidenceError('ASN1_MALFORMED', `INTEGER ${hex(bytes)} is negative, too long or not minimal`);
  }
  return Number.parseInt(hex(bytes), 16);
}

// The longest that these formats have are below 20 bytes; a revocation list has many short ones.
const maxIdentifierBytes = 64;
const maxIdentifierBytesInAll = 16_384;

/**
 * Refuses long OBJECT IDENTIFIERs, and too many, before the parser makes an object of each of their arcs, which costs thousandfold.
 * Walks over headers alone; what does not hold together is the parser's to refuse.
 */
function requireShortIdentifiers(bytes: Uint8Array): void {
  let inAll = 0;
  for (let offset = 0; offset + 1 < bytes.length; ) {
    const [identifierOctet = 0, first = 0] = bytes.subarray(offset, offset + 2);
    const lengthBytes = first > 0x80 ? first - 0x80 : 0;
    const header = 2 + lengthBytes;
    const length = first > 0x80 ? bigEndian(bytes.subarray(offset + 2, offset + header)) : first & 0x7f;
    if (identifierOctet === tag.oid) {
      inAll += length;
      if (length > maxIdentifierBytes || inAll > maxIdentifierBytesInAll) {
        throw new EvidenceError('ASN1_TOO_COMPLEX', `OBJECT IDENTIFIERs of ${inAll} bytes`);
      }
    }
    const isConstructed = (identifierOctet & 0x20) !== 0;
    offset += isConstructed ? header : header + length;
  }
}

function bigEndian(bytes: Uint8Array): number {
  return bytes.reduce((value, byte) => value * 256 + byte, 0);
}

function children(node: Asn1Node): readonly Asn1Node[] {
  if (!node.idBlock.isConstructed || !('value' in node.valueBlock)) return [];
  return Array.isArray(node.valueBlock.value) ? (node.valueBlock.value as Asn1Node[]) : [];
}

function unexpected(node: Asn1Node | undefined, expected: number): EvidenceError {
  const seen = node ? `0x${identifier(node)?.toString(16)}` : 'nothing';
  return new EvidenceError('ASN1_UNEXPECTED', `0x${expected.toString(16)} expected, ${seen} found`);
}

function requireStrict(node: Asn1Node, encoding: 'der' | 'ber'): void {
  const { lenBlock } = node;
  if (lenBlock.isIndefiniteForm) {
    if (encoding === 'der') throw new EvidenceError('ASN1_INDEFINITE_LENGTH', 'DER has none');
  } else if (lenBlock.blockLength !== minimalLengthBytes(lenBlock.length)) {
    throw new EvidenceError('ASN1_LENGTH_NOT_MINIMAL', `length ${lenBlock.length} spelled too long`);
  }
  if (node.warnings.length > 0) throw new EvidenceError('ASN1_MALFORMED', node.warnings.join('; '));
  for (const child of children(node)) requireStrict(child, encoding);
}

function minimalLengthBytes(length: number): number {
  if (length < 0x80) return 1;
  return 1 + Math.ceil(Math.log2(length + 1) / 8);
}

function tryTo<T>(code: ReasonCode, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    if (cause instanceof EvidenceError) throw cause;
    throw new EvidenceError(code, cause instanceof Error ? cause.message : String(cause), { cause });
  }
}
