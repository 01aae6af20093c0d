import { expect, test } from '@jest/globals';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { readPolicySources } from '../../lib/policy/compile.ts';
import { simulate } from '../../lib/policy/simulate.ts';
import { fact } from '../world/agent.ts';
import { aDisk, anIsolation, aPosture, aVm, aVolume, DISK, later, NOW, VM_ID } from '../world/items.ts';
import { policySet, projectPolicies } from '../world/world.ts';

const sources = readPolicySources(new URL('../../policies/', import.meta.url));
const withMine = (text: string) =>
  policySet({ ...sources, policies: new Map([...sources.policies, ['mine.cedar', text]]) });
const live = projectPolicies();
const SETTINGS = { reportMaxAgeSeconds: 900, evidenceMaxAgeSeconds: 7200, now: NOW };

const record = (overrides: Partial<VmRecord> = {}): VmRecord => ({
  vm: aVm(),
  disks: new Map([[aVolume().id, aDisk()]]),
  posture: aPosture({ facts: [fact('mem.swap', 'absent'), fact('virt.iommu', 'absent')] }),
  isolation: anIsolation(),
  operator: undefined,
  ...overrides,
});
const fleet = (...records: VmRecord[]) => new Map(records.map((r) => [r.vm.observation.instanceId, r]));
const about = (changes: ReturnType<typeof simulate>) =>
  changes.map((c) => [c.about, c.live.decision, c.candidate.decision, c.candidate.reasons.join()]);

const IOMMU_FOR_ALL = withMine(
  `@id("mine.iommu") @reason("IOMMU_INACTIVE") forbid (principal, action == Casemate::Action::"LeaveProbation", resource)
   unless { context.facts["virt.iommu"].state == "present" };`,
);

test('the same policies change nothing', () => {
  expect(simulate(fleet(record()), { live, candidate: live }, SETTINGS)).toEqual([]);
});

test('a VM that would lose its posture loses its key with it, and the policy is named', () => {
  const changes = simulate(fleet(record()), { live, candidate: IOMMU_FOR_ALL }, SETTINGS);
  expect(about(changes)).toEqual([
    ['posture', 'compliant', 'unproven', 'IOMMU_INACTIVE'],
    [`release of ${DISK}`, 'release', 'refuse', 'NO_POLICY_PERMITS,IOMMU_INACTIVE'],
  ]);
  expect(changes[0]).toMatchObject({ instanceId: VM_ID, candidate: { policies: ['mine.iommu'] } });
});

test('and the other way round', () => {
  const changes = simulate(fleet(record()), { live: IOMMU_FOR_ALL, candidate: live }, SETTINGS);
  expect(about(changes).map(([what, , after]) => [what, after])).toEqual([
    ['posture', 'compliant'],
    [`release of ${DISK}`, 'release'],
  ]);
});

test('a VM that would come into scope is told, with what is asked of it then', () => {
  const everybody = withMine(
    '@id("mine.all") @reason("IN_SCOPE") permit (principal, action == Casemate::Action::"Manage", resource);',
  );
  const outside = record({
    vm: aVm({ managed: false, observation: { tags: {} } }),
    disks: new Map(),
    posture: undefined,
  });
  expect(about(simulate(fleet(outside), { live, candidate: everybody }, SETTINGS))).toEqual([
    ['scope', 'left alone', 'in scope', 'IN_SCOPE'],
    ['posture', 'not asked', 'unproven', 'NOT_ENROLLED'],
  ]);
});

test('a VM that would leave scope keeps what it has until an operator confirms', () => {
  const nobody = withMine(
    '@id("mine.none") @reason("NOT_IN_SCOPE") forbid (principal, action == Casemate::Action::"Manage", resource);',
  );
  expect(about(simulate(fleet(record()), { live, candidate: nobody }, SETTINGS))).toEqual([
    ['scope', 'in scope', 'leaving scope', 'NOT_IN_SCOPE'],
  ]);
});

test('what is stale, gone or decided by other policies to the same end is no change', () => {
  const sameEnd = withMine(
    '@id("mine.too") @reason("POSTURE_PROVEN") permit (principal, action == Casemate::Action::"LeaveProbation", resource);',
  );
  const gone = record({ vm: aVm({ gone: true }) });
  expect(simulate(fleet(record()), { live, candidate: sameEnd }, SETTINGS)).toEqual([]);
  expect(simulate(fleet(gone), { live, candidate: IOMMU_FOR_ALL }, SETTINGS)).toEqual([]);
  const stale = { ...SETTINGS, now: later(3600) };
  expect(simulate(fleet(record()), { live, candidate: IOMMU_FOR_ALL }, stale)).toEqual([]);
});
