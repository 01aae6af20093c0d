import { type KeyObject, X509Certificate } from 'node:crypto';
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
} from './asn1.ts';
import { decodeBase64Lines, equalBytes, hex, requireSize, sha256 } from './bytes.ts';
import { EvidenceError } from './reasons.ts';

// Genuine ones are below 2.5 kB (ARK: 1.7 kB).
const maxCertificateBytes = 8_192;

const extensionOid = { basicConstraints: '2.5.29.19', keyUsage: '2.5.29.15' } as const;

export interface Extension {
  readonly critical: boolean;
  /** What the extension's OCTET STRING holds. */
  readonly value: Uint8Array;
}

/** An X.509 v3 certificate, read strictly; nothing in it is believed yet. */
export interface Certificate {
  readonly der: Uint8Array;
  /** Lower-case hex SHA-256 of the DER. */
  readonly fingerprint: string;
  readonly serial: Uint8Array;
  /** Names as they stand in the certificate: chains compare them byte for byte. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  /** One line, for people. */
  readonly subjectText: string;
  readonly commonName: string | undefined;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Hex of the DER AlgorithmIdentifier that the issuer signed with, parameters included. */
  readonly signatureAlgorithm: string;
  readonly publicKey: KeyObject;
  /** Lower-case hex SHA-256 of the public key's SPKI. */
  readonly keyFingerprint: string;
  readonly extensions: ReadonlyMap<string, Extension>;
  /** `undefined` without the extension; `pathLength` undefined when not limited. */
  readonly basicConstraints: { readonly ca: boolean; readonly pathLength: number | undefined } | undefined;
  readonly keyUsage: { readonly digitalSignature: boolean; readonly keyCertSign: boolean } | undefined;
  readonly isSignedBy: (key: KeyObject) => boolean;
}

/** Reads one certificate from DER; a cache can stand in for it. */
export type ReadCertificate = (der: Uint8Array) => Certificate;

/** Reads one certificate from DER. */
export function parseCertificate(der: Uint8Array): Certificate {
  requireSize(der, maxCertificateBytes);
  const [tbs, algorithm, signature, ...afterSignature] = elements(decodeAsn1(der, 'der'), tag.sequence);
  const [
    version,
    serial,
    tbsAlgorithm,
    issuer,
    validity,
    subject,
    publicKey,
    extensions,
    ...afterExtensions
  ] = elements(tbs, tag.sequence);
  const [versionNumber, ...afterVersion] = elements(version, tag.context0);
  if (afterSignature.length + afterExtensions.length + afterVersion.length > 0)
    throw odd('too many elements');
  if (smallInteger(versionNumber) !== 2) throw odd('not X.509 v3');
  // Outside the signature, so it has to say what the signed one says (RFC 5280 §4.1.1.2).
  if (!equalBytes(whole(algorithm), whole(tbsAlgorithm))) throw odd('two signature algorithms');
  if (contents(signature, tag.bitString)[0] !== 0) throw odd('unused bits in the signature');
  for (const name of [issuer, validity, subject, publicKey]) elements(name, tag.sequence);

  const x509 = readX509(der);
  const { validFromDate: notBefore, validToDate: notAfter } = x509;
  if (Number.isNaN(notBefore.getTime()) || Number.isNaN(notAfter.getTime())) throw odd('validity');
  const byOid = parseExtensions(extensions);
  // Node has none for an empty name.
  const { subject: subjectLines = '' } = x509 as { readonly subject?: string };
  return {
    der,
    fingerprint: hex(sha256(der)),
    serial: contents(serial, tag.integer),
    issuer: whole(issuer),
    subject: whole(subject),
    subjectText: subjectLines.split('\n').join(', '),
    commonName: /^CN=(.*)$/m.exec(subjectLines)?.[1],
    notBefore,
    notAfter,
    signatureAlgorithm: hex(whole(algorithm)),
    publicKey: readKey(x509),
    keyFingerprint: hex(sha256(whole(publicKey))),
    extensions: byOid,
    basicConstraints: parseBasicConstraints(byOid.get(extensionOid.basicConstraints)),
    keyUsage: parseKeyUsage(byOid.get(extensionOid.keyUsage)),
    isSignedBy: (key) => x509.verify(key),
  };
}

