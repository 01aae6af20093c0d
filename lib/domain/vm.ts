import * as z from 'zod';
import { accountId, groupId, instanceId, interfaceId, region, utcTime, volumeId } from './ids.ts';
import type { OperatorItem } from './operator.ts';
import { demands, nextDemands } from './requirements.ts';

export const vmState = z.enum(['pending', 'running', 'stopping', 'stopped', 'shutting-down', 'terminated']);
export type VmState = z.infer<typeof vmState>;

export const observedInterface = z.strictObject({
  id: interfaceId,
  vpcId: z.string(),
  groups: z.array(groupId),
  /** A requester-managed or branch interface belongs to another AWS service: reported, not fought. */
  managedBy: z.enum(['customer', 'requester']),
  publicAddress: z.boolean(),
});
export type ObservedInterface = z.infer<typeof observedInterface>;

export const observedVolume = z.strictObject({
  id: volumeId,
  device: z.string(),
  root: z.boolean(),
  sizeGiB: z.number().int().positive(),
  /** Not blank: made from this snapshot. */
  snapshotId: z.string().optional(),
  multiAttach: z.boolean(),
  /** Those of Casemate alone (`casemate:…`): hints of people who may be attackers. */
  tags: z.record(z.string(), z.string()).optional(),
});
export type ObservedVolume = z.infer<typeof observedVolume>;

/** Everything that EC2 says of a VM and that Casemate decides by. `null` is "EC2 did not say". */
export const observation = z.strictObject({
  instanceId,
  accountId,
  region,
  state: vmState,
  launchTime: utcTime,
  instanceType: z.string(),
  imageId: z.string(),
  vpcId: z.string().nullable(),
  autoScalingGroup: z.string().nullable(),
  tags: z.record(z.string(), z.string()),
  amdSevSnp: z.enum(['enabled', 'disabled']).nullable(),
  nestedVirtualization: z.enum(['enabled', 'disabled']).nullable(),
  /** Whether the memory may be written to the root volume, keys in it (docs/adr/0011). */
  hibernation: z.enum(['configured', 'absent']).nullish(),
  /** CpuOptions.ThreadsPerCore. */
  threadsPerCore: z.number().int().positive().nullish(),
  interfaces: z.array(observedInterface),
  volumes: z.array(observedVolume),
});
export type Observation = z.infer<typeof observation>;

/** The `vm#` item. */
export const vmItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  observation,
  /** First time that this pipeline saw the VM; the age of a missing key counts from here. */
  firstSeenAt: utcTime,
  /** In scope. Once true it stays true until an operator confirms that it may leave. */
  managed: z.boolean(),
  /** In scope by what was decided before, though its tags now say otherwise. */
  leavingScope: z.boolean(),
  /** What its tags demand of its hardware, and demanded before if nobody confirmed less. */
  demands: demands.optional(),
  decision: z.strictObject({ at: utcTime, reasons: z.array(z.string()), policies: z.array(z.string()) }),
  /** Since when the tags say otherwise; an operator's word counts when it is younger. */
  leavingSince: utcTime.optional(),
  /** First sweep that did not see it. */
  missingSince: utcTime.nullable(),
  gone: z.boolean(),
});
export type VmItem = z.infer<typeof vmItem>;

export const LIVE_STATES: ReadonlySet<VmState> = new Set(['pending', 'running', 'stopping', 'stopped']);

/** Two sweeps at least this far apart must miss a VM before it counts as gone (PROTOCOL.md). */
export const GONE_AFTER_SECONDS = 15 * 60;

/** What a look at EC2 says of one VM's presence. */
export type Sighting =
  | { readonly kind: 'seen'; readonly observation: Observation }
  /** Asked for by id, not in the answer. Only a sweep's look counts towards `gone`. */
  | { readonly kind: 'not-seen'; readonly bySweep: boolean };

export interface ScopeDecision {
  readonly inScope: boolean;
  readonly reasons: readonly string[];
  readonly policies: readonly string[];
}

