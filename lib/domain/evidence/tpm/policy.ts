import type { KeyObject } from 'node:crypto';
import { equalBytes } from '../bytes.ts';
import { expectGeneration } from '../expect.ts';
import { type Generation, matchGeneration } from '../rollout.ts';
import type { Checklist } from '../verdict.ts';
import type { HashName } from './algorithms.ts';
import type { PcrBanks } from './pcrs.ts';
import type { TpmEvidence } from './verify.ts';

export interface TpmPolicy {
  readonly banks: readonly HashName[];
  /** PCRs that the quote must select, these and no others; left out: any, but at least one. */
  readonly pcrs?: readonly number[] | undefined;
  /** Allowed values by `PCR<n>`, in any one quoted bank; empty: not looked at. */
  readonly generations: readonly Generation[];
}

export const defaultTpmPolicy: TpmPolicy = { banks: ['sha256', 'sha384', 'sha512'], generations: [] };

/** What the caller knows of this one quote. */
export interface TpmExpectation {
  readonly nonce?: Uint8Array | undefined;
  /** Whether the key is of this VM's TPM (binding.ts); left out: the caller vouches for the key. */
  readonly keyIsBound?: ((key: KeyObject, quoted: PcrBanks) => boolean) | undefined;
}

export function judgeTpm(
  { quote, ak, pcrs }: TpmEvidence,
  policy: TpmPolicy,
  expected: TpmExpectation,
  at: Date,
  checks: Checklist,
): void {
  // A bank of which nothing is selected says nothing.
  const used = quote.selections.filter((selection) => selection.pcrs.length > 0);
  const banks = quote.selections.map(({ bank }) => bank);
  const isAllowed = banks.length > 0 && used.every(({ bank }) => policy.banks.includes(bank));
  checks.expect('banks', isAllowed, 'TPM_BANK', banks.join(', ') || 'none');
  const indexes = used.map((selection) => selection.pcrs);
  const isSelected =
    used.length > 0 && indexes.every((each) => !policy.pcrs || sameNumbers(each, policy.pcrs));
  checks.expect('selected PCRs', isSelected, 'TPM_PCR_SELECTION', indexes.join('; ') || 'none');
  if (expected.nonce === undefined) checks.skip('nonce', 'none is expected');
  else checks.expect('nonce', equalBytes(quote.extraData, expected.nonce), 'NONCE_MISMATCH');
  if (expected.keyIsBound === undefined) checks.skip('key is of this VM’s TPM', 'the caller vouches for it');
  else checks.expect('key is of this VM’s TPM', expected.keyIsBound(ak.key, pcrs), 'TPM_KEY_NOT_BOUND');
  if (policy.generations.length === 0) checks.skip('measurement', 'no generations are named');
  else {
    const measured = [...pcrs.values()].map((values) =>
      Object.fromEntries([...values].map(([index, value]) => [`PCR${index}`, value])),
    );
    // Digests of another bank have another length, and match nothing.
    const known = measured.find((each) => matchGeneration(policy.generations, each, at).kind !== 'unknown');
    expectGeneration(policy.generations, known ?? {}, at, checks);
  }
}

function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  return new Set(a).size === new Set(b).size && a.every((value) => b.includes(value));
}