/** Reads certificates from PEM text that holds nothing else (RFC 7468, strict form), in the order found. */
export function parsePem(pem: string, read: ReadCertificate = parseCertificate): readonly Certificate[] {
  requireSize(pem, 8 * maxCertificateBytes);
  const block =
    /-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END CERTIFICATE-----(?:\r?\n|$)/y;
  const certificates: Certificate[] = [];
  while (block.lastIndex < pem.length) {
    const match = block.exec(pem);
    if (!match?.[1]) throw odd('not PEM certificates alone');
    certificates.push(read(decodeBase64Lines(match[1])));
  }
  return certificates;
}

/** The one spelling of PEM that has nothing to hide a byte in: lines of 64, each ended by LF. */
export function encodePem(certificates: readonly Certificate[]): string {
  return certificates
    .map(({ der }) =>
      Buffer.from(der)
        .toString('base64')
        .replace(/.{64}(?=.)/g, '$&\n'),
    )
    .map((lines) => `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`)
    .join('');
}

/** One certificate as DER, or PEM certificates. */
export function parseCertificates(
  bytes: Uint8Array,
  read: ReadCertificate = parseCertificate,
): readonly Certificate[] {
  requireSize(bytes, 8 * maxCertificateBytes);
  if (bytes[0] === tag.sequence) return [read(bytes)];
  return parsePem(Buffer.from(bytes).toString('latin1'), read);
}

export function requireValidAt(certificate: Certificate, at: Date): void {
  const { notBefore, notAfter, subjectText } = certificate;
  // Asked this way round, a date that is none is refused.
  if (!(at >= notBefore)) {
    throw new EvidenceError('CERTIFICATE_NOT_YET_VALID', `${subjectText}: from ${notBefore.toISOString()}`);
  }
  if (!(at <= notAfter)) {
    throw new EvidenceError('CERTIFICATE_EXPIRED', `${subjectText}: until ${notAfter.toISOString()}`);
  }
}

function parseExtensions(node: Asn1Node | undefined): ReadonlyMap<string, Extension> {
  const [list, ...more] = elements(node, tag.context3);
  if (more.length > 0) throw odd('two lists of extensions');
  const byOid = new Map<string, Extension>();
  for (const extension of elements(list, tag.sequence)) {
    const parts = elements(extension, tag.sequence);
    const name = objectIdentifier(parts[0]);
    const critical = identifier(parts[1]) === tag.boolean;
    if (critical && hex(contents(parts[1], tag.boolean)) !== 'ff') throw odd('BOOLEAN is not DER');
    if (parts.length !== (critical ? 3 : 2) || byOid.has(name)) throw odd(`extension ${name}`);
    byOid.set(name, { critical, value: contents(parts.at(-1), tag.octetString) });
  }
  return byOid;
}

function parseBasicConstraints(extension: Extension | undefined): Certificate['basicConstraints'] {
  if (!extension) return undefined;
  const [first, second, ...more] = elements(decodeAsn1(extension.value, 'der'), tag.sequence);
  if (!first) return { ca: false, pathLength: undefined };
  if (more.length > 0 || hex(contents(first, tag.boolean)) !== 'ff') throw odd('basicConstraints');
  return { ca: true, pathLength: second && smallInteger(second) };
}

function parseKeyUsage(extension: Extension | undefined): Certificate['keyUsage'] {
  if (!extension) return undefined;
  // BIT STRING: first octet counts unused bits; bit 0 (digitalSignature) is the highest of the second.
  const [, bits = 0] = contents(decodeAsn1(extension.value, 'der'), tag.bitString);
  return { digitalSignature: (bits & 0x80) !== 0, keyCertSign: (bits & 0x04) !== 0 };
}

function readX509(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw new EvidenceError('CERTIFICATE_MALFORMED', 'OpenSSL does not read it', { cause });
  }
}

function readKey(x509: X509Certificate): KeyObject {
  try {
    return x509.publicKey;
  } catch (cause) {
    throw new EvidenceError('CERTIFICATE_MALFORMED', 'OpenSSL does not read its public key', { cause });
  }
}

function whole(node: Asn1Node | undefined): Uint8Array {
  if (!node) throw odd('too few elements');
  return received(node);
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('CERTIFICATE_MALFORMED', detail);
}
