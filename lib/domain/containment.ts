import * as z from 'zod';
import { interfaceId, utcTime } from './ids.ts';
import type { Profile } from './isolation.ts';
import { probationEgress } from './probation-egress.ts';
import type { ObservedInterface } from './vm.ts';

/**
 * What containing a VM does beyond its groups, when that was asked for. Each step is recorded before it is done
 * and after, so that whoever comes next goes on from there, and each can be taken back.
 */
export const containmentStep = z.discriminatedUnion('kind', [
  /** Tracked flows are cut: the interface is opened for a moment, then closed. */
  z.strictObject({
    kind: z.literal('cut'),
    interfaceId,
    /** `planned`: it may stand open. `refused`: a public address would be reachable meanwhile. */
    state: z.enum(['planned', 'done', 'refused', 'failed']),
    attempts: z.number().int(),
    at: utcTime,
  }),
  /** Its Auto Scaling group no longer counts on the VM, and does not end it. */
  z.strictObject({
    kind: z.literal('standby'),
    autoScalingGroup: z.string(),
    /** The group starts another in its place. */
    replaced: z.boolean(),
    state: z.enum(['planned', 'done', 'failed']),
    at: utcTime,
  }),
  /** An Elastic IP address is taken from the interface. */
  z.strictObject({
    kind: z.literal('elastic-ip'),
    interfaceId,
    allocationId: z.string(),
    privateAddress: z.string(),
    state: z.enum(['planned', 'done']),
    at: utcTime,
  }),
]);
export type ContainmentStep = z.infer<typeof containmentStep>;
export type CutStep = Extract<ContainmentStep, { kind: 'cut' }>;
export type StandbyStep = Extract<ContainmentStep, { kind: 'standby' }>;
export type AddressStep = Extract<ContainmentStep, { kind: 'elastic-ip' }>;

/** After so many the cut is given up and reported: each one opens the interface for a moment. */
export const CUT_ATTEMPTS = 3;

/**
 * Which interfaces are to be cut now, and the steps as they have to be stored before that.
 *
 * Only of a VM whose quarantine was read back: deny first. One that stood open when this run found it was opened by
 * a run that died; closing it, which was done first of all, completed the cut.
 */
export function planCuts(
  profile: Profile,
  steps: readonly ContainmentStep[],
  interfaces: readonly ObservedInterface[],
  stoodOpen: ReadonlySet<string>,
  now: Date,
): { readonly steps: readonly ContainmentStep[]; readonly cut: readonly string[] } {
  const others = steps.filter((step) => step.kind !== 'cut');
  // The next quarantine cuts again.
  if (profile !== 'quarantine') return { steps: others, cut: [] };
  const known = new Map(
    steps.flatMap((step) => (step.kind === 'cut' ? [[step.interfaceId, step] as const] : [])),
  );
  const cut: string[] = [];
  const cuts = interfaces.flatMap((eni): CutStep[] => {
    if (eni.managedBy === 'requester') return [];
    const before = known.get(eni.id);
    const next = (state: CutStep['state'], attempts: number): CutStep =>
      before?.state === state && before.attempts === attempts
        ? before
        : { kind: 'cut', interfaceId: eni.id, state, attempts, at: now.toISOString() };
    const attempts = before?.attempts ?? 0;
    if (before?.state === 'done' || before?.state === 'failed') return [before];
    if (before?.state === 'planned' && stoodOpen.has(eni.id)) return [next('done', attempts)];
    if (eni.publicAddress) return [next('refused', attempts)];
    if (attempts >= CUT_ATTEMPTS) return [next('failed', attempts)];
    cut.push(eni.id);
    return [next('planned', attempts + 1)];
  });
  return { steps: [...others, ...cuts], cut };
}

/** The steps once these interfaces were read back closed again. */
export function cutsDone(
  steps: readonly ContainmentStep[],
  closed: ReadonlySet<string>,
  now: Date,
): readonly ContainmentStep[] {
  return steps.map((step) =>
    step.kind === 'cut' && step.state === 'planned' && closed.has(step.interfaceId)
      ? { ...step, state: 'done' as const, at: now.toISOString() }
      : step,
  );
}

/** Always the same order, so that steps that are the same compare as the same. */
export function inOrder(steps: readonly ContainmentStep[]): ContainmentStep[] {
  const key = (step: ContainmentStep) =>
    step.kind === 'standby' ? step.kind : `${step.kind} ${step.interfaceId}`;
  return [...steps].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
}

/**
 * Whether something is still to be done about steps: planned and not seen done, not yet taken back, or undone by
 * somebody: an interface whose address was taken was seen with one.
 */
