import { hasStepsLeft } from './containment.ts';
import { type DiskItem, decideDiskKey, usableGenerations } from './disk-key.ts';
import { type Enforcement, modeFor } from './guard.ts';
import { decideProfile, type IsolationItem, type Mode, type Profile } from './isolation.ts';
import type { OperatorItem } from './operator.ts';
import { type PostureItem, standingVerdict } from './posture.ts';
import { definitionFor, definitionNamed, type Profiles, tenantOf } from './profiles.ts';
import { type Limits, sameLimits } from './quotas.ts';
import type { VmItem } from './vm.ts';

/** Everything that the table holds of one VM. */
export interface VmRecord {
  readonly vm: VmItem;
  /** By volume id. */
  readonly disks: ReadonlyMap<string, DiskItem>;
  readonly posture: PostureItem | undefined;
  readonly isolation: IsolationItem | undefined;
  readonly operator: OperatorItem | undefined;
}

export type Divergence =
  | 'KEY_MISSING'
  | 'POSTURE_OUTDATED'
  | 'PROFILE_OUTDATED'
  | 'PROFILE_NOT_APPLIED'
  | 'INTERFACES_UNKNOWN'
  /** A step of a containment is neither done nor taken back. */
  | 'STEPS_LEFT'
  /** Its credentials are denied and should not be, or the other way round. */
  | 'CREDENTIALS_OUTDATED';

/** What a deployment composes groups from. */
export interface Composition {
  readonly profiles: Profiles;
  readonly limits: Limits;
}

/**
 * Where a VM's state is not what its facts call for; empty when it converged. The sweep re-drives every
 * VM that diverges, and `npm start` waits until none does.
 */
export function divergences(
  record: VmRecord,
  enforcement: Enforcement | Mode,
  now: Date,
  /** Of the deployment, where it is known: a VM diverges, too, that was fenced by another. */
  composition?: Composition,
): readonly Divergence[] {
  const found: Divergence[] = [];
  const { vm, posture, isolation } = record;
  for (const volume of vm.observation.volumes) {
    const disk = record.disks.get(volume.id);
    if (decideDiskKey(vm, volume, disk).kind === 'issue') found.push('KEY_MISSING');
  }
  const standing = standingVerdict(posture, now);
  if (posture && (posture.verdict !== standing.verdict || posture.reasons.join() !== standing.reasons.join()))
    found.push('POSTURE_OUTDATED');
  const wanted = decideProfile(record, now);
  if (wanted.kind === 'fence' && vm.observation.interfaces.length > 0) {
    const { instanceId } = vm.observation;
    const mode = modeFor(enforcement, { instanceId, by: wanted.by, isolation });
    const redefined = composition !== undefined && isRedefined(record, wanted.profile, composition);
    if (isolation?.profile !== wanted.profile || isolation.mode !== mode || redefined)
      found.push('PROFILE_OUTDATED');
    else if (mode === 'enforce' && !isolation.applied) found.push('PROFILE_NOT_APPLIED');
    else if (mode === 'enforce') {
      if (hasStepsLeft(isolation.steps, isolation.profile, vm.observation.interfaces))
        found.push('STEPS_LEFT');
      const settled = new Map(isolation.interfaces.map((i) => [i.id, [...i.groups].sort().join()]));
      const drifted = vm.observation.interfaces.some(
        (eni) =>
          settled.get(eni.id) === undefined ||
          (wanted.profile !== 'workload' && settled.get(eni.id) !== [...eni.groups].sort().join()),
      );
      if (drifted) found.push('INTERFACES_UNKNOWN');
    }
  }
  return [...new Set(found)];
}

/** Covered volumes that should have a key and have none, for the alarm on keys not issued. */
export function volumesWithoutKey(record: VmRecord): readonly string[] {
  return record.vm.observation.volumes
    .filter((volume) => {
      const disk = record.disks.get(volume.id);
      if (disk && usableGenerations(disk).length > 0) return false;
      return decideDiskKey(record.vm, volume, disk).kind === 'issue';
    })
    .map((volume) => volume.id);
}

function isRedefined(record: VmRecord, profile: Profile, { profiles, limits }: Composition): boolean {
  const { vm, isolation, operator } = record;
  const { tenant } = tenantOf(vm.observation.tags, isolation?.tenant, operator?.tenant?.tenant);
  const definition = definitionFor(profiles, profile, vm.observation, tenant);
  if (isolation?.definition !== definition) return true;
  return !definitionNamed(profiles, definition).originals && !sameLimits(isolation.limits, limits);
}
