import { X509Certificate } from 'node:crypto';
import type { Attestation } from './attestation.ts';
import {
  type BindingContext,
  type KeyProof,
  verifyNitroFor,
  verifySnpFor,
  verifyTpmFor,
} from './evidence/binding.ts';
import type { NitroClaims } from './evidence/nitro/index.ts';
import type { EvidencePolicies } from './evidence/policy-file.ts';
import type { ReasonCode } from './evidence/reasons.ts';
import type { AmdRoots } from './evidence/snp/index.ts';
import type { Verdict } from './evidence/verdict.ts';
import type { ReportPayload } from './report.ts';
import { transcript } from './transcript.ts';
import type { VmItem } from './vm.ts';

/** Roots in place of the vendors' own, for a test hierarchy. */
export interface EvidenceRoots {
  readonly amd?: AmdRoots;
  readonly nitro?: readonly string[];
}

export interface EvidenceContext {
  readonly vm: VmItem;
  /** SPKI DER of the enrolled key. */
  readonly agentPublicKey: Uint8Array;
  /** SPKI DER of the key that activate-tpm found to be in this VM's own TPM. */
  readonly attestationKey?: Uint8Array | undefined;
  readonly apiOrigin: string;
  readonly receivedAt: Date;
  readonly policies: EvidencePolicies;
  readonly roots?: EvidenceRoots | undefined;
  /** CA certificates that verified this VLEK or VCEK before, when the evidence brings only the leaf. */
  readonly knownChain: (leaf: Uint8Array) => readonly Uint8Array[];
  /** AMD's current revocation list for the authority of this VLEK or VCEK, DER. */
  readonly revocationList: (leaf: Uint8Array) => Uint8Array | undefined;
}

export interface EvidenceOutcome {
  readonly attestations: readonly Attestation[];
  readonly refusals: readonly {
    readonly format: Attestation['format'];
    readonly reasons: readonly ReasonCode[];
  }[];
  /** Chains that verified, leaf first: nothing else may be remembered for others. */
  readonly verifiedChains: readonly (readonly string[])[];
}

/**
 * Verifies the evidence in an accepted report, its challenge already consumed, against T: purpose
 * `report`, this origin, account, Region and instance, the challenge, the enrolled key. Evidence of another
 * VM, of another challenge or for another purpose carries another T.
 *
 * An SNP report counts only together with EC2's own assertion for this very instance. A TPM quote counts
 * only when its key was activated against the endorsement key that EC2 reports, or a NitroTPM document in the
 * same report holds it: a second, self-made TPM has neither.
 */
export function judgeEvidence(payload: ReportPayload, context: EvidenceContext): EvidenceOutcome {
  const { accountId, region, instanceId } = context.vm.observation;
  const binding: BindingContext = {
    transcript: transcript({
      purpose: 'report',
      apiOrigin: context.apiOrigin,
      accountId,
      region,
      instanceId,
      nonce: Buffer.from(payload.nonce ?? '', 'base64'),
      agentPublicKey: context.agentPublicKey,
    }),
    instanceId,
    region,
    at: context.receivedAt,
  };
  const attestations: Attestation[] = [];
  const refusals: { format: Attestation['format']; reasons: readonly ReasonCode[] }[] = [];
  const verifiedChains: (readonly string[])[] = [];
  const settle = (verdict: Verdict, format: Attestation['format'], value: string) => {
    if (!verdict.accepted || verdict.evidenceId === null) {
      refusals.push({ format, reasons: verdict.reasons });
      return;
    }
    const verifiedAt = context.receivedAt.toISOString();
    attestations.push({ format, verifiedAt, bootId: payload.bootId, evidenceId: verdict.evidenceId, value });
  };
  const evidence = payload.evidence ?? [];
  let nitro: Verdict<NitroClaims> | undefined;
  for (const item of evidence) {
    if (item.format !== 'nitro') continue;
    nitro = verifyNitroFor(binding, {
      document: Buffer.from(item.document, 'base64'),
      policy: context.policies.nitro,
      roots: context.roots?.nitro,
    });
    settle(nitro, 'nitro', nitro.claims?.pcrs['PCR4'] ?? '');
  }
  for (const item of evidence) {
    if (item.format === 'snp') {
      const sent = item.certificates.map((certificate) => Buffer.from(certificate, 'base64'));
      const leaf = sent[0];
      const verdict = verifySnpFor(
        binding,
        {
          report: Buffer.from(item.report, 'base64'),
          certificates: sent.length === 1 && leaf ? [leaf, ...context.knownChain(leaf)] : sent,
          crl: leaf && context.revocationList(leaf),
          policy: context.policies.snp,
          roots: context.roots?.amd,
        },
        context.vm.observation.amdSevSnp === 'enabled',
      );
      settle(verdict, 'snp', verdict.claims?.measurement ?? '');
      if (verdict.accepted) verifiedChains.push(item.certificates);
    }
    if (item.format === 'tpm') {
      const proofs: KeyProof[] = [];
      if (context.attestationKey) proofs.push({ kind: 'credential', enrolledKey: context.attestationKey });
      if (nitro) proofs.push({ kind: 'nitrotpm', verdict: nitro });
      const verdict = verifyTpmFor(
        binding,
        {
          attest: Buffer.from(item.attest, 'base64'),
          signature: Buffer.from(item.signature, 'base64'),
          ak: Buffer.from(item.ak, 'base64'),
          pcrs: Buffer.from(item.pcrs, 'base64'),
          policy: context.policies.tpm,
        },
        proofs,
      );
      settle(verdict, 'tpm', verdict.claims?.key ?? '');
    }
  }
  return { attestations, refusals, verifiedChains };
}

/**
 * The CA certificates above a leaf among configured ones, in the order of a chain; empty when they are not
 * there. By name and signature alone: validity, usage and the pinned root are judged with the evidence.
 */
export function chainAbove(leaf: Uint8Array, authorities: readonly X509Certificate[]): readonly Uint8Array[] {
  const chain: X509Certificate[] = [];
  let below: X509Certificate;
  try {
    below = new X509Certificate(leaf);
  } catch {
    return []; // no certificate: judged as malformed with the evidence
  }
  for (let length = 0; length < 3; length++) {
    const issuer = authorities.find(
      (ca) => below.issuer === ca.subject && below.fingerprint256 !== ca.fingerprint256,
    );
    if (!issuer) break;
    chain.push(issuer);
    below = issuer;
  }
  return chain.map((certificate) => certificate.raw);
}
