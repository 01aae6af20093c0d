import { equalBytes, hex, isZero } from '../bytes.ts';
import { expectGeneration } from '../expect.ts';
import type { Generation } from '../rollout.ts';
import type { Checklist } from '../verdict.ts';
import type { Collateral } from './collateral.ts';
import { enclaveStatus, moduleStatus, platformStatus, type TcbStatus } from './tcb.ts';
import type { TdxEvidence } from './verify.ts';

export interface TdxPolicy {
  readonly allowDebug: boolean;
  readonly allowMigratable: boolean;
  /** Without Intel's collateral nobody knows whether the platform has known holes. */
  readonly requireCollateral: boolean;
  /** Statuses of Intel's that are good enough. */
  readonly tcbStatuses: readonly ('UpToDate' | 'SWHardeningNeeded')[];
  /** MRSERVICETD of a service TD that may be bound; left out: none may. */
  readonly serviceTd?: Uint8Array | undefined;
  /** Allowed `MRTD` and `RTMR0` to `RTMR3`; empty: not looked at. */
  readonly generations: readonly Generation[];
}

export const defaultTdxPolicy: TdxPolicy = {
  allowDebug: false,
  allowMigratable: false,
  requireCollateral: true,
  tcbStatuses: ['UpToDate'],
  generations: [],
};

/** What the caller knows of this one quote. */
export interface TdxExpectation {
  readonly reportData?: Uint8Array | undefined;
}

/** MRSIGNER and product of Intel's TD quoting enclave, for when no collateral says it. */
const intelQe = {
  mrSigner: 'dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5',
  isvProdId: 2,
};
const sgxDebug = 0x02;
/** DEBUG, LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA, PERFMON: Intel TDX Module ABI 1.5, TD_ATTRIBUTES. */
const knownAttributes = [0n, 27n, 28n, 29n, 30n, 31n, 62n, 63n].reduce((mask, bit) => mask | (1n << bit), 0n);

export function judgeTdx(
  evidence: TdxEvidence,
  collateral: Collateral | undefined,
  policy: TdxPolicy,
  expected: TdxExpectation,
  at: Date,
  checks: Checklist,
): void {
  const { body, qeReport } = evidence.quote;
  const attributes = Buffer.from(body.tdAttributes).readBigUInt64LE();
  const xfam = Buffer.from(body.xfam).readBigUInt64LE();
  const has = (position: bigint) => ((attributes >> position) & 1n) === 1n;
  checks.expect('no debugging', policy.allowDebug || !has(0n), 'TDX_DEBUG');
  checks.expect(
    'no reserved attributes',
    (attributes & ~knownAttributes) === 0n && (xfam & 3n) === 3n,
    'TDX_ATTRIBUTES',
  );
  checks.expect(
    'SEPT_VE_DISABLE',
    has(28n),
    'TDX_SEPT_VE',
    'a #VE on a page gives the host a hold on the guest',
  );
  checks.expect('not migratable', policy.allowMigratable || !has(29n), 'TDX_MIGRATABLE');
  checks.expect('module is Intel’s', isZero(body.mrSignerSeam) && isZero(body.seamAttributes), 'TDX_MODULE');
  const service = policy.serviceTd ?? new Uint8Array(48);
  checks.expect('service TD', equalBytes(body.mrServiceTd ?? new Uint8Array(48), service), 'TDX_SERVICE_TD');
  const isIntels =
    hex(qeReport.mrSigner) === intelQe.mrSigner &&
    qeReport.isvProdId === intelQe.isvProdId &&
    ((qeReport.attributes[0] ?? sgxDebug) & sgxDebug) === 0;
  checks.expect('quoting enclave is Intel’s', isIntels, 'TDX_QE_IDENTITY');
  if (collateral) {
    const { tcbInfo, qeIdentity } = collateral;
    expectStatus('TCB of the platform', platformStatus(tcbInfo, evidence.platform, body), policy, checks);
    expectStatus('TCB of the TDX module', moduleStatus(tcbInfo, body), policy, checks);
    expectStatus('TCB of the quoting enclave', enclaveStatus(qeIdentity, qeReport), policy, checks);
  } else if (policy.requireCollateral) checks.expect('TCB', false, 'TDX_COLLATERAL_MISSING');
  else checks.skip('TCB', 'no collateral');
  if (policy.generations.length === 0) checks.skip('measurement', 'no generations are named');
  else {
    const rtmrs = body.rtmrs.map((value, index) => [`RTMR${index}`, value] as const);
    expectGeneration(policy.generations, Object.fromEntries([['MRTD', body.mrTd], ...rtmrs]), at, checks);
  }
  if (expected.reportData === undefined) checks.skip('report data', 'none is expected');
  else checks.expect('report data', equalBytes(body.reportData, expected.reportData), 'REPORT_DATA_MISMATCH');
}

function expectStatus(name: string, status: TcbStatus, policy: TdxPolicy, checks: Checklist): void {
  const isGood =
    status.kind === 'status' && (policy.tcbStatuses as readonly string[]).includes(status.status);
  const reason = status.kind === 'none' ? 'TDX_TCB_UNKNOWN' : 'TDX_TCB_STATUS';
  checks.expect(name, isGood, reason, status.kind === 'none' ? status.why : status.status);
}
