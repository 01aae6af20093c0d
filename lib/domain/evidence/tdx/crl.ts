import { verify } from 'node:crypto';
import {
  type Asn1Node,
  contents,
  decodeAsn1,
  elements,
  identifier,
  received,
  smallInteger,
  tag,
} from '../asn1.ts';
import { equalBytes, hex, requireSize, sha256 } from '../bytes.ts';
import type { Certificate } from '../certificate.ts';
import { type ChainCache, isLinked, signatureAlgorithms } from '../chain.ts';
import { EvidenceError } from '../reasons.ts';

// Real ones have below 10 kB; these limits keep the worst one below a second.
const maxCrlBytes = 131_072;
const maxCrlNodes = 20_000;

/** A certificate revocation list (RFC 5280 §5), as it stands. */
export interface RevocationList {
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
  readonly issuer: Uint8Array;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** Hex serial numbers. */
  readonly revoked: ReadonlySet<string>;
}

export function parseCrl(der: Uint8Array): RevocationList {
  requireSize(der, maxCrlBytes);
  const [tbs, algorithm, signature, ...more] = elements(decodeAsn1(der, 'der', maxCrlNodes), tag.sequence);
  const [version, tbsAlgorithm, issuer, thisUpdate, nextUpdate, list] = elements(tbs, tag.sequence);
  if (!tbs || !algorithm || !tbsAlgorithm || !issuer || more.length > 0) throw odd('elements');
  if (smallInteger(version) !== 1) throw odd('not version 2');
  if (!equalBytes(received(algorithm), received(tbsAlgorithm))) throw odd('two signature algorithms');
  if (hex(received(algorithm)) !== signatureAlgorithms.ecdsaSha256) {
    throw new EvidenceError('CERTIFICATE_ALGORITHM_WEAK', 'revocation list');
  }
  const bits = contents(signature, tag.bitString);
  if (bits[0] !== 0) throw odd('unused bits in the signature');
  // The list of entries is left out when nothing is revoked; extensions follow it.
  const entries = identifier(list) === tag.sequence ? elements(list, tag.sequence) : [];
  return {
    signed: received(tbs),
    signature: bits.subarray(1),
    issuer: received(issuer),
    thisUpdate: time(thisUpdate),
    nextUpdate: time(nextUpdate),
    revoked: new Set(entries.map((entry) => hex(contents(elements(entry, tag.sequence)[0], tag.integer)))),
  };
}

/** Demands that `issuer` published the list, that it is current, and that it does not name `certificate`. */
export function requireNotRevoked(
  list: RevocationList,
  issuer: Certificate,
  certificate: Certificate,
  at: Date,
  cache?: ChainCache,
): void {
  const fingerprint = hex(sha256(list.signed, list.signature));
  const isIssued =
    equalBytes(list.issuer, issuer.subject) &&
    isLinked(fingerprint, issuer, cache, () =>
      verify('sha256', list.signed, issuer.publicKey, list.signature),
    );
  if (!isIssued)
    throw new EvidenceError('TDX_COLLATERAL_INVALID', `revocation list of ${issuer.subjectText}`);
  if (at < list.thisUpdate || at > list.nextUpdate) {
    throw new EvidenceError(
      'TDX_COLLATERAL_EXPIRED',
      `revocation list until ${list.nextUpdate.toISOString()}`,
    );
  }
  if (list.revoked.has(hex(certificate.serial))) {
    throw new EvidenceError('CERTIFICATE_REVOKED', certificate.subjectText);
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
  return new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('TDX_COLLATERAL_MALFORMED', detail);
}
