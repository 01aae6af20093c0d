import { equalBytes } from '../bytes.ts';
import { expectGeneration } from '../expect.ts';
import type { Generation } from '../rollout.ts';
import type { Checklist } from '../verdict.ts';
import { componentsBelow, type Tcb } from './tcb.ts';
import type { SnpEvidence } from './verify.ts';

export interface SnpPolicy {
  /** Debug lets the host read the guest's memory. */
  readonly allowDebug: boolean;
  /** A migration agent can move the guest elsewhere. */
  readonly allowMigrationAgent: boolean;
  readonly allowSmt: boolean;
  /** BadRAM: demands that firmware checked for aliased memory (report version 3 and up). */
  readonly requireAliasCheck: boolean;
  readonly vmpl: readonly number[];
  readonly keys: readonly ('VCEK' | 'VLEK')[];
  /** AWS Region that a VLEK must be of; left out: any Region of AWS. */
  readonly region?: string | undefined;
  /**
   * Least levels by product (`Milan`), or by family and model in hex (`19/11`), which goes first. What is not
   * named has no minimum.
   */
  readonly minimumTcb: Readonly<Record<string, Partial<Tcb>>>;
  readonly minimumGuestSvn: number;
  /** Refuses where no current revocation list of AMD is at hand. One that is there is read in any case. */
  readonly requireRevocationList: boolean;
  /** Allowed launch digests as `measurement`; empty: not looked at. */
  readonly generations: readonly Generation[];
}

/**
 * Safe for EC2, whose only SNP processor is Milan: levels from its 2022 firmware on. SMT is on in every EC2
 * guest. The kernel runs at VMPL 0 where there is no paravisor.
 *
 * Genoa and Turin: microcode that verifies its updates (CVE-2024-56161; the first such patch levels are those behind
 * `need_sha_check` of Linux, arch/x86/kernel/cpu/microcode/amd.c, and the TCB holds their last byte: Genoa-X 4F,
 * Genoa 54, Bergamo and Siena 19, Turin 47), and for Genoa the SEV firmware that attests it (AMD-SB-3019).
 */
export const defaultSnpPolicy: SnpPolicy = {
  allowDebug: false,
  allowMigrationAgent: false,
  allowSmt: true,
  requireAliasCheck: false,
  vmpl: [0],
  keys: ['VCEK', 'VLEK'],
  minimumTcb: {
    Milan: { bootloader: 3, tee: 0, snp: 8, microcode: 115 },
    Genoa: { snp: 0x17, microcode: 0x19 },
    '19/11': { snp: 0x17, microcode: 0x4f },
    Turin: { microcode: 0x47 },
  },
  minimumGuestSvn: 0,
  requireRevocationList: false,
  generations: [],
};

/** What the caller knows of this one report. */
export interface SnpExpectation {
  /** 64 bytes that the guest had to put into the report. */
  readonly reportData?: Uint8Array | undefined;
  /** Whether EC2 itself says that this instance runs with SEV-SNP. */
  readonly amdSevSnpAsserted?: boolean | undefined;
}

export function judgeSnp(
  evidence: SnpEvidence,
  policy: SnpPolicy,
  expected: SnpExpectation,
  at: Date,
  checks: Checklist,
): void {
  const { report, key, revocationList, product, tcb } = evidence;
  const { policy: guest } = report;
  checks.expect('no debugging', policy.allowDebug || !guest.debug, 'SNP_DEBUG');
  checks.expect('no migration agent', policy.allowMigrationAgent || !guest.migrateMa, 'SNP_MIGRATION_AGENT');
  checks.expect('SMT', policy.allowSmt || !guest.smtAllowed, 'SNP_SMT');
  checks.expect('VMPL', policy.vmpl.includes(report.vmpl), 'SNP_VMPL', `${report.vmpl}`);
  checks.expect('kind of key', policy.keys.includes(key.kind), 'SNP_KEY_KIND', key.kind);
  checks.expect(
    'guest SVN',
    report.guestSvn >= policy.minimumGuestSvn,
    'SNP_GUEST_SVN',
    `${report.guestSvn}`,
  );
  if (policy.requireAliasCheck) {
    checks.expect('memory checked for aliases', report.platform.aliasCheckComplete, 'SNP_ALIAS_CHECK');
  }
  if (key.cspId !== undefined) {
    const region = awsRegion(key.cspId);
    checks.expect('VLEK is of AWS', region !== undefined, 'SNP_VLEK_NOT_AWS', key.cspId);
    if (policy.region === undefined) checks.skip('Region of the VLEK', 'none is demanded');
    else checks.expect('Region of the VLEK', region === policy.region, 'SNP_REGION_MISMATCH', region);
  }
  if (policy.requireRevocationList) {
    checks.expect('revocation list', revocationList !== undefined, 'REVOCATION_LIST_MISSING');
  }
  const minimum = minimumFor(evidence, policy);
  if (!minimum) checks.skip('minimum TCB', `no minimum for ${product}`);
  else {
    const below = componentsBelow(tcb.reported, minimum);
    checks.expect('minimum TCB', below.length === 0, 'SNP_TCB_TOO_OLD', below.join(', ') || undefined);
  }
  if (policy.generations.length === 0) checks.skip('measurement', 'no generations are named');
  else expectGeneration(policy.generations, { measurement: report.measurement }, at, checks);
  if (expected.reportData === undefined) checks.skip('report data', 'none is expected');
  else
    checks.expect('report data', equalBytes(report.reportData, expected.reportData), 'REPORT_DATA_MISMATCH');
  if (expected.amdSevSnpAsserted === undefined) checks.skip('EC2 says AmdSevSnp', 'EC2 was not asked');
  else checks.expect('EC2 says AmdSevSnp', expected.amdSevSnpAsserted, 'SNP_NOT_ASSERTED');
}

/** `CN=cc-us-east-2.amazonaws.com` names AWS and its Region. */
export function awsRegion(cspId: string): string | undefined {
  return /^CN=cc-([a-z]{2,}(?:-[a-z]+)+-\d+)\.amazonaws\.com(?:\.cn)?$/.exec(cspId)?.[1];
}

function minimumFor({ report, product }: SnpEvidence, policy: SnpPolicy): Partial<Tcb> | undefined {
  const { cpu } = report;
  const model = cpu && `${byteHex(cpu.family)}/${byteHex(cpu.model)}`;
  const byModel =
    model !== undefined && Object.hasOwn(policy.minimumTcb, model) ? policy.minimumTcb[model] : undefined;
  return byModel ?? (Object.hasOwn(policy.minimumTcb, product) ? policy.minimumTcb[product] : undefined);
}

function byteHex(value: number): string {
  return value.toString(16).padStart(2, '0');
}
