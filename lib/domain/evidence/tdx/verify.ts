import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { equalBytes, isZero, sha256 } from '../bytes.ts';
import { type Certificate, encodePem, parsePem } from '../certificate.ts';
import { type ChainCache, signatureAlgorithms, verifyChain } from '../chain.ts';
import { EvidenceError } from '../reasons.ts';
import { type Checklist, type Trust, trustOf } from '../verdict.ts';
import type { TdxQuote } from './bytes.ts';
import { isPck, type Platform, readPlatform } from './pck.ts';

/** SHA-256 of the key of CN=Intel SGX Root CA: https://certificates.trustedservices.intel.com/IntelSGXRootCA.der */
export const intelRoots: readonly string[] = [
  'a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e',
];

export interface TdxEvidence {
  readonly quote: TdxQuote;
  /** Leaf first, root last. */
  readonly chain: readonly Certificate[];
  readonly platform: Platform;
}

export function readTdxEvidence(quote: TdxQuote, cache?: ChainCache): TdxEvidence {
  const chain = parsePem(quote.pckChain, cache?.read);
  const [leaf] = chain;
  if (!leaf) throw new EvidenceError('CHAIN_INCOMPLETE', 'no certificates in the quote');
  // Nothing signs the text around the certificates, so it has one spelling, the one that Intel's service writes.
  if (encodePem(chain) !== quote.pckChain)
    throw new EvidenceError('TDX_MALFORMED', 'PEM in another spelling');
  if (!isPck(leaf) && chain.some(isPck)) {
    throw new EvidenceError('CHAIN_OUT_OF_ORDER', 'the PCK certificate is not the first');
  }
  return { quote, chain, platform: readPlatform(leaf) };
}

export interface TdxTrust {
  readonly at: Date;
  readonly roots: readonly string[];
  readonly cache?: ChainCache | undefined;
}

/** Whether Intel's root stands behind this quote, link by link: PCK chain, quoting enclave, attestation key, body. */
export function verifyTdxEvidence({ quote, chain }: TdxEvidence, trust: TdxTrust, checks: Checklist): Trust {
  const [leaf] = chain;
  if (!leaf) throw new EvidenceError('CHAIN_INCOMPLETE', 'no certificates in the quote');
  verifyChain(chain, {
    at: trust.at,
    roots: trust.roots,
    algorithms: [signatureAlgorithms.ecdsaSha256],
    leafKeyUsage: 'digitalSignature',
    cache: trust.cache,
  });
  checks.demand('chain to the pinned root', true, 'ROOT_NOT_PINNED');
  const { qeReport } = quote;
  checks.demand(
    'signature over the quoting enclave’s report',
    isSigned(qeReport.bytes, leaf.publicKey, quote.qeReportSignature),
    'TDX_QE_SIGNATURE_INVALID',
  );
  const bound = sha256(quote.attestationKey, quote.qeAuthenticationData);
  const isBound =
    equalBytes(qeReport.reportData.subarray(0, 32), bound) && isZero(qeReport.reportData.subarray(32));
  checks.demand('attestation key is of the quoting enclave', isBound, 'TDX_KEY_NOT_BOUND');
  const key = attestationKey(quote.attestationKey);
  checks.demand(
    'signature over the quote',
    isSigned(quote.signed, key, quote.signature),
    'TDX_SIGNATURE_INVALID',
  );
  return trustOf(chain);
}

export function isSigned(bytes: Uint8Array, key: KeyObject, signature: Uint8Array): boolean {
  const isP256 = key.asymmetricKeyDetails?.namedCurve === 'prime256v1';
  return isP256 && verify('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

function attestationKey(point: Uint8Array): KeyObject {
  const url = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64url');
  try {
    const key = { kty: 'EC', crv: 'P-256', x: url(point.subarray(0, 32)), y: url(point.subarray(32)) };
    return createPublicKey({ key, format: 'jwk' });
  } catch (cause) {
    throw new EvidenceError('TDX_KEY_NOT_BOUND', 'the attestation key is no point of P-256', { cause });
  }
}
