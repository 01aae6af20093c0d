import * as z from 'zod';
import { type Attestation, attestation, attestedFact, freshAttestations } from './attestation.ts';
import { factSchema, type SourcedFact } from './fact.ts';
import { instanceId, utcTime } from './ids.ts';
import { memoryEncrypted } from './instance-type.ts';
import type { PolicyDecision } from './policy.ts';
import { POLICY_FACTS, type PolicyFactId } from './policy-facts.ts';
import { type EnrolItem, type ReportJudgement, reportStanding } from './report.ts';
import { type DemandContext, demandContext } from './requirements.ts';
import { canonicalJson, type VmItem } from './vm.ts';

/** `unproven` is where everything starts and falls back to. */
export const verdict = z.enum(['unproven', 'compliant', 'noncompliant']);
export type Verdict = z.infer<typeof verdict>;

/** The `posture#` item. */
export const postureItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  standing: reportStanding.nullable(),
  /** Of the last accepted report: claims of the guest. */
  facts: z.array(factSchema),
  /** What hardware signed in this boot, the newest of each format. */
  attestations: z.array(attestation),
  /** Why the last evidence did not count, when it did not. */
  evidenceRefusal: z.strictObject({ at: utcTime, reasons: z.array(z.string()) }).nullable(),
  /** The enrolled key signed something that EC2 contradicts, and nothing better was accepted since. */
  contradicted: z.boolean(),
  refusals: z.strictObject({
    count: z.number().int(),
    last: z.strictObject({ at: utcTime, reason: z.string() }).nullable(),
  }),
  verdict,
  reasons: z.array(z.string()),
  policies: z.array(z.string()),
  /** After this a `compliant` verdict no longer stands. */
  validUntil: utcTime.nullable(),
  decidedAt: utcTime,
  decisions: z.array(
    z.strictObject({ at: utcTime, verdict, reasons: z.array(z.string()), policies: z.array(z.string()) }),
  ),
  /** What the shadow policies would say, since when; absent where they agree, or where there are none. */
  shadow: z
    .strictObject({ at: utcTime, verdict, reasons: z.array(z.string()), policies: z.array(z.string()) })
    .optional(),
});
export type PostureItem = z.infer<typeof postureItem>;
export type PostureState = Omit<PostureItem, 'pk' | 'version'>;

export const DECISIONS_KEPT = 10;

/**
 * What a posture is worth now: a `compliant` verdict falls back by itself when its report grows old, and what an old
 * report lacked is no longer why a VM is unproven.
 */
export function standingVerdict(
  posture: PostureState | undefined,
  now: Date,
): { readonly verdict: Verdict; readonly reasons: readonly string[] } {
  if (!posture) return { verdict: 'unproven', reasons: ['NO_REPORT'] };
  const stale = posture.validUntil === null || Date.parse(posture.validUntil) < now.getTime();
  const isReported = posture.validUntil !== null && !posture.reasons.includes('NOT_ENROLLED');
  if (stale && (posture.verdict === 'compliant' || (posture.verdict === 'unproven' && isReported)))
    return { verdict: 'unproven', reasons: ['REPORT_STALE'] };
  return { verdict: posture.verdict, reasons: posture.reasons };
}

/** Every fact that policy may read, always there: what nobody said is `unknown`. */
export function policyFacts(
  posture: Pick<PostureState, 'facts'>,
  vm: VmItem,
  attestations: readonly Attestation[],
): Record<PolicyFactId, SourcedFact> {
  const claimed = new Map(posture.facts.map((fact) => [fact.id, fact]));
  const facts = {} as Record<PolicyFactId, SourcedFact>;
  for (const id of POLICY_FACTS) {
    const fact = claimed.get(id);
    facts[id] = { state: fact?.state ?? 'unknown', source: 'claimed', value: fact?.value };
  }
  const asserted = (setting: 'enabled' | 'disabled' | null): SourcedFact => ({
    state: setting === null ? 'unknown' : setting === 'enabled' ? 'present' : 'absent',
    source: 'asserted',
  });
  facts['ec2.amd-sev-snp'] = asserted(vm.observation.amdSevSnp);
  facts['ec2.nested-virtualization'] = asserted(vm.observation.nestedVirtualization);
  const { threadsPerCore, instanceType } = vm.observation;
  facts['ec2.smt'] = asserted(threadsPerCore == null ? null : threadsPerCore > 1 ? 'enabled' : 'disabled');
  facts['ec2.memory-encryption'] = asserted(memoryEncrypted(instanceType) ? 'enabled' : null);
  for (const { format, value } of attestations) {
    facts[attestedFact(format)] = { state: 'present', source: 'attested', value };
  }
  return facts;
}

