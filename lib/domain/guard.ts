import { createHash } from 'node:crypto';
import * as z from 'zod';
import { instanceId, utcTime } from './ids.ts';
import type { IsolationItem, Mode, Profile, ProfileDecision } from './isolation.ts';
import type { Observation } from './vm.ts';

/** How much policy may contain by itself. Operators and refused keys are never held back. */
export const guardSettings = z.strictObject({
  /** Of the VMs of a VPC, an Auto Scaling group or a tenant: so many may be contained within the window. */
  share: z.number().gt(0).max(1),
  /** So many may always be, or small groups could not be protected at all. */
  minimum: z.number().int().min(1),
  windowSeconds: z.number().int().min(60).max(86_400),
  /**
   * What policy never contains. By ids and by Auto Scaling groups, not by tags that a user sets: a tag must not
   * ask for less protection.
   */
  protected: z.strictObject({
    instanceIds: z.array(instanceId),
    autoScalingGroups: z.array(z.string().min(1)),
  }),
});
export type GuardSettings = z.infer<typeof guardSettings>;

/** The `guard#<scope>` item: what policy contained lately in a VPC, an Auto Scaling group or a tenant. */
export const guardItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  /** `vpc/vpc-…`, `asg/<name>` or `tenant/<name>`. */
  scope: z.string(),
  contained: z.array(z.strictObject({ instanceId, at: utcTime })),
  /** Since when a VM is held back. */
  reachedAt: utcTime.nullable(),
  /** An operator lets policy go on until then, whatever the share. */
  open: z
    .strictObject({ until: utcTime, at: utcTime, by: z.string().min(1), reason: z.string().min(1) })
    .optional(),
});
export type GuardItem = z.infer<typeof guardItem>;
export type GuardState = Omit<GuardItem, 'pk' | 'version'>;

/** The scopes whose share a VM counts in. */
export function guardScopes(observation: Observation, tenant: string | null): readonly string[] {
  const { vpcId, autoScalingGroup } = observation;
  return [
    ...(vpcId ? [`vpc/${vpcId}`] : []),
    ...(autoScalingGroup ? [`asg/${autoScalingGroup}`] : []),
    ...(tenant ? [`tenant/${tenant}`] : []),
  ];
}

export function isProtected(observation: Observation, settings: GuardSettings): boolean {
  const { instanceIds, autoScalingGroups } = settings.protected;
  return (
    instanceIds.includes(observation.instanceId) ||
    (observation.autoScalingGroup !== null && autoScalingGroups.includes(observation.autoScalingGroup))
  );
}

const TIGHTNESS: Readonly<Record<Profile, number>> = { workload: 0, probation: 1, quarantine: 2 };

type Fence = Extract<ProfileDecision, { kind: 'fence' }>;

/**
 * Whether a fence is a containment that guards count: policy closes a VM further than it is. That a VM starts
 * fenced is none, or nothing could be launched once a guard is reached.
 */
export function isContainment(fence: Fence, before: Standing | undefined): boolean {
  if (fence.by === 'operator') return false;
  return TIGHTNESS[fence.profile] > TIGHTNESS[standingProfile(before)];
}

type Standing = Pick<IsolationItem, 'profile' | 'mode'>;

/** Where a VM is. What was decided in observe mode contained nobody: such a VM is about to start in probation. */
function standingProfile(before: Standing | undefined): Profile {
  if (!before || (before.mode === 'observe' && before.profile === 'quarantine')) return 'probation';
  return before.profile;
}

/** A fence that is not made now: the VM stays as it is, or starts in probation. */
export function heldBack(
  fence: Fence,
  before: Standing | undefined,
  reason: 'GUARD_REACHED' | 'PROTECTED_FROM_POLICY',
): Fence {
  const profile = reason === 'PROTECTED_FROM_POLICY' ? 'workload' : standingProfile(before);
  return { ...fence, profile, reasons: [...fence.reasons, reason] };
}

