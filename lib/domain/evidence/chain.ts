import { equalBytes } from './bytes.ts';
import { type Certificate, requireValidAt } from './certificate.ts';
import { EvidenceError } from './reasons.ts';

/** Hex DER of the AlgorithmIdentifiers that the vendors sign certificates with; nothing else is admitted. */
export const signatureAlgorithms = {
  ecdsaSha256: '300a06082a8648ce3d040302',
  ecdsaSha384: '300a06082a8648ce3d040303',
  // RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt 48 (RFC 4055 §3.1), without and with the default trailer.
  rsaPssSha384:
    '304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130',
  rsaPssSha384Trailer:
    '304606092a864886f70d01010a3039a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101',
} as const;

// RFC 5280 §4.2: a critical extension that is not understood is a refusal.
const understoodExtensions = new Set(['2.5.29.15', '2.5.29.19']);

export interface ChainRules {
  readonly at: Date;
  /** SHA-256 fingerprints of the roots that count, of the certificate or of its key, lower-case hex. */
  readonly roots: readonly string[];
  /** AlgorithmIdentifiers (hex DER) that certificates may be signed with. */
  readonly algorithms: readonly string[];
  /** Whether the leaf must have keyUsage digitalSignature; AMD's leaves have no key usage at all. */
  readonly leafKeyUsage: 'digitalSignature' | 'absent';
  readonly cache?: ChainCache | undefined;
}

/** Remembers which certificates were verified to be signed by which key. Holds at most `size` links. */
export interface ChainCache {
  readonly has: (link: string) => boolean;
  readonly add: (link: string) => void;
}

/**
 * Signatures do not change, so a link that held once need not be computed again; dates, usages and pins are
 * looked at each time.
 */
export function createChainCache(size = 512): ChainCache {
  const links = new Set<string>();
  return {
    has: (link) => links.has(link),
    add: (link) => {
      for (const oldest of links) {
        if (links.size < size) break;
        links.delete(oldest);
      }
      links.add(link);
    },
  };
}

/**
 * Verifies a path from the leaf (first) to a pinned root (last), by RFC 5280 §6 without policies and name
 * constraints, which no vendor uses: pin, order by names, dates, usages, path lengths, algorithms, signatures.
 */
export function verifyChain(chain: readonly Certificate[], rules: ChainRules): void {
  const [leaf, ...authorities] = chain;
  const root = authorities.at(-1);
  if (!leaf || !root) throw new EvidenceError('CHAIN_INCOMPLETE', `${chain.length} certificates`);
  if (!rules.roots.includes(root.fingerprint) && !rules.roots.includes(root.keyFingerprint)) {
    throw new EvidenceError('ROOT_NOT_PINNED', `${root.subjectText}, SHA-256 ${root.fingerprint}`);
  }
  chain.forEach((certificate, index) => {
    const issuer = chain[index + 1] ?? root;
    if (!equalBytes(certificate.issuer, issuer.subject)) {
      throw new EvidenceError(
        'CHAIN_OUT_OF_ORDER',
        `${certificate.subjectText} was not issued by ${issuer.subjectText}`,
      );
    }
    requireValidAt(certificate, rules.at);
    requireUnderstood(certificate);
    if (index === 0) requireLeaf(certificate, rules);
    else requireAuthority(certificate, index - 1);
  });
  chain.forEach((certificate, index) => {
    requireSigned(certificate, chain[index + 1] ?? root, rules);
  });
}

function requireUnderstood({ extensions, subjectText }: Certificate): void {
  for (const [name, { critical }] of extensions) {
    if (critical && !understoodExtensions.has(name)) {
      throw new EvidenceError('CERTIFICATE_CRITICAL_EXTENSION', `${subjectText}: ${name}`);
    }
  }
}

function requireLeaf(leaf: Certificate, { leafKeyUsage }: ChainRules): void {
  const signs = leaf.keyUsage?.digitalSignature ?? leafKeyUsage === 'absent';
  if (leaf.basicConstraints?.ca || !signs) {
    throw new EvidenceError('CERTIFICATE_USAGE_WRONG', `${leaf.subjectText} may not sign evidence`);
  }
}

/** `below`: how many authorities stand between this one and the leaf (RFC 5280 §4.2.1.9). */
function requireAuthority({ basicConstraints, keyUsage, subjectText }: Certificate, below: number): void {
  if (!basicConstraints?.ca || !keyUsage?.keyCertSign) {
    throw new EvidenceError('CERTIFICATE_USAGE_WRONG', `${subjectText} may not issue certificates`);
  }
  if (basicConstraints.pathLength !== undefined && below > basicConstraints.pathLength) {
    throw new EvidenceError('CERTIFICATE_PATH_TOO_LONG', `${below} authorities below ${subjectText}`);
  }
}

function requireSigned(
  certificate: Certificate,
  issuer: Certificate,
  { algorithms, cache }: ChainRules,
): void {
  if (!algorithms.includes(certificate.signatureAlgorithm)) {
    throw new EvidenceError('CERTIFICATE_ALGORITHM_WEAK', certificate.subjectText);
  }
  const link = `${certificate.fingerprint} ${issuer.fingerprint}`;
  if (cache?.has(link)) return;
  if (!certificate.isSignedBy(issuer.publicKey)) {
    throw new EvidenceError(
      'CERTIFICATE_SIGNATURE_INVALID',
      `${certificate.subjectText} is not signed by ${issuer.subjectText}`,
    );
  }
  cache?.add(link);
}