export type VmUpdate =
  | { readonly kind: 'unchanged' }
  | { readonly kind: 'write'; readonly item: Omit<VmItem, 'pk' | 'version'> };

/**
 * The next `vm#` item after one sighting.
 *
 * An unseen VM is never `gone` by one look: EC2 is eventually consistent, and a wrong `gone` would drop
 * the fence. A VM that was in scope and now is not keeps fence and policy (`leavingScope`) until an
 * operator confirms, because tags are edited by people who may be attackers. What an operator said before the tags
 * changed was about another change.
 */
export function nextVm(
  known: VmItem | undefined,
  sighting: Sighting,
  scope: ScopeDecision | undefined,
  now: Date,
  operator?: Pick<OperatorItem, 'demandLess' | 'leaveScope'>,
): VmUpdate {
  if (sighting.kind === 'not-seen') {
    if (!known || known.gone || !sighting.bySweep) return { kind: 'unchanged' };
    const { pk: _pk, version: _version, ...rest } = known;
    if (known.missingSince === null) {
      return { kind: 'write', item: { ...rest, missingSince: now.toISOString() } };
    }
    const missedForSeconds = (now.getTime() - Date.parse(known.missingSince)) / 1000;
    return missedForSeconds >= GONE_AFTER_SECONDS
      ? { kind: 'write', item: { ...rest, gone: true } }
      : { kind: 'unchanged' };
  }
  if (!scope) throw new TypeError('a seen VM needs a scope decision');
  const gone = sighting.observation.state === 'terminated';
  const since = known?.leavingScope ? (known.leavingSince ?? known.decision.at) : undefined;
  const mayLeave =
    since !== undefined &&
    operator?.leaveScope !== undefined &&
    Date.parse(operator.leaveScope.at) >= Date.parse(since);
  const managed = scope.inScope || ((known?.managed ?? false) && !mayLeave);
  const leavingScope = managed && !scope.inScope;
  const standing = nextDemands(known?.demands, sighting.observation.tags, operator?.demandLess, now);
  const next: Omit<VmItem, 'pk' | 'version'> = {
    observation: sighting.observation,
    firstSeenAt: known?.firstSeenAt ?? now.toISOString(),
    managed,
    leavingScope,
    ...(leavingScope ? { leavingSince: since ?? now.toISOString() } : {}),
    ...(standing && { demands: standing }),
    decision: {
      at: now.toISOString(),
      reasons: leavingScope
        ? ['LEAVING_SCOPE']
        : mayLeave && !scope.inScope
          ? ['LEAVE_SCOPE_ALLOWED', ...scope.reasons]
          : [...scope.reasons],
      policies: [...scope.policies],
    },
    missingSince: null,
    gone,
  };
  return known && sameVm(known, next) ? { kind: 'unchanged' } : { kind: 'write', item: next };
}

function sameVm(known: VmItem, next: Omit<VmItem, 'pk' | 'version'>): boolean {
  const essence = (vm: Omit<VmItem, 'pk' | 'version'>) =>
    canonicalJson({
      observation: vm.observation,
      managed: vm.managed,
      leavingScope: vm.leavingScope,
      demands: vm.demands,
      missing: vm.missingSince !== null,
      gone: vm.gone,
      reasons: vm.decision.reasons,
    });
  return essence(known) === essence(next);
}

/** JSON with sorted keys, for comparing values by content. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, v: unknown) =>
    v !== null && typeof v === 'object' && !Array.isArray(v)
      ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
      : v,
  );
}

export type Coverage =
  | { readonly covered: true }
  | { readonly covered: false; readonly reason: 'ROOT_VOLUME' | 'MULTI_ATTACH_VOLUME' };

/** Which volumes get a key. What is not covered is said, with its reason, in every listing. */
export function coverageOf(volume: ObservedVolume): Coverage {
  if (volume.root) return { covered: false, reason: 'ROOT_VOLUME' };
  if (volume.multiAttach) return { covered: false, reason: 'MULTI_ATTACH_VOLUME' };
  return { covered: true };
}
