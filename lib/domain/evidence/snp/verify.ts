import { verify } from 'node:crypto';
import { equalBytes, hex, requireSize } from '../bytes.ts';
import { type Certificate, parseCertificates } from '../certificate.ts';
import { type ChainCache, signatureAlgorithms, verifyChain } from '../chain.ts';
import { EvidenceError } from '../reasons.ts';
import { parseRevocationList, type RevocationList, requireNotRevoked } from '../revocation-list.ts';
import { type Checklist, type Trust, trustOf } from '../verdict.ts';
import type { SnpReport } from './bytes.ts';
import { isKeyCertificate, type KeyCertificate, readKeyCertificate } from './key-certificate.ts';
import { componentsBelow, type Product, productOf, readTcb, type Tcb } from './tcb.ts';

/** SHA-256 of the root certificate of each product. */
export type AmdRoots = Readonly<Record<Product, string>>;

/** AMD's own: https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain (2026). */
export const amdRoots: AmdRoots = {
  Milan: '69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd',
  Genoa: '4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1',
  Turin: '1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a',
};

/** Report and certificates as parsed, and what follows from them together. */
export interface SnpEvidence {
  readonly report: SnpReport;
  /** Leaf first, root last. */
  readonly chain: readonly Certificate[];
  readonly key: KeyCertificate;
  /** AMD's list for the product's root, where one was given. */
  readonly revocationList: RevocationList | undefined;
  readonly product: Product;
  readonly tcb: Readonly<Record<'current' | 'reported' | 'committed' | 'launch', Tcb>>;
}

/**
 * Puts a report, its certificates (DER or PEM each; leaf, intermediate, root) and AMD's revocation list (DER)
 * together.
 */
export function readSnpEvidence(
  report: SnpReport,
  certificates: readonly Uint8Array[],
  crl?: Uint8Array,
  cache?: ChainCache,
): SnpEvidence {
  const length = certificates.reduce((sum, each) => sum + each.length, 0);
  if (length > 0) requireSize({ length }, maxChainBytes);
  const chain = certificates.flatMap((bytes) => parseCertificates(bytes, cache?.read));
  const [leaf] = chain;
  if (!leaf) throw new EvidenceError('CHAIN_INCOMPLETE', 'no certificates');
  if (!isKeyCertificate(leaf) && chain.some(isKeyCertificate)) {
    throw new EvidenceError('CHAIN_OUT_OF_ORDER', 'the VCEK or VLEK is not the first');
  }
  const key = readKeyCertificate(leaf);
  // Version 2 does not say which processor made it, and is read in the layout that all had then.
  const product = report.cpu ? productOf(report.cpu) : key.product;
  if (!product || (!report.cpu && product === 'Turin')) {
    throw new EvidenceError(
      'SNP_PRODUCT_UNKNOWN',
      report.cpu ? JSON.stringify(report.cpu) : 'version 2 on Turin',
    );
  }
  return {
    report,
    chain,
    key,
    revocationList: crl && (cache?.remember(crl, parseRevocationList) ?? parseRevocationList(crl)),
    product,
    tcb: {
      current: readTcb(report.currentTcb, product),
      reported: readTcb(report.reportedTcb, product),
      committed: readTcb(report.committedTcb, product),
      launch: readTcb(report.launchTcb, product),
    },
  };
}

export interface SnpTrust {
  readonly at: Date;
  readonly roots: AmdRoots;
  readonly cache?: ChainCache | undefined;
}

// Three certificates of below 2.5 kB, as PEM with what people put around it.
const maxChainBytes = 32_768;

/** What AMD signs certificates and lists with. */
export const amdAlgorithms = [signatureAlgorithms.rsaPssSha384, signatureAlgorithms.rsaPssSha384Trailer];

/** Common name of the authority that issues a product's keys of one kind. */
export function authorityOf({ kind, product }: Pick<KeyCertificate, 'kind' | 'product'>): string {
  return kind === 'VCEK' ? `SEV-${product}` : `SEV-VLEK-${product}`;
}

