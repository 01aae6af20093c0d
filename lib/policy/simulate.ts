import type { VmRecord } from '../domain/convergence.ts';
import { usableGenerations } from '../domain/disk-key.ts';
import { decideRelease } from '../domain/key-release.ts';
import { assessPosture, INITIAL_POSTURE, type PostureItem } from '../domain/posture.ts';
import { askPosture, askRelease, fleetOf } from './ask.ts';
import type { PolicyEngine } from './engine.ts';

/** What a simulation takes for what the functions have in their environment. */
export interface SimulationSettings {
  readonly reportMaxAgeSeconds: number;
  readonly evidenceMaxAgeSeconds: number;
  readonly now: Date;
}

/** One decision about a VM, in words that can be compared. */
export interface SimulatedDecision {
  readonly decision: string;
  readonly reasons: readonly string[];
  readonly policies: readonly string[];
}

/** What another set of policies would decide otherwise about one VM. */
export interface SimulatedChange {
  readonly instanceId: string;
  /** `scope`, `posture`, or `release of <disk>`. */
  readonly about: string;
  readonly live: SimulatedDecision;
  readonly candidate: SimulatedDecision;
}

/** What each set of policies decides over the present facts of the fleet, where the two differ. */
export function simulate(
  fleet: ReadonlyMap<string, VmRecord>,
  engines: { readonly live: PolicyEngine; readonly candidate: PolicyEngine },
  settings: SimulationSettings,
): readonly SimulatedChange[] {
  const changes: SimulatedChange[] = [];
  for (const [instanceId, record] of fleet) {
    if (record.vm.gone) continue;
    const live = decisionsAbout(record, engines.live, settings);
    const candidate = decisionsAbout(record, engines.candidate, settings);
    for (const about of new Set([...live.keys(), ...candidate.keys()])) {
      const [before, after] = [live.get(about) ?? NOT_ASKED, candidate.get(about) ?? NOT_ASKED];
      if (essence(before) !== essence(after)) {
        changes.push({ instanceId, about, live: before, candidate: after });
      }
    }
  }
  return changes;
}

const NOT_ASKED: SimulatedDecision = { decision: 'not asked', reasons: [], policies: [] };

/** Two sets may come to the same by policies of other names: that is no change for the VM. */
function essence({ decision, reasons }: SimulatedDecision): string {
  return JSON.stringify([decision, [...reasons].sort()]);
}

/**
 * Every question about one VM. Releases are decided as in `enforce`: `observe` gives a key that posture refuses,
 * and would hide what changes. Whoever has a standing has an enrolled agent.
 */
function decisionsAbout(
  record: VmRecord,
  policy: PolicyEngine,
  { reportMaxAgeSeconds, evidenceMaxAgeSeconds, now }: SimulationSettings,
): ReadonlyMap<string, SimulatedDecision> {
  const { vm, isolation, operator } = record;
  const decisions = new Map<string, SimulatedDecision>();
  const scope = policy.decide('Manage', vm.observation, fleetOf(vm.observation), {});
  const kept = vm.managed && !scope.allowed;
  decisions.set('scope', {
    decision: scope.allowed ? 'in scope' : kept ? 'leaving scope' : 'left alone',
    reasons: scope.reasons,
    policies: scope.policies,
  });
  if (!scope.allowed && !kept) return decisions;
  const before = record.posture ?? INITIAL_POSTURE(vm.observation.instanceId, now);
  const assessment = assessPosture(
    {
      vm,
      enrolment: before.standing ? { instanceId: before.instanceId } : undefined,
      posture: before,
      previous: before.verdict,
      maxAgeSeconds: reportMaxAgeSeconds,
      evidenceMaxAgeSeconds,
      now,
    },
    askPosture(policy, vm.observation),
  );
  decisions.set('posture', { ...assessment, decision: assessment.verdict });
  const posture: PostureItem = {
    pk: `posture#${before.instanceId}`,
    version: 1,
    ...before,
    ...assessment,
  };
  for (const [volumeId, disk] of record.disks) {
    const newest = usableGenerations(disk).at(-1);
    const volume = vm.observation.volumes.find((v) => v.id === volumeId);
    if (!newest || !volume) continue;
    const { generation } = newest;
    const resource = { type: 'Disk', id: disk.disk, sizeGiB: volume.sizeGiB } as const;
    const release = decideRelease(
      { vm, disk, generation, posture, isolation, operator, mode: 'enforce', evidenceMaxAgeSeconds, now },
      askRelease(policy, vm.observation, resource),
    );
    const { kind, reasons, policies } = release;
    decisions.set(`release of ${disk.disk}`, { decision: kind, reasons, policies });
  }
  return decisions;
}
