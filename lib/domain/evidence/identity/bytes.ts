import * as z from 'zod';
import {
  type Asn1Node,
  contents,
  decodeAsn1,
  elements,
  identifier,
  objectIdentifier,
  received,
  smallInteger,
  tag,
} from '../asn1.ts';
import { decodeBase64Lines, requireSize } from '../bytes.ts';
import { EvidenceError } from '../reasons.ts';

// The longest seen is 2 kB; product codes could make it longer.
const maxTextBytes = 16_384;

const oid = {
  data: '1.2.840.113549.1.7.1',
  signedData: '1.2.840.113549.1.7.2',
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  algorithmProtection: '1.2.840.113549.1.9.52',
  sha256: '2.16.840.1.101.3.4.2.1',
  rsaEncryption: '1.2.840.113549.1.1.1',
  sha256WithRsa: '1.2.840.113549.1.1.11',
} as const;

// EC2 wraps the document in a constructed OCTET STRING of one segment.
const constructedOctetString = 0x24;

const text = z.string().max(256);

/** What we use of the document that EC2 signs; AWS may add fields. */
const documentSchema = z.object({
  accountId: z.string().regex(/^\d{12}$/),
  architecture: text,
  availabilityZone: text,
  imageId: text,
  instanceId: z.string().regex(/^i-(?:[0-9a-f]{8}|[0-9a-f]{17})$/),
  instanceType: text,
  pendingTime: z.iso.datetime(),
  privateIp: text.nullish(),
  region: z.string().regex(/^[a-z]{2,}(?:-[a-z]+)+-\d+$/),
  version: text,
});

export type IdentityDocument = z.infer<typeof documentSchema>;

/** A CMS SignedData in EC2's shape; nothing in it is believed yet. */
export interface ParsedIdentity {
  readonly document: IdentityDocument;
  /** The signed bytes of the document. */
  readonly content: Uint8Array;
  /** The signer's issuer name and certificate serial as received. */
  readonly signerIssuer: Uint8Array;
  readonly signerSerial: Uint8Array;
  readonly messageDigest: Uint8Array;
  /** DER of the signed attributes as a SET OF, which is what the signature covers (RFC 5652 §5.4). */
  readonly signedAttributes: Uint8Array;
  readonly signature: Uint8Array;
}

/**
 * Reads the body of IMDS `/latest/dynamic/instance-identity/rsa2048`: base64 lines of a CMS SignedData with
 * the document inside, no certificates, and one signer (RFC 5652; EC2 writes BER with indefinite lengths).
 */
export function parseIdentity(pkcs7Base64: string): ParsedIdentity {
  requireSize(pkcs7Base64, maxTextBytes);
  const bytes = decodeBase64Lines(pkcs7Base64);
  if (bytes.length === 128 && bytes[0] !== 0x30) {
    // The `signature` endpoint: a bare RSA-1024 signature over a document that is not in it.
    throw new EvidenceError('IDENTITY_NOT_RSA2048', 'a bare RSA-1024 signature');
  }
  const [contentType, wrapper, ...afterWrapper] = elements(decodeAsn1(bytes, 'ber'), tag.sequence);
  requireOid(contentType, oid.signedData);
  const [signedData, ...afterSignedData] = elements(wrapper, tag.context0);
  // EC2 embeds neither certificates nor revocation lists, so that signer infos come fourth and last.
  const [version, digestAlgorithms, encapsulated, signers, ...afterSigners] = elements(
    signedData,
    tag.sequence,
  );
  const [digestAlgorithm, ...moreDigests] = elements(digestAlgorithms, tag.set);
  const [signer, ...moreSigners] = elements(signers, tag.set);
  requireNone(afterWrapper, afterSignedData, afterSigners, moreDigests, moreSigners);
  requireVersionOne(version);

  const [signerVersion, sid, signerDigest, attributes, signatureAlgorithm, signature, ...unsigned] = elements(
    signer,
    tag.sequence,
  );
  requireNone(unsigned);
  requireVersionOne(signerVersion);
  requireAlgorithm(digestAlgorithm, [oid.sha256]);
  requireAlgorithm(signerDigest, [oid.sha256]);
  const signatureOid = requireAlgorithm(signatureAlgorithm, [oid.rsaEncryption, oid.sha256WithRsa]);
  const [issuer, serial, ...afterSerial] = elements(sid, tag.sequence);
  const [dataType, dataWrapper, ...afterData] = elements(encapsulated, tag.sequence);
  const [data, ...moreData] = elements(dataWrapper, tag.context0);
  requireNone(afterSerial, afterData, moreData);
  requireOid(dataType, oid.data);
  elements(issuer, tag.sequence);

  const content = octets(data);
  return {
    document: parseDocument(content),
    content,
    signerIssuer: received(issuer as Asn1Node),
    signerSerial: contents(serial, tag.integer),
    ...parseAttributes(attributes, signatureOid),
    signature: contents(signature, tag.octetString),
  };
}