/** Asks policy; a parameter, so that this module stays pure and the engine replaceable. */
export type AskPosturePolicy = (
  action: 'LeaveProbation' | 'Quarantine',
  context: PosturePolicyContext,
) => PolicyDecision;

export interface PosturePolicyContext extends DemandContext {
  readonly facts: Record<PolicyFactId, SourcedFact>;
  readonly enrolled: boolean;
  readonly contradicted: boolean;
  readonly missedReports: number;
}

export type Assessment = Pick<PostureState, 'verdict' | 'reasons' | 'policies' | 'validUntil'>;

/**
 * The verdict on a VM out of its last accepted report, what EC2 asserts, and policy.
 *
 * A report that grew old proves nothing any more, but a VM does not leave quarantine by falling silent, nor
 * because the policy that would keep it there failed to evaluate. A policy that fails to evaluate denies
 * leaving probation.
 */
export function assessPosture(
  input: {
    readonly vm: VmItem;
    readonly enrolment: Pick<EnrolItem, 'instanceId'> | undefined;
    readonly posture: Pick<PostureState, 'standing' | 'facts' | 'attestations' | 'contradicted'>;
    readonly previous: Verdict;
    readonly maxAgeSeconds: number;
    readonly evidenceMaxAgeSeconds: number;
    readonly now: Date;
  },
  ask: AskPosturePolicy,
): Assessment {
  const { vm, enrolment, posture, now } = input;
  const attested = freshAttestations(posture.attestations, input.evidenceMaxAgeSeconds, now);
  const context: PosturePolicyContext = {
    facts: policyFacts(posture, vm, attested),
    enrolled: enrolment !== undefined,
    contradicted: posture.contradicted,
    missedReports: posture.standing?.missing ?? 0,
    ...demandContext(vm.demands, vm.observation.tags, posture.facts),
  };
  // The first of report and evidence to grow old has the verdict looked at again.
  const ends = [
    ...(posture.standing ? [Date.parse(posture.standing.observedAt) + input.maxAgeSeconds * 1000] : []),
    ...attested.map((a) => Date.parse(a.verifiedAt) + input.evidenceMaxAgeSeconds * 1000),
  ];
  const validUntil = posture.standing ? new Date(Math.min(...ends)).toISOString() : null;
  const quarantine = ask('Quarantine', context);
  if (quarantine.allowed) {
    return {
      verdict: 'noncompliant',
      reasons: [...quarantine.reasons],
      policies: [...quarantine.policies],
      validUntil,
    };
  }
  const unproven = (reason: string): Assessment =>
    input.previous === 'noncompliant'
      ? { verdict: 'noncompliant', reasons: [reason], policies: [], validUntil }
      : { verdict: 'unproven', reasons: [reason], policies: [], validUntil };
  if (!enrolment) return unproven('NOT_ENROLLED');
  if (validUntil === null) return unproven('NO_REPORT');
  if (Date.parse(validUntil) < now.getTime()) return unproven('REPORT_STALE');
  const leave = ask('LeaveProbation', context);
  const errors = [...quarantine.errors, ...leave.errors];
  if (leave.allowed && errors.length === 0) {
    return { verdict: 'compliant', reasons: [...leave.reasons], policies: [...leave.policies], validUntil };
  }
  return {
    verdict: input.previous === 'noncompliant' && quarantine.errors.length > 0 ? 'noncompliant' : 'unproven',
    reasons: errors.length > 0 ? [...new Set(['POLICY_ERROR', ...leave.reasons])] : [...leave.reasons],
    policies: [...leave.policies],
    validUntil,
  };
}

