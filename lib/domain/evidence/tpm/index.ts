import { hex, sha256 } from '../bytes.ts';
import { judge, type Verdict } from '../verdict.ts';
import type { HashName } from './algorithms.ts';
import { parseQuote, parseSignature } from './bytes.ts';
import { parsePcrs } from './pcrs.ts';
import { defaultTpmPolicy, judgeTpm, type TpmExpectation, type TpmPolicy } from './policy.ts';
import { parsePublicKey } from './public-key.ts';
import { type TpmEvidence, verifyTpmEvidence } from './verify.ts';

export { defaultTpmPolicy, type TpmExpectation, type TpmPolicy } from './policy.ts';
export { parsePublicKey } from './public-key.ts';

export interface TpmInput {
  /** TPMS_ATTEST or TPM2B_ATTEST. */
  readonly attest: Uint8Array;
  /** TPMT_SIGNATURE, or a bare signature. */
  readonly signature: Uint8Array;
  /** The attestation key: TPMT_PUBLIC, TPM2B_PUBLIC, or SPKI in DER or PEM. */
  readonly ak: Uint8Array;
  /** PCR values: JSON or tpm2_quote's file. */
  readonly pcrs: Uint8Array;
  readonly at: Date;
  readonly policy?: TpmPolicy | undefined;
  readonly expected?: TpmExpectation | undefined;
}

export interface TpmClaims {
  /** Hex SHA-256 of the attestation key's SPKI. */
  readonly key: string;
  readonly pcrs: Readonly<Partial<Record<HashName, Readonly<Record<string, string>>>>>;
  readonly nonce: string;
  readonly qualifiedSigner: string;
  /** Milliseconds that this TPM has been on; a decimal, since it may exceed a JavaScript number. */
  readonly clock: string;
  readonly resetCount: number;
  readonly restartCount: number;
  readonly clockIsSafe: boolean;
  readonly firmwareVersion: string;
}

/** Verifies a TPM 2.0 quote under an attestation key, as of `at`. */
export function verifyTpm(input: TpmInput): Verdict<TpmClaims> {
  const { at, policy = defaultTpmPolicy, expected = {} } = input;
  return judge({
    format: 'tpm',
    parse: () => {
      const quote = parseQuote(input.attest);
      const ak = parsePublicKey(input.ak);
      const { modulusLength } = ak.key.asymmetricKeyDetails ?? {};
      return {
        quote,
        signature: parseSignature(input.signature, {
          digestBytes: quote.pcrDigest.length,
          modulusBytes: modulusLength && modulusLength / 8,
        }),
        ak,
        pcrs: parsePcrs(input.pcrs, quote.selections),
      };
    },
    verify: verifyTpmEvidence,
    signedBytes: ({ quote }) => quote.signed,
    claims,
    policy: (evidence, checks) => judgeTpm(evidence, policy, expected, at, checks),
  });
}

function claims({ quote, ak, pcrs }: TpmEvidence): TpmClaims {
  const banks = [...pcrs].map(([bank, values]) => [
    bank,
    Object.fromEntries([...values].map(([index, value]) => [`PCR${index}`, hex(value)])),
  ]);
  return {
    key: hex(sha256(ak.key.export({ format: 'der', type: 'spki' }))),
    pcrs: Object.fromEntries(banks),
    nonce: hex(quote.extraData),
    qualifiedSigner: hex(quote.qualifiedSigner),
    clock: quote.clock.toString(),
    resetCount: quote.resetCount,
    restartCount: quote.restartCount,
    clockIsSafe: quote.safe,
    firmwareVersion: quote.firmwareVersion.toString(16).padStart(16, '0'),
  };
}
