import type { VmRecord } from '../../lib/domain/convergence.ts';
import { type DiskItem, decideDiskKey } from '../../lib/domain/disk-key.ts';
import type { SourcedFact } from '../../lib/domain/fact.ts';
import { policyFacts, standingVerdict } from '../../lib/domain/posture.ts';
import { coverageOf } from '../../lib/domain/vm.ts';

/** A VM as every listing shows it; `--json` prints exactly this. */
export interface VmView {
  readonly id: string;
  readonly state: string;
  readonly inScope: boolean;
  readonly volumes: readonly {
    readonly id: string;
    readonly covered: boolean;
    readonly reason?: string;
    readonly disk: string | null;
    readonly keys: readonly { readonly generation: number; readonly state: string }[];
  }[];
  readonly isolation: {
    readonly profile: string | null;
    readonly applied: boolean;
    readonly interfaces: readonly { readonly id: string; readonly groups: readonly string[] }[];
  };
  readonly posture: {
    readonly verdict: string;
    readonly reasons: readonly string[];
    readonly facts: Readonly<Record<string, SourcedFact>>;
  };
}

/** What the table says of a VM, with what its posture is worth now. */
export function viewOf(record: VmRecord, now: Date): VmView {
  const { vm, posture, isolation } = record;
  const standing = standingVerdict(posture, now);
  const claimed: Record<string, SourcedFact> = Object.fromEntries(
    (posture?.facts ?? []).map((f) => [f.id, { state: f.state, source: 'claimed', value: f.value } as const]),
  );
  const attached = new Set(vm.observation.volumes.map((volume) => volume.id));
  const detached = [...record.disks.values()].filter((disk) => !attached.has(disk.volumeId));
  const settled = new Map(isolation?.interfaces.map((eni) => [eni.id, eni.groups]));
  return {
    id: vm.observation.instanceId,
    state: vm.observation.state,
    inScope: vm.managed,
    volumes: [
      ...vm.observation.volumes.map((volume) => {
        const disk = record.disks.get(volume.id);
        const decision = decideDiskKey(vm, volume, disk);
        return {
          id: volume.id,
          covered: vm.managed && coverageOf(volume).covered,
          ...('reason' in decision ? { reason: decision.reason } : {}),
          ...keysOf(disk),
        };
      }),
      ...detached.map((disk) => ({ id: disk.volumeId, covered: true, reason: 'DETACHED', ...keysOf(disk) })),
    ],
    isolation: {
      profile: isolation?.profile ?? null,
      applied: isolation?.applied ?? false,
      interfaces: vm.observation.interfaces.map((eni) => ({
        id: eni.id,
        groups: settled.get(eni.id) ?? eni.groups,
      })),
    },
    posture: vm.managed
      ? {
          verdict: standing.verdict,
          reasons: standing.reasons,
          facts: {
            ...claimed,
            ...assertedOnly(policyFacts({ facts: posture?.facts ?? [] }, vm, posture?.attestations ?? [])),
          },
        }
      : { verdict: 'not-managed', reasons: vm.decision.reasons, facts: {} },
  };
}

function keysOf(disk: DiskItem | undefined) {
  return {
    disk: disk?.disk ?? null,
    keys: (disk?.generations ?? []).map(({ generation, state }) => ({ generation, state })),
  };
}

function assertedOnly(facts: Record<string, SourcedFact>): Record<string, SourcedFact> {
  return Object.fromEntries(Object.entries(facts).filter(([, fact]) => fact.source !== 'claimed'));
}
