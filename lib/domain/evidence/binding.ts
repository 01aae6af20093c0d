import type { KeyObject } from 'node:crypto';
import { hex, sha256 } from './bytes.ts';
import {
  defaultNitroPolicy,
  type NitroClaims,
  type NitroInput,
  type NitroPolicy,
  verifyNitro,
} from './nitro/index.ts';
import { defaultSnpPolicy, type SnpClaims, type SnpInput, type SnpPolicy, verifySnp } from './snp/index.ts';
import { type TpmClaims, type TpmInput, verifyTpm } from './tpm/index.ts';
import type { PcrBanks } from './tpm/pcrs.ts';
import { isSameKey } from './tpm/public-key.ts';
import type { Verdict } from './verdict.ts';

/** Who asked for evidence, and for what: what a genuine report of somebody else does not fit. */
export interface BindingContext {
  /** T of PROTOCOL.md, 64 bytes: everything that hardware signs for an agent carries it. */
  readonly transcript: Uint8Array;
  readonly instanceId: string;
  readonly region: string;
  readonly at: Date;
}

type Sent<Input> = Omit<Input, 'at' | 'expected'>;

/**
 * An SNP report counts for this VM only when its report data is T, its VLEK is of this Region, and EC2 itself says
 * that the instance runs with SEV-SNP: the report names no instance. It never attests the operating system.
 */
export function verifySnpFor(
  context: BindingContext,
  sent: Sent<SnpInput>,
  amdSevSnpAsserted: boolean,
): Verdict<SnpClaims> {
  const policy: SnpPolicy = { ...(sent.policy ?? defaultSnpPolicy), region: context.region };
  const expected = { reportData: requireTranscript(context), amdSevSnpAsserted };
  return verifySnp({ ...sent, policy, expected, at: context.at });
}

/**
 * A Nitro document counts for this VM when it is of its NitroTPM, in this Region, and its user data is T. An enclave's
 * says nothing of what its parent booted.
 */
export function verifyNitroFor(context: BindingContext, sent: Sent<NitroInput>): Verdict<NitroClaims> {
  const policy: NitroPolicy = {
    ...(sent.policy ?? defaultNitroPolicy),
    kinds: ['nitrotpm'],
    region: context.region,
  };
  const expected = { userData: requireTranscript(context), instanceId: context.instanceId };
  return verifyNitro({ ...sent, policy, expected, at: context.at });
}

/** What says whose TPM an attestation key is in. */
export type KeyProof =
  /** The key that was enrolled by credential activation against the endorsement key that EC2 reports. */
  | { readonly kind: 'credential'; readonly enrolledKey: Uint8Array }
  /** A NitroTPM document that carries the key, verified for the same VM and transcript, and says the same PCRs. */
  | { readonly kind: 'nitrotpm'; readonly verdict: Verdict<NitroClaims> };

/** A quote counts for this VM when its nonce is SHA-256(T) and one of the proofs says that its key is of this VM's TPM. */
export function verifyTpmFor(
  context: BindingContext,
  sent: Sent<TpmInput>,
  proofs: readonly KeyProof[],
): Verdict<TpmClaims> {
  const nonce = sha256(requireTranscript(context));
  const keyIsBound = (key: KeyObject, quoted: PcrBanks) =>
    proofs.some((proof) => isBound(key, quoted, proof, context));
  return verifyTpm({ ...sent, at: context.at, expected: { nonce, keyIsBound } });
}

function isBound(key: KeyObject, quoted: PcrBanks, proof: KeyProof, context: BindingContext): boolean {
  switch (proof.kind) {
    case 'credential':
      return isSameKey(key, proof.enrolledKey);
    case 'nitrotpm': {
      const { accepted, claims } = proof.verdict;
      return (
        accepted &&
        claims?.kind === 'nitrotpm' &&
        claims.instanceId === context.instanceId &&
        claims.publicKey !== null &&
        isSameKey(key, Buffer.from(claims.publicKey, 'hex')) &&
        isSaidBy(claims.pcrs, quoted)
      );
    }
  }
}

/**
 * The document's key is whatever the guest asked for, so it may be no key of a TPM at all: what is quoted under it
 * counts as far as the document itself says the same, in the bank that it has.
 */
function isSaidBy(pcrs: NitroClaims['pcrs'], quoted: PcrBanks): boolean {
  return [...quoted].every(([bank, values]) =>
    [...values].every(([index, value]) => bank === 'sha384' && pcrs[`PCR${index}`] === hex(value)),
  );
}

/** A caller that binds to anything else than 64 bytes has a bug; it must not turn into an acceptance. */
function requireTranscript({ transcript }: BindingContext): Uint8Array {
  if (transcript.length !== 64) throw new RangeError('a transcript has 64 bytes');
  return transcript;
}
