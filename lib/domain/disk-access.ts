import type { DiskItem } from './disk-key.ts';
import type { Reason } from './reasons.ts';
import { coverageOf, LIVE_STATES, type ObservedVolume, type VmItem } from './vm.ts';

/** A disk that a VM may do something with now: its item, and the volume that carries it. */
export type DiskAccess =
  | { readonly kind: 'ok'; readonly disk: DiskItem; readonly volume: ObservedVolume }
  | { readonly kind: 'refuse'; readonly reason: Reason };

/** Why a VM has nothing to do with keys, however well it proves who it is; undefined when it has. */
export function vmRefusal(vm: VmItem): Reason | undefined {
  if (!vm.managed) return 'VM_NOT_MANAGED';
  if (vm.gone) return 'VM_GONE';
  // What EC2 showed may be older than the boot that asks, so `stopped` does not speak against it.
  return LIVE_STATES.has(vm.observation.state) ? undefined : 'VM_NOT_LIVE';
}

/**
 * The disk of this UUID on a volume that EC2 shows attached to this VM. The agent names a disk; that it is
 * the VM's is looked up from the volumes, never believed.
 */
export function accessDisk(
  vm: VmItem,
  uuid: string,
  diskOf: (volumeId: string) => DiskItem | undefined,
): DiskAccess {
  const refusal = vmRefusal(vm);
  if (refusal) return { kind: 'refuse', reason: refusal };
  for (const volume of vm.observation.volumes) {
    const disk = diskOf(volume.id);
    if (disk?.disk !== uuid) continue;
    const coverage = coverageOf(volume);
    if (!coverage.covered) return { kind: 'refuse', reason: coverage.reason };
    if (disk.instanceId !== vm.observation.instanceId) return { kind: 'refuse', reason: 'DISK_MOVED' };
    return { kind: 'ok', disk, volume };
  }
  return { kind: 'refuse', reason: 'DISK_NOT_ATTACHED' };
}

/**
 * Hibernation writes the VM's memory, and the volume keys in it, to a disk that Casemate does not cover. EC2 says
 * of every VM whether it is configured, so where it did not say, it is not known to be off (docs/adr/0011).
 */
export function hibernationRefusal(vm: VmItem): Reason | undefined {
  switch (vm.observation.hibernation) {
    case 'absent':
      return undefined;
    case 'configured':
      return 'HIBERNATION_CONFIGURED';
    default:
      return 'HIBERNATION_UNKNOWN';
  }
}