/** Where every VM starts. */
export const INITIAL_POSTURE = (instanceId: string, now: Date): PostureState => ({
  instanceId,
  standing: null,
  facts: [],
  attestations: [],
  evidenceRefusal: null,
  contradicted: false,
  refusals: { count: 0, last: null },
  verdict: 'unproven',
  reasons: ['NO_REPORT'],
  policies: [],
  validUntil: null,
  decidedAt: now.toISOString(),
  decisions: [],
});

/**
 * The posture after one judged report, its verdict not yet looked at again. A refused report changes no
 * fact; only one that the enrolled key signed counts against the VM.
 */
export function foldReport(
  posture: PostureState,
  judgement: ReportJudgement,
  receivedAt: Date,
): PostureState {
  switch (judgement.kind) {
    case 'accept':
      return {
        ...posture,
        standing: judgement.standing,
        facts: judgement.payload.facts,
        // What was measured at another boot says nothing of this one.
        attestations: posture.attestations.filter((a) => a.bootId === judgement.payload.bootId),
        contradicted: false,
      };
    case 'late':
      return { ...posture, standing: judgement.standing };
    case 'refuse':
      return {
        ...posture,
        standing: judgement.standing ?? posture.standing,
        contradicted:
          posture.contradicted || (judgement.authenticated && judgement.reason === 'FACT_CONTRADICTS_EC2'),
        refusals: {
          count: posture.refusals.count + 1,
          last: { at: receivedAt.toISOString(), reason: judgement.reason },
        },
      };
  }
}

/**
 * The posture with its verdict decided anew; the very same object when nothing of it changed.
 */
export function reassess(
  input: {
    readonly vm: VmItem;
    readonly enrolment: EnrolItem | undefined;
    readonly posture: PostureState;
    readonly maxAgeSeconds: number;
    readonly evidenceMaxAgeSeconds: number;
    readonly now: Date;
  },
  ask: AskPosturePolicy,
): PostureState {
  const { posture, now } = input;
  const assessment = assessPosture({ ...input, previous: posture.verdict }, ask);
  const essence = (of: Assessment) => canonicalJson([of.verdict, of.reasons, of.policies, of.validUntil]);
  if (essence(assessment) === essence(posture)) return posture;
  const decision = {
    at: now.toISOString(),
    verdict: assessment.verdict,
    reasons: assessment.reasons,
    policies: assessment.policies,
  };
  const last = posture.decisions[0];
  const repeated = last?.verdict === decision.verdict && last.reasons.join() === decision.reasons.join();
  return {
    ...posture,
    ...assessment,
    decidedAt: decision.at,
    decisions: repeated ? posture.decisions : [decision, ...posture.decisions].slice(0, DECISIONS_KEPT),
  };
}

/**
 * The posture with what shadow policies would say of it noted, where that is something else; the very same object
 * when nothing of it changed. What was decided is not touched. Other policies with the same outcome are no
 * difference.
 */
export function noteShadow(posture: PostureState, shadow: Assessment | undefined, now: Date): PostureState {
  const { shadow: noted, ...rest } = posture;
  const essence = (of: Pick<Assessment, 'verdict' | 'reasons'>) =>
    canonicalJson([of.verdict, [...of.reasons].sort()]);
  if (!shadow || essence(shadow) === essence(posture)) return noted ? rest : posture;
  if (noted && essence(noted) === essence(shadow)) return posture;
  const { verdict, reasons, policies } = shadow;
  return { ...rest, shadow: { at: now.toISOString(), verdict, reasons, policies } };
}

/**
 * The posture after the evidence of an accepted report was judged: the newest of each format counts. Where that was
 * judged and refused, what was attested before does not stand for it: the machine changed since.
 */
export function foldEvidence(
  posture: PostureState,
  outcome: {
    readonly attestations: readonly Attestation[];
    readonly refusals: readonly string[];
    /** Of which evidence was judged and refused; a challenge that did not count leaves it unjudged. */
    readonly refuted: readonly Attestation['format'][];
  },
  receivedAt: Date,
): PostureState {
  const renewed = new Set([...outcome.attestations.map((a) => a.format), ...outcome.refuted]);
  return {
    ...posture,
    attestations: [...posture.attestations.filter((a) => !renewed.has(a.format)), ...outcome.attestations],
    evidenceRefusal:
      outcome.refusals.length > 0 ? { at: receivedAt.toISOString(), reasons: [...outcome.refusals] } : null,
  };
}
