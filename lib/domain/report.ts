import * as z from 'zod';
import { factSchema } from './fact.ts';
import { accountId, instanceId, region, utcTime } from './ids.ts';
import type { Reason } from './reasons.ts';
import { parseAgentPublicKey, verifyAgentSignature } from './signature.ts';
import { signedBytes } from './transcript.ts';
import type { VmItem } from './vm.ts';

/** An EventBridge entry holds 256 KiB; a report of every fact is about 40 kB. */
export const MAX_PAYLOAD_CHARS = 200_000;

/** How far the agent's clock may be from the time at which the pipeline received the report. */
export const MAX_CLOCK_SKEW_SECONDS = 5 * 60;

const evidenceBytes = (max: number) => z.base64().max(max);

/** What hardware signed over T with the report's challenge; lib/domain/attestation.ts verifies it. */
export const reportEvidence = z.discriminatedUnion('format', [
  z.strictObject({
    format: z.literal('snp'),
    report: evidenceBytes(2_000),
    /** Leaf first; the leaf alone when the pipeline has seen its chain before. */
    certificates: z.array(evidenceBytes(8_000)).min(1).max(4),
  }),
  z.strictObject({ format: z.literal('nitro'), document: evidenceBytes(32_000) }),
  z.strictObject({
    format: z.literal('tpm'),
    attest: evidenceBytes(4_000),
    signature: evidenceBytes(4_000),
    ak: evidenceBytes(4_000),
    pcrs: evidenceBytes(16_000),
  }),
]);

/** What the agent signs, as one JSON string, so that nothing has to be canonicalised to verify it. */
export const reportPayload = z.strictObject({
  schema: z.literal('casemate.report/1'),
  accountId,
  region,
  instanceId,
  bootId: z.uuid(),
  /** Counts from 1 in each boot. */
  sequence: z.number().int().positive(),
  /** When the facts were measured. A report that waited in the spool is as old as this. */
  observedAt: utcTime,
  /** When it was signed, just before it was sent. */
  sentAt: utcTime,
  agentVersion: z.string().max(32),
  facts: z
    .array(factSchema)
    .max(512)
    .refine((facts) => new Set(facts.map((fact) => fact.id)).size === facts.length, {
      error: 'a fact twice',
    }),
  /** The challenge that the evidence answers, 32 bytes. */
  nonce: z.base64().length(44).optional(),
  evidence: z.array(reportEvidence).max(4).optional(),
});
export type ReportPayload = z.infer<typeof reportPayload>;

/** Detail of a `Capability Report`. */
export const capabilityReportDetail = z.strictObject({
  schemaVersion: z.literal(1),
  instanceId,
  payload: z.string().max(MAX_PAYLOAD_CHARS),
  /** By the enrolled key, over T(purpose `report`) and SHA-512 of `payload`; R || S, base64. */
  signature: z.base64().max(128),
});
export type CapabilityReportDetail = z.infer<typeof capabilityReportDetail>;

/** The `enrol#` item. */
export const enrolItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  /** SPKI DER, base64. */
  publicKey: z.base64(),
  enrolledAt: utcTime,
});
export type EnrolItem = z.infer<typeof enrolItem>;

/** Where a VM's stream of reports stands. */
export const reportStanding = z.strictObject({
  bootId: z.uuid(),
  sequence: z.number().int(),
  sentAt: utcTime,
  observedAt: utcTime,
  /** Sequence numbers of this boot that never arrived before a higher one did. */
  missing: z.number().int(),
  /** Reports that came late or twice; each changed nothing. */
  late: z.number().int(),
});
export type ReportStanding = z.infer<typeof reportStanding>;

export type ReportJudgement =
  | { readonly kind: 'accept'; readonly payload: ReportPayload; readonly standing: ReportStanding }
  | { readonly kind: 'late'; readonly standing: ReportStanding }
  | {
      readonly kind: 'refuse';
      readonly reason: Reason;
      /** Signed by the enrolled key over this payload: only then does it count against the VM. */
      readonly authenticated: boolean;
      /** A contradicting report takes its place in the stream, or an older one could undo it. */
      readonly standing?: ReportStanding;
    };

export interface ReportContext {
  readonly vm: VmItem | undefined;
  readonly enrolment: EnrolItem | undefined;
  readonly standing: ReportStanding | null;
  readonly apiOrigin: string;
  /** When the pipeline's queue took the event in; the agent can set no part of it. */
  readonly receivedAt: Date;
}

/**
 * Judges one report. Nothing in the payload is looked at before its signature verified, and a refusal
 * says whether the enrolled key made the report, because only then may it count against the VM.
 *
 * Delivery is unordered and lossy: any higher sequence of the present boot is accepted and the numbers
 * jumped over are counted; what is lower or equal is counted and ignored. Another boot is accepted only if
 * it was sent later than all that was accepted before, so that a report of an earlier boot cannot be
 * replayed.
 */
