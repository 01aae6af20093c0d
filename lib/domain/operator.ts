import * as z from 'zod';
import { diskUuid, instanceId, utcTime, volumeId } from './ids.ts';

/** Who decided what, when and why: what an operator says is never anonymous. */
const decided = z.strictObject({
  at: utcTime,
  /** ARN of the caller, as STS says it. */
  by: z.string().min(1).max(2048),
  reason: z.string().min(1).max(1024),
});
export type OperatorDecision = z.infer<typeof decided>;

/**
 * The `operator#<instance id>` item: what operators decided about one VM. Only the operators' own command writes
 * it; functions read it. An absent member is "nobody said so".
 */
export const operatorItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  /** Contain the VM, whatever its posture. */
  quarantine: decided.optional(),
  /** Do not release keys, whatever its posture. */
  hold: decided.optional(),
  /** The VM may leave scope: fence and policy go as its tags say. */
  leaveScope: decided.optional(),
  /** A first enrolment after its window, or another agent key, is allowed until `until`. */
  enrol: decided.extend({ until: utcTime }).optional(),
  /** Disks whose keys are to be replaced, by UUID: those issued before the decision. */
  rotate: z.record(diskUuid, decided).optional(),
  /** Disks of the VM whose keys are to go, by UUID; every generation, or the one that is named. */
  retire: z
    .record(diskUuid, decided.extend({ generation: z.number().int().positive().optional() }))
    .optional(),
  /** Disks of which nothing is shredded, whatever else was decided. */
  keep: z.record(diskUuid, decided).optional(),
  /** Volumes whose disks the VM may adopt, by id. */
  adopt: z.record(volumeId, decided).optional(),
  /** What interfaces that started in a Casemate group get in `workload`: security groups by interface id. */
  workloadGroups: z.record(z.string(), z.array(z.string())).optional(),
  /** Whose VM it is, confirmed: its tag may say so from now on. */
  tenant: decided.extend({ tenant: z.string().min(1) }).optional(),
  /** The VM may demand less: exactly these of what it demanded before. */
  demandLess: decided.extend({ requirements: z.array(z.string()).min(1) }).optional(),
  /** Newest first, at most 20. */
  history: z.array(decided.extend({ what: z.string() })),
});
export type OperatorItem = z.infer<typeof operatorItem>;

export const HISTORY_KEPT = 20;

/** What an operator decides: members by name, `undefined` where a decision is taken back. */
export interface OperatorChange {
  readonly instanceId: string;
  /** For the history and the event, e.g. `quarantine`. */
  readonly what: string;
  readonly decision: OperatorDecision;
  readonly set: {
    readonly [M in Exclude<keyof OperatorItem, 'pk' | 'version' | 'instanceId' | 'history'>]?:
      | OperatorItem[M]
      | undefined;
  };
}

/** The next `operator#` item: members as the change sets them, the decision on top of the history. */
export function nextOperator(
  before: OperatorItem | undefined,
  change: OperatorChange,
): Omit<OperatorItem, 'pk' | 'version'> {
  const { pk: _pk, version: _version, ...kept } = before ?? { instanceId: change.instanceId, history: [] };
  const members = Object.entries({ ...kept, ...change.set }).filter(([, value]) => value !== undefined);
  return {
    ...(Object.fromEntries(members) as typeof kept),
    history: [{ ...change.decision, what: change.what }, ...kept.history].slice(0, HISTORY_KEPT),
  };
}
