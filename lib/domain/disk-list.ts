import { hibernationRefusal } from './disk-access.ts';
import type { DiskListResponse, ListedVolume } from './disk-api.ts';
import { type DiskItem, decideDiskKey, diskKindOf } from './disk-key.ts';
import type { Mode } from './isolation.ts';
import type { ReleaseItem } from './key-release.ts';
import type { OperatorItem } from './operator.ts';
import type { Reason } from './reasons.ts';
import type { ObservedVolume, VmItem } from './vm.ts';

/** Every volume that EC2 shows at the VM, with its disk and what the agent is to do. */
export function listDisks(facts: {
  readonly vm: VmItem;
  readonly diskOf: (volumeId: string) => DiskItem | undefined;
  readonly release: ReleaseItem | undefined;
  readonly operator: OperatorItem | undefined;
  readonly mode: Mode;
  readonly recoveryPublicKey: string | null;
}): DiskListResponse {
  const { vm, mode, recoveryPublicKey } = facts;
  return {
    mode,
    recoveryPublicKey,
    volumes: vm.observation.volumes.map((volume): ListedVolume => {
      const disk = facts.diskOf(volume.id);
      const decision = decideDiskKey(vm, volume, disk);
      const own = decision.kind === 'keep' ? disk : undefined;
      return {
        volumeId: volume.id,
        sizeGiB: volume.sizeGiB,
        notCovered: notCovered(decision) ?? hibernationRefusal(vm) ?? null,
        disk: own?.disk ?? null,
        kind: diskKindOf(volume),
        fromSnapshot: volume.snapshotId !== undefined,
        confirmed: own?.generations.some((g) => g.state !== 'issued') ?? false,
        generations: (own?.generations ?? []).map(({ generation, state }) => ({ generation, state })),
        rotate: own ? whyRotate(own, facts.release, facts.operator, mode) : null,
        mountPoint: hint(volume, 'casemate:mount'),
        filesystem: hint(volume, 'casemate:filesystem'),
      };
    }),
  };
}

function notCovered(decision: ReturnType<typeof decideDiskKey>): Reason | null {
  if ('reason' in decision) return decision.reason;
  // In scope, and its key is on its way.
  return decision.kind === 'issue' ? 'KEY_NOT_ISSUED_YET' : null;
}

/**
 * Why the active key of a disk is to be replaced. What is not confirmed yet is not rotated: a key that
 * replaces it would come after it anyway.
 */
function whyRotate(
  disk: DiskItem,
  release: ReleaseItem | undefined,
  operator: OperatorItem | undefined,
  mode: Mode,
): Reason | null {
  const active = disk.generations.find((g) => g.state === 'active');
  if (!active) return null;
  const { adoptedAt } = disk;
  if (adoptedAt && Date.parse(active.issuedAt) <= Date.parse(adoptedAt)) return 'DISK_ADOPTED';
  const asked = operator?.rotate?.[disk.disk];
  if (asked && Date.parse(active.issuedAt) <= Date.parse(asked.at)) return 'OPERATOR_ASKED';
  const mark = release?.marks.find((m) => m.disk === disk.disk);
  if (mode === 'enforce' && mark && mark.generation >= active.generation) return 'RELEASED_IN_OBSERVE';
  return null;
}

function hint(volume: ObservedVolume, tag: string): string | null {
  return volume.tags?.[tag] ?? null;
}
