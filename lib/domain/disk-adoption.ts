import { vmRefusal } from './disk-access.ts';
import { type DiskItem, diskKeyOf, type KeyGeneration } from './disk-key.ts';
import type { Reason } from './reasons.ts';
import { coverageOf, type ObservedVolume, type VmItem } from './vm.ts';

/** What a request to adopt a disk is about, as the table and EC2's observation say. */
export interface AdoptionFacts {
  readonly vm: VmItem;
  readonly volumeId: string;
  readonly disk: string;
  /** The disks on the VM's volumes, by volume. */
  readonly diskOf: (volumeId: string) => DiskItem | undefined;
}

export type AdoptionPlan =
  /** It is this VM's already: the same request again, after a lost answer. */
  | { readonly kind: 'adopted'; readonly disk: DiskItem }
  /** The very volume came here from another VM. */
  | { readonly kind: 'move'; readonly disk: DiskItem; readonly volume: ObservedVolume }
  /** The volume was restored from a snapshot; the disk that the snapshot is of may live on. */
  | { readonly kind: 'copy'; readonly volume: ObservedVolume & { readonly snapshotId: string } }
  | { readonly kind: 'refuse'; readonly reason: Reason };

/**
 * How a volume with a LUKS UUID comes to be a disk of this VM. The UUID stands in a header that whoever can write
 * the volume wrote, so it opens nothing by itself: whether it may be, policy decides.
 */
export function planAdoption(facts: AdoptionFacts): AdoptionPlan {
  const { vm, disk: uuid } = facts;
  const refuse = (reason: Reason): AdoptionPlan => ({ kind: 'refuse', reason });
  const refusal = vmRefusal(vm);
  if (refusal) return refuse(refusal);
  const volume = vm.observation.volumes.find((v) => v.id === facts.volumeId);
  if (!volume) return refuse('ADOPTION_NOT_ATTACHED');
  const coverage = coverageOf(volume);
  if (!coverage.covered) return refuse(coverage.reason);
  const twice = vm.observation.volumes.some((v) => v !== volume && facts.diskOf(v.id)?.disk === uuid);
  if (twice) return refuse('ADOPTION_DISK_TWICE');
  const carried = facts.diskOf(volume.id);
  if (carried) {
    if (carried.disk !== uuid) return refuse('ADOPTION_OTHER_DISK');
    return carried.instanceId === vm.observation.instanceId
      ? { kind: 'adopted', disk: carried }
      : { kind: 'move', disk: carried, volume };
  }
  const { snapshotId } = volume;
  return snapshotId === undefined
    ? refuse('ADOPTION_NOT_RESTORED')
    : { kind: 'copy', volume: { ...volume, snapshotId } };
}

/** What policy decides an adoption by; `schema.cedarschema` says the same. */
export interface AdoptionContext {
  readonly kind: 'move' | 'copy';
  /** EC2 says that the volume is of the disk: the very volume, or made from a snapshot of it. */
  readonly lineage: 'asserted' | 'unknown';
  /** The disk was this very VM's before. */
  readonly ownDisk: boolean;
  /** Both VMs have the same tag casemate:tenant. */
  readonly sameTenant: boolean;
  /** An operator allowed it for this VM and volume. */
  readonly allowed: boolean;
}

/** Whether two VMs say of themselves that they are one tenant's; a VM that says nothing is nobody's. */
export function sameTenant(a: VmItem | undefined, b: VmItem): boolean {
  const tenant = a?.observation.tags['casemate:tenant'];
  return tenant !== undefined && tenant === b.observation.tags['casemate:tenant'];
}

/** Generations that still open something, and so are wrapped anew for the VM that takes the disk over. */
export function generationsToRewrap(
  disk: DiskItem,
): readonly (KeyGeneration & { readonly wrappedKey: string })[] {
  return disk.generations.flatMap((g) => (g.wrappedKey === null ? [] : [{ ...g, wrappedKey: g.wrappedKey }]));
}

/**
 * The item of the disk as the VM's own, its keys wrapped anew: the same item where the volume moved, one of its
 * own where it is a copy, so that rotating one never takes a key from the other.
 */
export function adoptedDisk(
  source: DiskItem,
  to: { readonly instanceId: string; readonly volumeId: string; readonly copy: boolean },
  rewrapped: ReadonlyMap<number, string>,
  decision: DiskItem['decision'],
): Omit<DiskItem, 'version'> {
  const { pk: _pk, version: _version, ...kept } = source;
  return {
    ...kept,
    pk: to.copy ? diskKeyOf(to.volumeId, { disk: source.disk, copy: true }) : source.pk,
    volumeId: to.volumeId,
    instanceId: to.instanceId,
    ...(to.copy ? { copy: true as const } : {}),
    generations: source.generations.map((g) => {
      const wrappedKey = rewrapped.get(g.generation);
      return wrappedKey === undefined ? g : { ...g, wrappedKey, wrappedFor: to.instanceId };
    }),
    adoptedAt: decision.at,
    decision,
  };
}