export function judgeReport(detail: CapabilityReportDetail, context: ReportContext): ReportJudgement {
  const { vm, enrolment } = context;
  if (!vm?.managed) return { kind: 'refuse', reason: 'REPORT_UNKNOWN_VM', authenticated: false };
  if (!enrolment) return { kind: 'refuse', reason: 'REPORT_UNKNOWN_KEY', authenticated: false };
  const { accountId: account, region: vmRegion, instanceId: vmId } = vm.observation;
  const spki = Buffer.from(enrolment.publicKey, 'base64');
  const key = parseAgentPublicKey(spki);
  if (!key) return { kind: 'refuse', reason: 'REPORT_UNKNOWN_KEY', authenticated: false };
  const bytes = signedBytes(
    {
      purpose: 'report',
      apiOrigin: context.apiOrigin,
      accountId: account,
      region: vmRegion,
      instanceId: vmId,
      agentPublicKey: spki,
    },
    detail.payload,
  );
  if (!verifyAgentSignature(key, bytes, Buffer.from(detail.signature, 'base64'))) {
    return { kind: 'refuse', reason: 'REPORT_BAD_SIGNATURE', authenticated: false };
  }
  const payload = parsePayload(detail.payload);
  if (!payload) return { kind: 'refuse', reason: 'REPORT_MALFORMED', authenticated: true };
  if (payload.instanceId !== vmId) {
    return { kind: 'refuse', reason: 'REPORT_FOREIGN_INSTANCE', authenticated: true };
  }
  if (payload.accountId !== account || payload.region !== vmRegion) {
    return { kind: 'refuse', reason: 'REPORT_FOREIGN_ACCOUNT', authenticated: true };
  }
  const skewSeconds = Math.abs(context.receivedAt.getTime() - Date.parse(payload.sentAt)) / 1000;
  if (skewSeconds > MAX_CLOCK_SKEW_SECONDS || Date.parse(payload.observedAt) > Date.parse(payload.sentAt)) {
    return { kind: 'refuse', reason: 'REPORT_TIME_SKEW', authenticated: true };
  }
  const standing = nextStanding(context.standing, payload);
  if (standing.kind === 'late') return standing;
  return contradiction(payload, vm)
    ? {
        kind: 'refuse',
        reason: 'FACT_CONTRADICTS_EC2',
        authenticated: true,
        standing: standing.standing,
      }
    : { kind: 'accept', payload, standing: standing.standing };
}

/** Where the stream stands after this payload, or that the payload comes late. */
function nextStanding(
  standing: ReportStanding | null,
  payload: ReportPayload,
):
  | { readonly kind: 'next'; readonly standing: ReportStanding }
  | { readonly kind: 'late'; readonly standing: ReportStanding } {
  const { bootId, sequence, sentAt, observedAt } = payload;
  const next = { bootId, sequence, sentAt, observedAt };
  if (!standing) return { kind: 'next', standing: { ...next, missing: sequence - 1, late: 0 } };
  const late =
    standing.bootId === bootId
      ? sequence <= standing.sequence
      : Date.parse(sentAt) <= Date.parse(standing.sentAt);
  if (late) return { kind: 'late', standing: { ...standing, late: standing.late + 1 } };
  return standing.bootId === bootId
    ? {
        kind: 'next',
        standing: {
          ...next,
          missing: standing.missing + (sequence - standing.sequence - 1),
          late: standing.late,
        },
      }
    : { kind: 'next', standing: { ...next, missing: sequence - 1, late: 0 } };
}

function parsePayload(text: string): ReportPayload | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined; // the caller refuses it by name
  }
  const parsed = reportPayload.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}

/**
 * The first fact that says the opposite of what EC2 asserts of this very instance. `unknown` contradicts
 * nothing; it is simply not good.
 */
export function contradiction(payload: ReportPayload, vm: VmItem): string | undefined {
  const state = (id: string) => payload.facts.find((fact) => fact.id === id)?.state;
  const { amdSevSnp, nestedVirtualization, instanceType } = vm.observation;
  const snp = state('mem.sev-snp.guest');
  if (amdSevSnp === 'enabled' && snp === 'absent') return 'mem.sev-snp.guest';
  if (amdSevSnp === 'disabled' && snp === 'present') return 'mem.sev-snp.guest';
  // A virtual machine that was launched without nested virtualization sees neither VMX nor SVM.
  if (nestedVirtualization === 'disabled' && !/\.metal(-|$)/.test(instanceType)) {
    if (state('virt.vmx.advertised') === 'present') return 'virt.vmx.advertised';
    if (state('virt.svm.advertised') === 'present') return 'virt.svm.advertised';
  }
  return undefined;
}
