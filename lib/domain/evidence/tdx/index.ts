import { hex } from '../bytes.ts';
import type { ChainCache } from '../chain.ts';
import { judge, type Verdict } from '../verdict.ts';
import { parseTdxQuote } from './bytes.ts';
import { type Collateral, parseCollateral, verifyCollateral } from './collateral.ts';
import { defaultTdxPolicy, judgeTdx, type TdxExpectation, type TdxPolicy } from './policy.ts';
import { intelRoots, readTdxEvidence, type TdxEvidence, verifyTdxEvidence } from './verify.ts';

export { defaultTdxPolicy, type TdxExpectation, type TdxPolicy } from './policy.ts';

export interface TdxInput {
  readonly quote: Uint8Array;
  /** JSON: TCB info, QE identity and revocation lists with their signatures and chains. */
  readonly collateral?: Uint8Array | undefined;
  readonly at: Date;
  readonly policy?: TdxPolicy | undefined;
  readonly expected?: TdxExpectation | undefined;
  readonly roots?: readonly string[] | undefined;
  readonly cache?: ChainCache | undefined;
}

export interface TdxClaims {
  readonly version: 4 | 5;
  readonly fmspc: string;
  readonly teeTcbSvn: string;
  readonly tdAttributes: string;
  readonly debug: boolean;
  readonly xfam: string;
  readonly mrSeam: string;
  readonly mrTd: string;
  readonly mrConfigId: string;
  readonly mrOwner: string;
  readonly mrOwnerConfig: string;
  readonly mrServiceTd: string | null;
  readonly rtmrs: readonly string[];
  readonly reportData: string;
}

/** Verifies an Intel TDX quote (version 4 or 5) as of `at`. EC2 has no TDX guests: this serves the command line. */
export function verifyTdx(input: TdxInput): Verdict<TdxClaims> {
  const { at, roots = intelRoots, cache, policy = defaultTdxPolicy, expected = {} } = input;
  const trust = { at, roots, cache };
  return judge({
    format: 'tdx',
    parse: () => ({
      evidence: readTdxEvidence(parseTdxQuote(input.quote), cache),
      collateral: input.collateral && readCollateral(input.collateral, cache),
    }),
    verify: ({ evidence, collateral }, checks) => {
      const trusted = verifyTdxEvidence(evidence, trust, checks);
      if (!collateral) checks.skip('collateral', 'none was given');
      else {
        verifyCollateral(collateral, evidence.chain, trust);
        checks.demand('collateral', true, 'TDX_COLLATERAL_INVALID');
      }
      return trusted;
    },
    signedBytes: ({ evidence }) => evidence.quote.signed,
    claims: ({ evidence }) => claims(evidence),
    policy: ({ evidence, collateral }, checks) =>
      judgeTdx(evidence, collateral, policy, expected, at, checks),
  });
}

/** Collateral is the same for many quotes, for weeks. */
function readCollateral(bytes: Uint8Array, cache: ChainCache | undefined): Collateral {
  return cache ? cache.remember(bytes, parseCollateral) : parseCollateral(bytes);
}

function claims({ quote, platform }: TdxEvidence): TdxClaims {
  const { body } = quote;
  return {
    version: quote.version,
    fmspc: platform.fmspc,
    teeTcbSvn: hex(body.teeTcbSvn),
    tdAttributes: hex(body.tdAttributes),
    debug: ((body.tdAttributes[0] ?? 0) & 1) === 1,
    xfam: hex(body.xfam),
    mrSeam: hex(body.mrSeam),
    mrTd: hex(body.mrTd),
    mrConfigId: hex(body.mrConfigId),
    mrOwner: hex(body.mrOwner),
    mrOwnerConfig: hex(body.mrOwnerConfig),
    mrServiceTd: body.mrServiceTd ? hex(body.mrServiceTd) : null,
    rtmrs: body.rtmrs.map(hex),
    reportData: hex(body.reportData),
  };
}