function parseDocument(content: Uint8Array): IdentityDocument {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(content));
  } catch (cause) {
    throw new EvidenceError('IDENTITY_DOCUMENT_MALFORMED', 'the content is not JSON', { cause });
  }
  const parsed = documentSchema.safeParse(value);
  if (!parsed.success) {
    const fields = [...new Set(parsed.error.issues.map((issue) => issue.path.join('.') || '(root)'))];
    throw new EvidenceError('IDENTITY_DOCUMENT_MALFORMED', `missing or wrong: ${fields.join(', ')}`);
  }
  return parsed.data;
}

/** The one messageDigest; contentType must be there too (RFC 5652 §5.3), and none twice. */
function parseAttributes(
  node: Asn1Node | undefined,
  signatureOid: string,
): Pick<ParsedIdentity, 'messageDigest' | 'signedAttributes'> {
  elements(node, tag.context0);
  // The signature covers DER; what is signed must not depend on how somebody re-encodes it.
  const der = received(node as Asn1Node);
  const byType = new Map<string, Asn1Node>();
  for (const attribute of elements(decodeAsn1(der, 'der'), tag.context0)) {
    const [type, values, ...afterValues] = elements(attribute, tag.sequence);
    const [value, ...moreValues] = elements(values, tag.set);
    const name = objectIdentifier(type);
    if (!value || byType.has(name)) throw odd(`attribute ${name} is not there exactly once`);
    requireNone(afterValues, moreValues);
    byType.set(name, value);
  }
  requireOid(byType.get(oid.contentType), oid.data);
  // Newer documents sign which algorithms they use (RFC 6211); nothing outside may contradict it.
  const protection = byType.get(oid.algorithmProtection);
  if (protection) {
    const [digestAlgorithm, signatureAlgorithm] = elements(protection, tag.sequence);
    requireAlgorithm(digestAlgorithm, [oid.sha256]);
    requireOid(elements(signatureAlgorithm, tag.context1)[0], signatureOid);
  }
  return {
    messageDigest: contents(byType.get(oid.messageDigest), tag.octetString),
    signedAttributes: Uint8Array.of(tag.set, ...der.subarray(1)),
  };
}

/** The content of an OCTET STRING, which BER may spread over segments. */
function octets(node: Asn1Node | undefined): Uint8Array {
  if (identifier(node) !== constructedOctetString) return contents(node, tag.octetString);
  const segments = elements(node, constructedOctetString);
  return Buffer.concat(segments.map((segment) => contents(segment, tag.octetString)));
}

function requireAlgorithm(node: Asn1Node | undefined, allowed: readonly string[]): string {
  const [algorithm, parameters, ...more] = elements(node, tag.sequence);
  const name = objectIdentifier(algorithm);
  // The `pkcs7` endpoint signs with DSA over SHA-1.
  if (!allowed.includes(name)) throw new EvidenceError('IDENTITY_NOT_RSA2048', `algorithm ${name}`);
  requireNone(more);
  if (parameters) contents(parameters, tag.null);
  return name;
}

function requireOid(node: Asn1Node | undefined, expected: string): void {
  const seen = objectIdentifier(node);
  if (seen !== expected) throw odd(`${expected} expected, ${seen} found`);
}

function requireVersionOne(node: Asn1Node | undefined): void {
  if (smallInteger(node) !== 1) throw odd('CMS version is not 1');
}

function requireNone(...rests: readonly (readonly Asn1Node[])[]): void {
  if (rests.some((rest) => rest.length > 0)) throw odd('an element that EC2 does not write');
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('IDENTITY_MALFORMED', detail);
}