/** How many of `population` VMs may be contained within the window. */
export function allowance(settings: GuardSettings, population: number): number {
  return Math.max(settings.minimum, Math.floor(settings.share * population));
}

/** The containments that still count. */
export function withinWindow(
  state: GuardState | undefined,
  settings: GuardSettings,
  now: Date,
): GuardState['contained'] {
  const from = now.getTime() - settings.windowSeconds * 1000;
  return (state?.contained ?? []).filter(({ at }) => Date.parse(at) > from);
}

/** Whether the number of VMs of a scope has to be known to decide on so many more: it costs calls to count them. */
export function needsPopulation(
  state: GuardState | undefined,
  more: number,
  settings: GuardSettings,
  now: Date,
): boolean {
  return withinWindow(state, settings, now).length + more > settings.minimum;
}

export interface Admission {
  readonly admitted: boolean;
  /** Where it was held back. */
  readonly reached: readonly string[];
  /** The next states of the scopes that changed. */
  readonly next: ReadonlyMap<string, GuardState>;
}

/**
 * Whether policy may contain one more VM. It counts in every scope or in none: what is admitted is noted before
 * it is done, so that a crash between the two makes the guard tighter and never wider.
 */
export function admit(
  vm: { readonly instanceId: string; readonly scopes: readonly string[] },
  states: ReadonlyMap<string, GuardState | undefined>,
  population: (scope: string) => number,
  settings: GuardSettings,
  now: Date,
): Admission {
  const at = now.toISOString();
  const looked = vm.scopes.map((scope) => {
    const state = states.get(scope) ?? { scope, contained: [], reachedAt: null };
    const contained = withinWindow(state, settings, now);
    const counted = contained.some((one) => one.instanceId === vm.instanceId);
    const open = state.open !== undefined && Date.parse(state.open.until) > now.getTime();
    const full = !counted && !open && contained.length >= allowance(settings, population(scope));
    return { scope, state, contained, counted, full };
  });
  const reached = looked.filter(({ full }) => full).map(({ scope }) => scope);
  const next = new Map<string, GuardState>();
  for (const { scope, state, contained, full } of looked) {
    if (reached.length > 0) {
      if (full && state.reachedAt === null) next.set(scope, { ...state, contained, reachedAt: at });
    } else {
      // One that is contained again counts from now: it was let out meanwhile.
      const others = contained.filter((one) => one.instanceId !== vm.instanceId);
      const all = [...others, { instanceId: vm.instanceId, at }];
      next.set(scope, { ...state, contained: all, reachedAt: null });
    }
  }
  return { admitted: reached.length === 0, reached, next };
}

/** `enforce` for a share of the fleet: the first step out of `observe`. */
export interface Enforcement {
  readonly mode: Mode;
  /** 0 to 1. */
  readonly share: number;
}

/**
 * The mode that counts for one VM. Which VMs are in the share is decided by their ids, so that it is the same in
 * every function and at any time, and a larger share holds every VM of a smaller one. An operator means the VM
 * that was named, whatever the share; and what was taken is given back by the same rules that it was taken by.
 */
export function modeFor(
  /** A mode alone is that of all VMs. */
  of: Enforcement | Mode,
  vm: {
    readonly instanceId: string;
    readonly by: 'policy' | 'operator';
    readonly isolation: Pick<IsolationItem, 'interfaces'> | undefined;
  },
): Mode {
  const enforcement = typeof of === 'string' ? { mode: of, share: 1 } : of;
  if (enforcement.mode === 'observe') return 'observe';
  const taken = vm.isolation?.interfaces.some((record) => record.originals !== null) ?? false;
  if (vm.by === 'operator' || taken) return 'enforce';
  const place = createHash('sha256').update(vm.instanceId).digest().readUInt32BE(0) / 2 ** 32;
  return place < enforcement.share ? 'enforce' : 'observe';
}
