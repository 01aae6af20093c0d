import * as z from 'zod';
import { isEvidenceFresh } from './evidence/freshness.ts';
import { utcTime } from './ids.ts';
import type { PolicyFactId } from './policy-facts.ts';

/** What hardware signed, as the store keeps it after it was verified. */
export const attestation = z.strictObject({
  format: z.enum(['snp', 'nitro', 'tpm']),
  /** When the pipeline received it; its age counts from here. */
  verifiedAt: utcTime,
  bootId: z.uuid(),
  /** SHA-256 of the signed bytes. */
  evidenceId: z.string(),
  /** Measurement, PCR digest or the like, for people. */
  value: z.string(),
});
export type Attestation = z.infer<typeof attestation>;

/** The fact that each kind of evidence attests. None of them attests the operating system by itself. */
const ATTESTS: Readonly<Record<Attestation['format'], PolicyFactId>> = {
  snp: 'mem.sev-snp.guest',
  nitro: 'attest.nitrotpm',
  tpm: 'attest.tpm-quote',
};

/** The attestations that are young enough to hold a posture up. */
export function freshAttestations(
  attestations: readonly Attestation[],
  maxAgeSeconds: number,
  now: Date,
): readonly Attestation[] {
  return attestations.filter((a) => isEvidenceFresh(new Date(a.verifiedAt), now, maxAgeSeconds));
}

/** The fact that an attestation turns from claimed into attested. */
export function attestedFact(format: Attestation['format']): PolicyFactId {
  return ATTESTS[format];
}