export function hasStepsLeft(
  steps: readonly ContainmentStep[],
  profile: Profile,
  interfaces: readonly ObservedInterface[],
): boolean {
  if (profile === 'quarantine') {
    const open = new Set(interfaces.filter((eni) => eni.publicAddress).map((eni) => eni.id));
    return steps.some(
      (step) => step.state === 'planned' || (step.kind === 'elastic-ip' && open.has(step.interfaceId)),
    );
  }
  return steps.some((step) => step.kind !== 'cut');
}

const STEP_REASONS = ['CUT_REFUSED_PUBLIC', 'CUT_FAILED', 'STANDBY_FAILED', 'REPLACEMENTS_HALTED'] as const;
type StepReason = (typeof STEP_REASONS)[number];

/** Whether a reason speaks of a step, and holds as long as that is there. */
export function isStepReason(reason: string): boolean {
  return (STEP_REASONS as readonly string[]).includes(reason);
}

/** What steps that did not come through mean for the VM. */
export function stepReasons(steps: readonly ContainmentStep[]): readonly StepReason[] {
  const cuts = new Set(steps.flatMap((step) => (step.kind === 'cut' ? [step.state] : [])));
  const standby = steps.find((step) => step.kind === 'standby');
  const reasons: StepReason[] = [];
  if (cuts.has('refused')) reasons.push('CUT_REFUSED_PUBLIC');
  if (cuts.has('failed')) reasons.push('CUT_FAILED');
  if (standby?.state === 'failed') reasons.push('STANDBY_FAILED');
  if (standby && !standby.replaced) reasons.push('REPLACEMENTS_HALTED');
  return reasons;
}

/** An Elastic IP address and where it is. */
export interface ElasticIp {
  readonly allocationId: string;
  /** Undefined while it is on no interface. */
  readonly association:
    | {
        readonly associationId: string;
        readonly interfaceId: string;
        readonly privateAddress: string;
      }
    | undefined;
}

export type AddressPlan = {
  /** As they have to be stored before anything is done. */
  readonly steps: readonly ContainmentStep[];
  readonly take: readonly { readonly associationId: string; readonly allocationId: string }[];
  readonly give: readonly AddressStep[];
  /** To be given back, and meanwhile on another interface: reported, not taken from there. */
  readonly elsewhere: readonly string[];
};

/** What a deployment does to contain a VM, as an output of its stack says it: for whoever plans from outside. */
export const containmentSettings = z.strictObject({
  probationEgress,
  cutTrackedFlows: z.boolean(),
  detachElasticIps: z.boolean(),
  standby: z.boolean(),
  denyCredentialsOfRoles: z.array(z.string()),
});
export type ContainmentSettings = z.infer<typeof containmentSettings>;

/** What is to be done about the Elastic IP addresses of a VM: taken in quarantine, given back out of it. */
export function planAddresses(
  profile: Profile,
  steps: readonly ContainmentStep[],
  addresses: readonly ElasticIp[],
  interfaces: ReadonlySet<string>,
  now: Date,
): AddressPlan {
  const known = steps.flatMap((step) => (step.kind === 'elastic-ip' ? [step] : []));
  const others = steps.filter((step) => step.kind !== 'elastic-ip');
  const at = new Map(addresses.map((address) => [address.allocationId, address.association]));
  if (profile === 'quarantine') {
    const take = addresses.flatMap(({ allocationId, association }) =>
      association && interfaces.has(association.interfaceId) ? [{ ...association, allocationId }] : [],
    );
    const taken = new Set(take.map((one) => one.allocationId));
    const kept = known
      .filter((step) => !taken.has(step.allocationId))
      .map((step) => (step.state === 'done' ? step : { ...step, state: 'done' as const }));
    const planned = take.map(
      ({ allocationId, interfaceId: id, privateAddress }): AddressStep => ({
        kind: 'elastic-ip',
        interfaceId: id,
        allocationId,
        privateAddress,
        state: 'planned',
        at: now.toISOString(),
      }),
    );
    return { steps: [...others, ...kept, ...planned], take, give: [], elsewhere: [] };
  }
  const give = known.filter(
    (step) =>
      at.has(step.allocationId) &&
      at.get(step.allocationId) === undefined &&
      interfaces.has(step.interfaceId),
  );
  const elsewhere = known.filter((step) => {
    const there = at.get(step.allocationId);
    return there !== undefined && there.interfaceId !== step.interfaceId;
  });
  // On its interface already, on another, or released: nothing is left to be given back.
  const waiting = known.filter(
    (step) => at.has(step.allocationId) && at.get(step.allocationId) === undefined,
  );
  return {
    steps: [...others, ...waiting],
    take: [],
    give,
    elsewhere: elsewhere.map((step) => step.allocationId),
  };
}
