import * as z from 'zod';
import { diskUuid, instanceId, utcTime, volumeId } from './ids.ts';
import { interfaceRecord, mode, profileName } from './isolation.ts';
import { releaseOutcome } from './key-release.ts';
import { verdict } from './posture.ts';
import { capabilityReportDetail } from './report.ts';

export const SOURCE = 'casemate';
export const AGENT_SOURCE = 'casemate.agent';

const base = { schemaVersion: z.literal(1), instanceId, at: utcTime };

/** What EC2 shows of a VM changed, or its place in scope did. */
export const vmChanged = z.strictObject({
  ...base,
  state: z.string(),
  managed: z.boolean(),
  leavingScope: z.boolean(),
  gone: z.boolean(),
});

export const diskKeyIssued = z.strictObject({
  ...base,
  disk: diskUuid,
  volumeId,
  generation: z.number().int(),
  reasons: z.array(z.string()),
});

/** Whether a VM got its disk key, and why. The caller hears no reason; this is where it is said. */
export const keyReleaseDecided = z.strictObject({
  ...base,
  disk: diskUuid,
  generation: z.number().int(),
  outcome: releaseOutcome,
  mode,
  /** Refused before it was proven that the VM itself asks. */
  authenticated: z.boolean(),
  reasons: z.array(z.string()),
  policies: z.array(z.string()),
});

/** A key generation begins to retire, is kept after all, or is gone. */
export const diskKeyRetired = z.strictObject({
  ...base,
  disk: diskUuid,
  volumeId,
  generation: z.number().int(),
  state: z.enum(['retiring', 'kept', 'retired']),
  /** `retiring` alone: until then it can be kept. */
  retireAfter: utcTime.nullable(),
  reasons: z.array(z.string()),
});

export const postureChanged = z.strictObject({
  ...base,
  verdict,
  reasons: z.array(z.string()),
  policies: z.array(z.string()),
  validUntil: utcTime.nullable(),
});

export const isolationChanged = z.strictObject({
  ...base,
  profile: profileName,
  /** False in observe mode, and while an interface could not be brought to the profile. */
  applied: z.boolean(),
  mode,
  interfaces: z.array(interfaceRecord.pick({ id: true, groups: true })),
  reasons: z.array(z.string()),
});

/** What an operator decided about a VM. A hint, as every event: the `operator#` item says what holds. */
export const operatorDecided = z.strictObject({
  ...base,
  what: z.string(),
  /** ARN of the operator. */
  by: z.string(),
  reason: z.string(),
});

export const reportRefused = z.strictObject({ ...base, reason: z.string() });

export const enrolmentRefused = z.strictObject({ ...base, reason: z.string() });

/** Every detail type on the Casemate bus, by name. JSON Schemas for consumers: docs/schemas/. */
export const EVENTS = {
  'VM Changed': vmChanged,
  'Disk Key Issued': diskKeyIssued,
  'Disk Key Retired': diskKeyRetired,
  'Key Release Decided': keyReleaseDecided,
  'Posture Changed': postureChanged,
  'Isolation Changed': isolationChanged,
  'Operator Decided': operatorDecided,
  'Report Refused': reportRefused,
  'Enrolment Refused': enrolmentRefused,
  'Capability Report': capabilityReportDetail,
} as const;

export type OwnDetailType = Exclude<keyof typeof EVENTS, 'Capability Report'>;
export type EventDetail<T extends keyof typeof EVENTS> = z.infer<(typeof EVENTS)[T]>;

/** An event of ours, before EventBridge puts its envelope around it. */
export type CasemateEvent = {
  [T in OwnDetailType]: { readonly detailType: T; readonly detail: EventDetail<T> };
}[OwnDetailType];
