import { hex } from '../bytes.ts';
import type { ChainCache } from '../chain.ts';
import { judge, type Verdict } from '../verdict.ts';
import { parseSnpReport } from './bytes.ts';
import { awsRegion, defaultSnpPolicy, judgeSnp, type SnpExpectation, type SnpPolicy } from './policy.ts';
import type { Product, Tcb } from './tcb.ts';
import { type AmdRoots, amdRoots, readSnpEvidence, type SnpEvidence, verifySnpEvidence } from './verify.ts';

export { defaultSnpPolicy, type SnpExpectation, type SnpPolicy } from './policy.ts';
export { type AmdRoots, amdRoots } from './verify.ts';

export interface SnpInput {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  /** DER or PEM, leaf (VCEK or VLEK) first, then ASK or ASVK, then ARK. */
  readonly certificates: readonly Uint8Array[];
  /** AMD's revocation list of the product, DER. */
  readonly crl?: Uint8Array | undefined;
  readonly at: Date;
  readonly policy?: SnpPolicy | undefined;
  readonly expected?: SnpExpectation | undefined;
  readonly roots?: AmdRoots | undefined;
  readonly cache?: ChainCache | undefined;
}

/** What an accepted report says. It names no instance, and on EC2 it measures firmware, not the kernel. */
export interface SnpClaims {
  readonly product: Product;
  readonly version: number;
  readonly signingKey: 'VCEK' | 'VLEK' | 'none';
  readonly awsRegion: string | null;
  readonly chipId: string;
  readonly vmpl: number;
  readonly guestSvn: number;
  readonly debug: boolean;
  readonly migrationAgent: boolean;
  readonly smtAllowed: boolean;
  readonly aliasCheckComplete: boolean;
  readonly measurement: string;
  readonly reportData: string;
  readonly hostData: string;
  readonly idKeyDigest: string;
  readonly authorKeyDigest: string;
  readonly familyId: string;
  readonly imageId: string;
  readonly reportId: string;
  readonly tcb: Readonly<Record<'current' | 'reported' | 'committed' | 'launch', Tcb>>;
  readonly attestsOperatingSystem: false;
}

/** Verifies an AMD SEV-SNP attestation report with its certificates, as of `at`. */
export function verifySnp(input: SnpInput): Verdict<SnpClaims> {
  const { at, roots = amdRoots, cache, policy = defaultSnpPolicy, expected = {} } = input;
  return judge({
    format: 'snp',
    parse: () => readSnpEvidence(parseSnpReport(input.report), input.certificates, input.crl, cache),
    verify: (evidence, checks) => verifySnpEvidence(evidence, { at, roots, cache }, checks),
    signedBytes: ({ report }) => report.signed,
    claims,
    policy: (evidence, checks) => judgeSnp(evidence, policy, expected, at, checks),
  });
}

function claims({ report, key, product, tcb }: SnpEvidence): SnpClaims {
  return {
    product,
    version: report.version,
    signingKey: report.signingKey,
    awsRegion: (key.cspId && awsRegion(key.cspId)) ?? null,
    chipId: hex(report.chipId),
    vmpl: report.vmpl,
    guestSvn: report.guestSvn,
    debug: report.policy.debug,
    migrationAgent: report.policy.migrateMa,
    smtAllowed: report.policy.smtAllowed,
    aliasCheckComplete: report.platform.aliasCheckComplete,
    measurement: hex(report.measurement),
    reportData: hex(report.reportData),
    hostData: hex(report.hostData),
    idKeyDigest: hex(report.idKeyDigest),
    authorKeyDigest: hex(report.authorKeyDigest),
    familyId: hex(report.familyId),
    imageId: hex(report.imageId),
    reportId: hex(report.reportId),
    tcb,
    attestsOperatingSystem: false,
  };
}
