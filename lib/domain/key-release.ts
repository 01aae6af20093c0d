import * as z from 'zod';
import { freshAttestations } from './attestation.ts';
import { hibernationRefusal } from './disk-access.ts';
import type { DiskItem, KeyGeneration } from './disk-key.ts';
import type { SourcedFact } from './fact.ts';
import { diskUuid, instanceId, utcTime } from './ids.ts';
import { type IsolationItem, type Mode, mode, type Profile } from './isolation.ts';
import type { OperatorItem } from './operator.ts';
import type { PolicyDecision } from './policy.ts';
import type { PolicyFactId } from './policy-facts.ts';
import { type PostureItem, policyFacts, standingVerdict, type Verdict } from './posture.ts';
import { type DemandContext, demandContext } from './requirements.ts';
import type { VmItem } from './vm.ts';

export const releaseOutcome = z.enum(['released', 'refused']);

const decided = z.strictObject({
  at: utcTime,
  disk: diskUuid,
  generation: z.number().int().positive(),
  outcome: releaseOutcome,
  mode,
  reasons: z.array(z.string()),
  policies: z.array(z.string()),
});
export type ReleaseRecord = z.infer<typeof decided>;

/** A generation that went to the VM in `observe` although its posture refuses it. */
const mark = z.strictObject({
  at: utcTime,
  disk: diskUuid,
  generation: z.number().int().positive(),
  reasons: z.array(z.string()),
});

/**
 * The `release#<instance id>` item: what was decided for a VM that had proven who it is. Written before the
 * answer is given, so that there is no release that nobody wrote down.
 */
export const releaseItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  /** Newest first, at most RELEASES_KEPT. */
  decisions: z.array(decided),
  /** The newest of each disk. */
  marks: z.array(mark),
});
export type ReleaseItem = z.infer<typeof releaseItem>;

export const RELEASES_KEPT = 20;

/** What policy decides a release by; `schema.cedarschema` says the same. */
export interface ReleaseContext extends DemandContext {
  readonly facts: Record<PolicyFactId, SourcedFact>;
  readonly verdict: Verdict;
  readonly profile: Profile;
  readonly isolated: boolean;
  readonly mode: Mode;
  readonly held: boolean;
  readonly contained: boolean;
}

/** Asks policy; a parameter, so that this module stays pure. */
export type AskReleasePolicy = (context: ReleaseContext) => PolicyDecision;

export interface ReleaseFacts {
  readonly vm: VmItem;
  readonly disk: DiskItem;
  readonly generation: number;
  readonly posture: PostureItem | undefined;
  readonly isolation: IsolationItem | undefined;
  readonly operator: OperatorItem | undefined;
  readonly mode: Mode;
  readonly evidenceMaxAgeSeconds: number;
  readonly now: Date;
}

export type ReleaseDecision =
  | {
      readonly kind: 'release';
      readonly generation: KeyGeneration & { readonly wrappedKey: string };
      readonly reasons: readonly string[];
      readonly policies: readonly string[];
      /** Posture refuses it and `observe` gives it: to be rotated once the VM is enforced. */
      readonly marked: boolean;
    }
  | { readonly kind: 'refuse'; readonly reasons: readonly string[]; readonly policies: readonly string[] };

/**
 * Whether a VM that proved who it is gets this generation of its disk now.
 *
 * What binds the key to the VM is code, and holds in both modes. What the VM has to be like is policy; where
 * policy refuses for posture alone, `observe` gives the key and marks it. A retiring generation is still given:
 * a header that was restored from before a rotation opens with no other.
 */
export function decideRelease(facts: ReleaseFacts, ask: AskReleasePolicy): ReleaseDecision {
  const { vm, disk, posture, now } = facts;
  const refuse = (reason: string): ReleaseDecision => ({ kind: 'refuse', reasons: [reason], policies: [] });
  const generation = disk.generations.find((g) => g.generation === facts.generation);
  if (!generation) return refuse('GENERATION_UNKNOWN');
  const { wrappedKey } = generation;
  if (generation.state === 'retired' || wrappedKey === null) return refuse('GENERATION_RETIRED');
  const hibernation = hibernationRefusal(vm);
  if (hibernation) return refuse(hibernation);
  if (generation.wrappedFor !== vm.observation.instanceId) return refuse('DISK_MOVED');
  const standing = standingVerdict(posture, now);
  const profile = facts.isolation?.profile ?? 'probation';
  const attested = freshAttestations(posture?.attestations ?? [], facts.evidenceMaxAgeSeconds, now);
  const policy = ask({
    facts: policyFacts({ facts: posture?.facts ?? [] }, vm, attested),
    ...demandContext(vm.demands, vm.observation.tags, posture?.facts ?? []),
    verdict: standing.verdict,
    profile,
    isolated: facts.isolation?.applied === true,
    mode: facts.mode,
    held: facts.operator?.hold !== undefined,
    contained: facts.operator?.quarantine !== undefined,
  });
  const { policies } = policy;
  if (policy.allowed) {
    return {
      kind: 'release',
      generation: { ...generation, wrappedKey },
      reasons: policy.reasons,
      policies,
      marked: false,
    };
  }
  // No policy names what is missing of a VM that none permits; its posture does.
  const why = standing.verdict === 'compliant' ? [] : standing.reasons;
  const reasons = [...new Set([...policy.reasons, ...why])];
  if (facts.mode === 'observe' && policy.postureAlone) {
    return {
      kind: 'release',
      generation: { ...generation, wrappedKey },
      reasons: ['RELEASED_IN_OBSERVE', ...reasons],
      policies,
      marked: true,
    };
  }
  return { kind: 'refuse', reasons, policies };
}

/** The record with one more decision, and its mark. */
export function recordRelease(
  known: ReleaseItem | undefined,
  vm: string,
  decision: ReleaseRecord,
  marked: boolean,
): Omit<ReleaseItem, 'pk' | 'version'> {
  const { at, disk, generation, reasons } = decision;
  const others = (known?.marks ?? []).filter((m) => m.disk !== disk);
  const own = known?.marks.find((m) => m.disk === disk);
  // An older generation's mark says nothing that the newer one's does not: both go with a rotation.
  const kept = own && (!marked || own.generation >= generation) ? own : undefined;
  const newest = kept ?? (marked ? { at, disk, generation, reasons } : undefined);
  return {
    instanceId: vm,
    decisions: [decision, ...(known?.decisions ?? [])].slice(0, RELEASES_KEPT),
    marks: newest ? [...others, newest] : others,
  };
}
