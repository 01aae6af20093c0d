import { equalBytes, hex, sha256 } from './bytes.ts';
import { type Certificate, parseCertificate, type ReadCertificate, requireValidAt } from './certificate.ts';
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

interface AuthorityRules {
  readonly at: Date;
  /** SHA-256 fingerprints of the roots that count, of the certificate or of its key, lower-case hex. */
  readonly roots: readonly string[];
  /** AlgorithmIdentifiers (hex DER) that certificates may be signed with. */
  readonly algorithms: readonly string[];
  readonly cache?: ChainCache | undefined;
}

export interface ChainRules extends AuthorityRules {
  /** Whether the leaf must have keyUsage digitalSignature; AMD's leaves have no key usage at all. */
  readonly leafKeyUsage: 'digitalSignature' | 'absent';
}

/** Remembers what was read from bytes, and whose signature was verified by which key. */
export interface ChainCache {
  /** A certificate, read once. */
  readonly read: ReadCertificate;
  /** Whatever `make` reads from `bytes` and nothing else, read once. */
  readonly remember: <T extends object>(bytes: Uint8Array, make: (bytes: Uint8Array) => T) => T;
  readonly hasLink: (link: string) => boolean;
  readonly addLink: (link: string) => void;
}

const maxRememberedBytes = 65_536;

/**
 * Bytes and signatures do not change, so what was read once need not be read again, nor a link that held be computed
 * again; dates, usages and pins are looked at each time. Holds at most `size` of each, the newest.
 */
export function createChainCache(size = 256): ChainCache {
  const readers = new Map<unknown, Map<string, object>>();
  const links = new Set<string>();
  const remember: ChainCache['remember'] = (bytes, make) => {
    // What a stranger sends is read before it is verified; many large inputs must not fill the memory.
    if (bytes.length > maxRememberedBytes) return make(bytes);
    const entries = readers.get(make) ?? new Map<string, object>();
    readers.set(make, entries);
    const key = hex(sha256(bytes));
    const known = entries.get(key);
    // Filed under the function that made it, so it is what that function makes.
    if (known) return known as ReturnType<typeof make>;
    // A view would keep the whole evidence alive that the bytes came in.
    const made = make(new Uint8Array(bytes));
    dropOldest(entries, size);
    entries.set(key, made);
    return made;
  };
  return {
    read: (der) => remember(der, parseCertificate),
    remember,
    hasLink: (link) => links.has(link),
    addLink: (link) => {
      dropOldest(links, size);
      links.add(link);
    },
  };
}

function dropOldest(entries: Map<string, object> | Set<string>, size: number): void {
  const [oldest] = entries.keys();
  if (entries.size >= size && oldest !== undefined) entries.delete(oldest);
}

/**
 * Verifies a path from the leaf (first) to a pinned root (last), by RFC 5280 §6 without policies and name
 * constraints, which no vendor uses: order by names, pin, dates, usages, path lengths, algorithms, signatures.
 */
export function verifyChain(chain: readonly Certificate[], rules: ChainRules): void {
  if (chain.length < 2) throw new EvidenceError('CHAIN_INCOMPLETE', `${chain.length} certificates`);
  verifyPath(chain, rules, (certificate, index) => {
    if (index === 0) requireLeaf(certificate, rules);
    else requireAuthority(certificate, index - 1);
  });
}

/** Verifies the authorities of a path, the pinned root last, before there is a leaf below them. */
export function verifyAuthorities(authorities: readonly Certificate[], rules: AuthorityRules): void {
  verifyPath(authorities, rules, requireAuthority);
}

function verifyPath(
  chain: readonly Certificate[],
  rules: AuthorityRules,
  requireUsage: (certificate: Certificate, index: number) => void,
): void {
  const root = chain.at(-1);
  if (!root) throw new EvidenceError('CHAIN_INCOMPLETE', 'no certificates');
  requireOrder(chain);
  if (!rules.roots.includes(root.fingerprint) && !rules.roots.includes(root.keyFingerprint)) {
    throw new EvidenceError('ROOT_NOT_PINNED', `${root.subjectText}, SHA-256 ${root.fingerprint}`);
  }
  chain.forEach((certificate, index) => {
    requireValidAt(certificate, rules.at);
    requireUnderstood(certificate);
    requireUsage(certificate, index);
  });
  chain.forEach((certificate, index) => {
    requireSigned(certificate, chain[index + 1] ?? root, rules);
  });
}

/** Before anything else: of certificates in the wrong order the last one is no root, which would say little. */
function requireOrder(chain: readonly Certificate[]): void {
  chain.slice(1).forEach((issuer, index) => {
    const certificate = chain[index];
    if (certificate && !equalBytes(certificate.issuer, issuer.subject)) {
      throw new EvidenceError(
        'CHAIN_OUT_OF_ORDER',
        `${certificate.subjectText} was not issued by ${issuer.subjectText}`,
      );
    }
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
  { algorithms, cache }: AuthorityRules,
): void {
  if (!algorithms.includes(certificate.signatureAlgorithm)) {
    throw new EvidenceError('CERTIFICATE_ALGORITHM_WEAK', certificate.subjectText);
  }
  const isSigned = isLinked(certificate.fingerprint, issuer, cache, () =>
    certificate.isSignedBy(issuer.publicKey),
  );
  if (!isSigned) {
    throw new EvidenceError(
      'CERTIFICATE_SIGNATURE_INVALID',
      `${certificate.subjectText} is not signed by ${issuer.subjectText}`,
    );
  }
}

/** Whether `issuer` signed what has this fingerprint, signature included; computed once where there is a cache. */
export function isLinked(
  fingerprint: string,
  issuer: Certificate,
  cache: ChainCache | undefined,
  compute: () => boolean,
): boolean {
  const link = `${fingerprint} ${issuer.fingerprint}`;
  if (cache?.hasLink(link)) return true;
  const holds = compute();
  if (holds) cache?.addLink(link);
  return holds;
}
