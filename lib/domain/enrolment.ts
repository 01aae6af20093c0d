import { createHash } from 'node:crypto';
import * as z from 'zod';
import type { DiskItem } from './disk-key.ts';
import { instanceId } from './ids.ts';
import type { OperatorItem } from './operator.ts';
import type { Reason } from './reasons.ts';
import type { EnrolItem } from './report.ts';
import type { VmItem } from './vm.ts';

export const CHALLENGE_SECONDS = 60;
export const CHALLENGE_BYTES = 32;

/** First enrolment is trusted only this long after launch (PROTOCOL.md). */
export const ENROLMENT_WINDOW_SECONDS = 15 * 60;

/** Base64 of exactly so many bytes. */
export const bytes = (length: number) =>
  z
    .base64()
    .refine((text) => Buffer.from(text, 'base64').length === length, { error: `not ${length} bytes` });

export const challengeRequest = z.strictObject({
  instanceId,
  purpose: z.enum(['enrol', 'report', 'release', 'confirm', 'recover', 'rotate']),
});
export const challengeResponse = z.strictObject({
  nonce: bytes(CHALLENGE_BYTES),
  expiresAt: z.iso.datetime(),
});

export const enrolmentRequest = z.strictObject({
  instanceId,
  nonce: bytes(CHALLENGE_BYTES),
  /** Base64 PKCS#7 as IMDS gives it at /dynamic/instance-identity/rsa2048. */
  identityDocument: z.string().min(1).max(16_384),
  /** SPKI DER of an ECDSA P-256 key. */
  agentPublicKey: z.base64().max(256),
  /** Over T with purpose `enrol`; R || S, base64. */
  signature: z.base64().max(128),
});
export type EnrolmentRequest = z.infer<typeof enrolmentRequest>;

export const enrolmentResponse = z.strictObject({
  status: z.enum(['enrolled', 'already-enrolled']),
  instanceId,
});
export const refusalResponse = z.strictObject({ reason: z.string(), message: z.string() });

/** The `nonce#` item. */
export const challengeItem = z.strictObject({
  pk: z.string(),
  instanceId: z.string(),
  purpose: z.string(),
  used: z.boolean(),
  /** Digest of what it was used for: the same use may be repeated after a crash. */
  usedBy: z.string().optional(),
  expiresAtMs: z.number(),
  expiresAt: z.number(),
});
export type ChallengeItem = z.infer<typeof challengeItem>;

/** The key of a challenge's item: its hash. */
export function challengeKey(nonce: Uint8Array): string {
  return `nonce#${createHash('sha256').update(nonce).digest('base64url')}`;
}

/** Why a challenge could not be consumed; undefined when it could. */
export function challengeRefusal(
  challenge: ChallengeItem | undefined,
  want: { readonly instanceId: string; readonly purpose: string; readonly now: Date },
): Reason | undefined {
  if (!challenge) return 'CHALLENGE_UNKNOWN';
  if (challenge.instanceId !== want.instanceId || challenge.purpose !== want.purpose)
    return 'CHALLENGE_FOREIGN';
  if (challenge.used) return 'CHALLENGE_USED';
  if (challenge.expiresAtMs <= want.now.getTime()) return 'CHALLENGE_EXPIRED';
  return undefined;
}

export type EnrolmentDecision =
  | {
      readonly kind: 'enrol' /** The enrolment that this one takes the place of. */;
      readonly replaces?: EnrolItem;
    }
  /** The same key again, after a lost answer or a reboot: nothing changes. */
  | { readonly kind: 'already-enrolled' }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly retryable: boolean };

/**
 * Whether a caller that proved its identity and its key may enrol. Trust on first use happens once per
 * instance, only while EC2 shows the VM running, in its window, and before any of its disks is confirmed;
 * an identity document is a bearer token, so everything later needs the key that was enrolled first, or an
 * operator, whose word is good for one enrolment.
 */
export function decideEnrolment(facts: {
  readonly vm: VmItem | undefined;
  readonly enrolment: EnrolItem | undefined;
  readonly publicKey: string;
  readonly disks: readonly DiskItem[];
  readonly operator?: OperatorItem | undefined;
  readonly now: Date;
}): EnrolmentDecision {
  const { vm, enrolment, now } = facts;
  if (enrolment?.publicKey === facts.publicKey) return { kind: 'already-enrolled' };
  const allowed = allowedByOperator(facts.operator, enrolment, now);
  if (enrolment && !allowed) return { kind: 'refuse', reason: 'ENROL_OTHER_KEY', retryable: false };
  if (!vm) return { kind: 'refuse', reason: 'ENROL_VM_UNKNOWN', retryable: true };
  if (!vm.managed) return { kind: 'refuse', reason: 'ENROL_VM_NOT_MANAGED', retryable: true };
  // `pending` becomes `running` by itself; the other states do not.
  if (vm.gone || vm.observation.state !== 'running') {
    return { kind: 'refuse', reason: 'ENROL_VM_NOT_RUNNING', retryable: vm.observation.state === 'pending' };
  }
  if (allowed) return { kind: 'enrol', ...(enrolment ? { replaces: enrolment } : {}) };
  // Stop and start renew EC2's launch time, so the first sighting closes the window too.
  const launchedAt = Math.min(Date.parse(vm.observation.launchTime), Date.parse(vm.firstSeenAt));
  const sinceLaunchSeconds = (now.getTime() - launchedAt) / 1000;
  if (sinceLaunchSeconds > ENROLMENT_WINDOW_SECONDS) {
    return { kind: 'refuse', reason: 'ENROL_WINDOW_CLOSED', retryable: false };
  }
  if (facts.disks.some((disk) => disk.generations.some((g) => g.state !== 'issued'))) {
    return { kind: 'refuse', reason: 'ENROL_DISK_CONFIRMED', retryable: false };
  }
  return { kind: 'enrol' };
}

/** An enrolment since the operator said so has used it up. */
function allowedByOperator(
  operator: OperatorItem | undefined,
  enrolment: EnrolItem | undefined,
  now: Date,
): boolean {
  const allowed = operator?.enrol;
  if (!allowed || Date.parse(allowed.until) <= now.getTime()) return false;
  return !enrolment || Date.parse(enrolment.enrolledAt) < Date.parse(allowed.at);
}
