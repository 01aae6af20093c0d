import { type Certificate, parseCertificate, parsePem } from '../certificate.ts';
import { verifyAuthorities } from '../chain.ts';
import { EvidenceError } from '../reasons.ts';
import { parseRevocationList, type RevocationList, requireCurrent } from '../revocation-list.ts';
import { type KeyCertificate, readKeyCertificate } from './key-certificate.ts';
import { type AmdRoots, amdAlgorithms, amdRoots, authorityOf } from './verify.ts';

/** Which authority of AMD: the one of a product's chips (VCEK), or of the clouds that use them (VLEK). */
export type AmdAuthority = Pick<KeyCertificate, 'kind' | 'product'>;

/** What AMD publishes about one authority, verified. */
export interface AmdCollateral {
  /** ASK or ASVK, then ARK; DER. */
  readonly certificates: readonly Uint8Array[];
  /** Until when all of them are valid. */
  readonly notAfter: Date;
  /** The list that the ARK signed, DER. */
  readonly crl: Uint8Array;
  readonly list: RevocationList;
}

/**
 * Verifies the answers of AMD's key distribution service (57230, chapter 4) for one authority: the chain ends in
 * the pinned root, the root signed the list, and both are current.
 *
 * @param chain PEM of `/{vcek|vlek}/v1/{product}/cert_chain`: ASK or ASVK, then ARK
 * @param crl DER of `/{vcek|vlek}/v1/{product}/crl`
 * @throws EvidenceError
 */
export function readAmdCollateral(
  authority: AmdAuthority,
  chain: string,
  crl: Uint8Array,
  at: Date,
  roots: AmdRoots = amdRoots,
): AmdCollateral {
  const certificates = parsePem(chain);
  const [intermediate, root] = certificates;
  if (!intermediate || !root || certificates.length !== 2) {
    throw new EvidenceError('CHAIN_INCOMPLETE', `${certificates.length} certificates`);
  }
  verifyAuthorities(certificates, { at, roots: [roots[authority.product]], algorithms: amdAlgorithms });
  if (intermediate.commonName !== authorityOf(authority)) {
    throw new EvidenceError('SNP_AUTHORITY_MISMATCH', intermediate.subjectText);
  }
  const list = parseRevocationList(crl);
  requireCurrent(list, root, { at, algorithms: amdAlgorithms });
  return {
    certificates: certificates.map(({ der }) => der),
    notAfter: earliest(certificates),
    crl,
    list,
  };
}

/** Whose collateral a VCEK or VLEK needs; undefined for what is neither, which is judged with its report. */
export function amdAuthorityOf(leaf: Uint8Array): AmdAuthority | undefined {
  try {
    const { kind, product } = readKeyCertificate(parseCertificate(leaf));
    return { kind, product };
  } catch {
    return undefined;
  }
}

function earliest(certificates: readonly Certificate[]): Date {
  return new Date(Math.min(...certificates.map(({ notAfter }) => notAfter.getTime())));
}
