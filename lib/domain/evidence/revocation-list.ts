import { constants, verify } from 'node:crypto';
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
import { equalBytes, hex, requireSize, sha256 } from './bytes.ts';
import type { Certificate } from './certificate.ts';
import { type ChainCache, isLinked, signatureAlgorithms } from './chain.ts';
import { EvidenceError } from './reasons.ts';

// Real ones have below 10 kB; these limits keep the worst one below a second and 64 MiB.
export const maxRevocationListBytes = 65_536;
const maxNodes = 8_000;

/** A certificate revocation list (RFC 5280 §5), as it stands; nothing in it is believed yet. */
export interface RevocationList {
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
  /** Hex of the DER AlgorithmIdentifier, parameters included. */
  readonly signatureAlgorithm: string;
  /** The issuer's name as it stands in the list. */
  readonly issuer: Uint8Array;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** Hex serial numbers. */
  readonly revoked: ReadonlySet<string>;
}

/** Reads a list from DER. @throws EvidenceError */
export function parseRevocationList(der: Uint8Array): RevocationList {
  requireSize(der, maxRevocationListBytes);
  const [tbs, algorithm, signature, ...more] = elements(decodeAsn1(der, 'der', maxNodes), tag.sequence);
  const [version, tbsAlgorithm, issuer, thisUpdate, nextUpdate, ...rest] = elements(tbs, tag.sequence);
  if (!tbs || !algorithm || !tbsAlgorithm || !issuer || more.length > 0) throw odd('elements');
  if (smallInteger(version) !== 1) throw odd('not version 2');
  if (!equalBytes(received(algorithm), received(tbsAlgorithm))) throw odd('two signature algorithms');
  const bits = contents(signature, tag.bitString);
  if (bits[0] !== 0) throw odd('unused bits in the signature');
  // The list of entries is left out when nothing is revoked; extensions follow it.
  const entries = identifier(rest[0]) === tag.sequence ? elements(rest.shift(), tag.sequence) : [];
  const extensions = rest.length > 0 ? elements(rest.shift(), tag.context0) : [];
  if (rest.length > 0) throw odd('elements after the extensions');
  if (extensions[0]) requireNotCritical(elements(extensions[0], tag.sequence));
  return {
    signed: received(tbs),
    signature: bits.subarray(1),
    signatureAlgorithm: hex(received(algorithm)),
    issuer: received(issuer),
    thisUpdate: time(thisUpdate),
    nextUpdate: time(nextUpdate),
    revoked: new Set(entries.map(serialOf)),
  };
}

/**
 * Demands that `issuer` published the list, with an algorithm that its vendor uses, and that it is current.
 *
 * @param algorithms AlgorithmIdentifiers (hex DER)
 * @throws EvidenceError
 */
export function requireCurrent(
  list: RevocationList,
  issuer: Certificate,
  { at, algorithms, cache }: ListRules,
): void {
  if (!algorithms.includes(list.signatureAlgorithm)) {
    throw new EvidenceError('CERTIFICATE_ALGORITHM_WEAK', `revocation list of ${issuer.subjectText}`);
  }
  const fingerprint = hex(sha256(list.signed, list.signature));
  const isIssued =
    equalBytes(list.issuer, issuer.subject) &&
    isLinked(fingerprint, issuer, cache, () => isSignedBy(list, issuer));
  if (!isIssued) {
    throw new EvidenceError('REVOCATION_LIST_INVALID', `not signed by ${issuer.subjectText}`);
  }
  if (!(at >= list.thisUpdate && at <= list.nextUpdate)) {
    throw new EvidenceError(
      'REVOCATION_LIST_EXPIRED',
      `${list.thisUpdate.toISOString()} to ${list.nextUpdate.toISOString()}`,
    );
  }
}

/** Demands of a list what `requireCurrent` does, and that it does not name `certificate`. @throws EvidenceError */
export function requireNotRevoked(
  list: RevocationList,
  issuer: Certificate,
  certificate: Certificate,
  rules: ListRules,
): void {
  requireCurrent(list, issuer, rules);
  if (list.revoked.has(hex(certificate.serial))) {
    throw new EvidenceError('CERTIFICATE_REVOKED', certificate.subjectText);
  }
}

interface ListRules {
  readonly at: Date;
  readonly algorithms: readonly string[];
  readonly cache?: ChainCache | undefined;
}

function isSignedBy({ signed, signature, signatureAlgorithm }: RevocationList, issuer: Certificate): boolean {
  const { publicKey: key } = issuer;
  if (signatureAlgorithm === signatureAlgorithms.ecdsaSha256) {
    return key.asymmetricKeyType === 'ec' && verify('sha256', signed, key, signature);
  }
  const pss = { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 48 };
  return key.asymmetricKeyType === 'rsa' && verify('sha384', signed, pss, signature);
}

function serialOf(entry: Asn1Node): string {
  const [serial, date, extensions, ...more] = elements(entry, tag.sequence);
  time(date);
  if (more.length > 0) throw odd('an entry has too many elements');
  if (extensions) requireNotCritical(elements(extensions, tag.sequence));
  return hex(contents(serial, tag.integer));
}

/**
 * What is critical changes what the list means: for some certificates alone, only what is new since another list, of
 * another issuer (RFC 5280 §5.2.4, §5.2.5, §5.3.3). No vendor publishes such lists.
 */
function requireNotCritical(extensions: readonly Asn1Node[]): void {
  for (const extension of extensions) {
    const [name, critical] = elements(extension, tag.sequence);
    if (identifier(critical) === tag.boolean) {
      throw new EvidenceError('CERTIFICATE_CRITICAL_EXTENSION', `list: ${objectIdentifier(name)}`);
    }
  }
}

/** UTCTime means 1950 to 2049 (RFC 5280 §4.1.2.5.1). */
function time(node: Asn1Node | undefined): Date {
  const isUtc = identifier(node) === tag.utcTime;
  const digits = Buffer.from(contents(node, isUtc ? tag.utcTime : tag.generalizedTime)).toString('latin1');
  const full = isUtc ? `${Number(digits.slice(0, 2)) < 50 ? '20' : '19'}${digits}` : digits;
  const match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(full);
  if (!match) throw odd(`time ${digits}`);
  const [, year, month, day, hour, minute, second] = match;
  const date = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  if (Number.isNaN(date.getTime())) throw odd(`time ${digits}`);
  return date;
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('REVOCATION_LIST_MALFORMED', detail);
}