/** Whether AMD's hardware signed this report: chain, signature, and that key and report fit each other. */
export function verifySnpEvidence(evidence: SnpEvidence, trust: SnpTrust, checks: Checklist): Trust {
  const { report, chain, key, revocationList, product, tcb } = evidence;
  const [leaf, intermediate, root] = chain;
  checks.demand(
    'report and key name the same product',
    key.product === product,
    'SNP_PRODUCT_MISMATCH',
    `${product}, ${key.product}`,
  );
  checks.demand(
    'chip key not masked',
    !report.chipKeyMasked && report.signingKey !== 'none',
    'SNP_NOT_SIGNED',
  );
  checks.demand(
    'signature algorithm',
    report.signatureAlgorithm === 1,
    'SNP_ALGORITHM_UNKNOWN',
    `${report.signatureAlgorithm}`,
  );
  checks.demand(
    'signing key is of the kind that the report says',
    report.signingKey === key.kind,
    'SNP_KEY_KIND_MISMATCH',
    `${report.signingKey}, ${key.kind}`,
  );
  checks.demand(
    'leaf, intermediate and root',
    chain.length === 3,
    'CHAIN_INCOMPLETE',
    `${chain.length} certificates`,
  );
  verifyChain(chain, {
    at: trust.at,
    roots: [trust.roots[product]],
    algorithms: amdAlgorithms,
    leafKeyUsage: 'absent',
    cache: trust.cache,
  });
  checks.demand(`chain to the pinned root of ${product}`, true, 'ROOT_NOT_PINNED');
  checks.demand(
    'intermediate is the one for this kind of key',
    intermediate?.commonName === authorityOf({ kind: key.kind, product }),
    'SNP_AUTHORITY_MISMATCH',
    intermediate?.subjectText,
  );
  if (!revocationList || !intermediate || !root) checks.skip('revocation', 'no revocation list is given');
  else {
    // AMD's root signs the lists, and they name authorities: each VCEK and VLEK has the serial number 0.
    const rules = { at: trust.at, algorithms: amdAlgorithms, cache: trust.cache };
    requireNotRevoked(revocationList, root, intermediate, rules);
    requireNotRevoked(revocationList, root, root, rules);
    checks.demand('authority is not revoked', true, 'CERTIFICATE_REVOKED');
  }
  checks.demand('signature over the report', isSigned(report, leaf), 'SNP_SIGNATURE_INVALID');
  checks.demand(
    'reported TCB is the one of the key',
    equalBytes(report.reportedTcb, key.tcb),
    'SNP_TCB_MISMATCH',
    `${hex(report.reportedTcb)}, key ${hex(key.tcb)}`,
  );
  checks.demand(
    'reported and committed TCB are not above the current',
    isNotAbove(tcb.reported, tcb.current) && isNotAbove(tcb.committed, tcb.current),
    'SNP_TCB_INCONSISTENT',
  );
  if (key.hardwareId === undefined) checks.skip('chip', 'a VLEK names no chip');
  else
    checks.demand('chip is the one of the key', isChip(report, key.hardwareId, product), 'SNP_CHIP_MISMATCH');
  return trustOf(chain);
}

function isSigned(report: SnpReport, leaf: Certificate | undefined): boolean {
  if (!leaf) return false;
  return verify(
    'sha384',
    report.signed,
    { key: leaf.publicKey, dsaEncoding: 'ieee-p1363' },
    report.signature,
  );
}

function isNotAbove(tcb: Tcb, limit: Tcb): boolean {
  return componentsBelow(limit, tcb).length === 0;
}

/** Turin's chips have 8 bytes, in a field of 64. */
function isChip({ chipId }: SnpReport, hardwareId: Uint8Array, product: Product): boolean {
  return equalBytes(chipId.subarray(0, product === 'Turin' ? 8 : 64), hardwareId);
}
