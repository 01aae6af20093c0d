import {
  type Composition,
  type Divergence,
  divergences,
  type VmRecord,
  volumesWithoutKey,
} from './convergence.ts';
import { type Denials, wishFor } from './credentials.ts';
import type { Enforcement } from './guard.ts';
import type { SweepHint } from './hints.ts';
import type { Mode } from './isolation.ts';

/** Ids in one message: as many as one Describe call takes. */
const IDS_PER_HINT = 200;

/** A covered volume that has no key so long after its VM was first seen raises the alarm. */
export const KEY_OVERDUE_SECONDS = 5 * 60;

export interface SweepPlan {
  readonly hints: readonly SweepHint[];
  readonly hinted: number;
  readonly diverged: ReadonlyMap<string, readonly Divergence[]>;
  readonly overdueVolumes: readonly string[];
}

/**
 * What a sweep has looked at again: every VM that EC2 shows, every VM of ours that it does not show, and,
 * announced even if nothing of them changed, those whose state is not what their facts call for. One VM of each VPC
 * and profile is driven every time, because the rules of Casemate's own groups are no VM's state.
 */
export function planSweep(
  fleet: ReadonlyMap<string, VmRecord>,
  liveIds: readonly string[],
  enforcement: Enforcement | Mode,
  now: Date,
  composition?: Composition,
  /** Where credentials of contained VMs are denied: what stands of it. */
  credentials?: { readonly denials: Denials | undefined },
): SweepPlan {
  const diverged = new Map<string, readonly Divergence[]>();
  const overdueVolumes: string[] = [];
  const ids = new Set(liveIds);
  const healers = new Map<string, string>();
  for (const [id, record] of fleet) {
    if (record.vm.gone) continue;
    ids.add(id);
    const found = [...divergences(record, enforcement, now, composition)];
    if (credentials && isOutdated(record, credentials.denials)) found.push('CREDENTIALS_OUTDATED');
    if (found.length > 0) diverged.set(id, found);
    // The rules of the groups are put right when a VM that carries them is looked at: one for each VPC, profile and
    // tenant. A VM can have interfaces in several VPCs.
    const carried = carriedGroups(record, composition);
    if (carried !== undefined) {
      for (const { vpcId } of record.vm.observation.interfaces) healers.set(`${vpcId} ${carried}`, id);
    }
    const ageSeconds = (now.getTime() - Date.parse(record.vm.firstSeenAt)) / 1000;
    if (ageSeconds > KEY_OVERDUE_SECONDS) overdueVolumes.push(...volumesWithoutKey(record));
  }
  const driven = new Set([...diverged.keys(), ...healers.values()]);
  const resync = [...ids].filter((id) => driven.has(id));
  const look = [...ids].filter((id) => !driven.has(id));
  return {
    hints: [...chunks(resync).map((c) => hint(c, true)), ...chunks(look).map((c) => hint(c, false))],
    hinted: ids.size,
    diverged,
    overdueVolumes,
  };
}

function isOutdated(record: VmRecord, denials: Denials | undefined): boolean {
  const { vm, isolation } = record;
  const wish = wishFor({ vm, isolation });
  const denied = denials?.denied.some((one) => one.instanceId === vm.observation.instanceId) ?? false;
  // What was not seen done on every role is done again.
  if (wish === 'deny') return !denied || denials?.applied !== true;
  return wish === 'allow' && denied;
}

/** Which groups of Casemate's a VM carries, as far as others carry the same; undefined where it has its own. */
function carriedGroups({ isolation }: VmRecord, composition: Composition | undefined): string | undefined {
  if (isolation?.mode !== 'enforce') return undefined;
  const { profile, definition = profile, tenant } = isolation;
  const own = composition?.profiles.profiles[definition]?.originals ?? profile === 'workload';
  return own ? undefined : `${definition} ${tenant ?? ''}`;
}

function hint(instanceIds: string[], resync: boolean): SweepHint {
  return { instanceIds, resync };
}

function chunks(ids: readonly string[]): string[][] {
  const all: string[][] = [];
  for (let i = 0; i < ids.length; i += IDS_PER_HINT) all.push(ids.slice(i, i + IDS_PER_HINT));
  return all;
}
