import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { divergences, type VmRecord, volumesWithoutKey } from '../../lib/domain/convergence.ts';
import type { Denials } from '../../lib/domain/credentials.ts';
import { assembleFleet } from '../../lib/domain/fleet.ts';
import type { IsolationItem } from '../../lib/domain/isolation.ts';
import { parseProfiles } from '../../lib/domain/profiles.ts';
import { DEFAULT_LIMITS } from '../../lib/domain/quotas.ts';
import { KEY_OVERDUE_SECONDS, planSweep } from '../../lib/domain/sweep.ts';
import {
  aDisk,
  aGeneration,
  anInterface,
  anIsolation,
  anOperator,
  aPosture,
  aVm,
  aVolume,
  DISK,
  later,
  NOW,
  VM_ID,
} from '../world/items.ts';

const converged = (overrides: Partial<VmRecord> = {}): VmRecord => ({
  vm: aVm(),
  disks: new Map([[aVolume().id, aDisk()]]),
  posture: aPosture(),
  isolation: anIsolation(),
  operator: undefined,
  ...overrides,
});
const fencedIn = (groups: string[], overrides = {}) =>
  anIsolation({
    profile: 'probation',
    interfaces: [{ id: anInterface().id, originals: ['sg-0000aaaa'], groups }],
    ...overrides,
  });

describe('a VM diverges', () => {
  test('in nothing when everything is as its facts call for', () => {
    expect(divergences(converged(), 'enforce', NOW)).toEqual([]);
  });

  test('when an operator contained it and it is in workload yet, in scope or not', () => {
    const record = converged({ operator: anOperator() });
    expect(divergences(record, 'enforce', NOW)).toEqual(['PROFILE_OUTDATED']);
    const outOfScope = converged({ vm: aVm({ managed: false }), operator: anOperator() });
    expect(divergences(outOfScope, 'enforce', NOW)).toEqual(['PROFILE_OUTDATED']);
  });

  test('when a step of its containment was not taken back', () => {
    const standby = {
      kind: 'standby',
      autoScalingGroup: 'web',
      replaced: true,
      state: 'done',
      at: NOW.toISOString(),
    } as const;
    const record = converged({ isolation: anIsolation({ steps: [standby] }) });
    expect(divergences(record, 'enforce', NOW)).toEqual(['STEPS_LEFT']);
  });

  test('when the profiles of the deployment give it another one', () => {
    const profiles = parseProfiles(
      {
        schemaVersion: 1,
        profiles: { probation: {}, workload: { originals: true }, quarantine: {}, segmented: {} },
        use: [{ stage: 'workload', profile: 'segmented', tag: { key: 'role', value: 'db' } }],
      },
      { kind: 'https-anywhere' },
    );
    const tagged = (tags: Record<string, string>) => converged({ vm: aVm({ observation: { tags } }) });
    const composition = { profiles, limits: DEFAULT_LIMITS };
    expect(divergences(tagged({}), 'enforce', NOW, composition)).toEqual([]);
    expect(divergences(tagged({ role: 'db' }), 'enforce', NOW, composition)).toEqual(['PROFILE_OUTDATED']);
  });

  test('when its groups were composed under other quotas than those of now', () => {
    const profiles = parseProfiles(
      { schemaVersion: 1, profiles: { probation: {}, workload: { originals: true }, quarantine: {} } },
      { kind: 'https-anywhere' },
    );
    const under = (limits: IsolationItem['limits'], now = DEFAULT_LIMITS) => {
      const isolation = anIsolation({
        profile: 'quarantine',
        definition: 'quarantine',
        reasons: ['OPERATOR_QUARANTINE'],
        limits,
      });
      const record = converged({ operator: anOperator(), isolation });
      return divergences(record, 'enforce', NOW, { profiles, limits: now });
    };
    expect(under(DEFAULT_LIMITS)).toEqual([]);
    expect(under(DEFAULT_LIMITS, { ...DEFAULT_LIMITS, rulesPerGroup: 100 })).toEqual(['PROFILE_OUTDATED']);
    expect(under({ ...DEFAULT_LIMITS, groupsPerInterface: 8 })).toEqual(['PROFILE_OUTDATED']);
    expect(under(undefined)).toEqual(['PROFILE_OUTDATED']);
    // In groups of its own, it has none that quotas could change.
    const limits = { groupsPerInterface: 1, rulesPerGroup: 1 };
    expect(divergences(converged(), 'enforce', NOW, { profiles, limits })).toEqual([]);
  });

  test('in nothing when it is not in scope', () => {
    const record = {
      vm: aVm({ managed: false }),
      disks: new Map(),
      posture: undefined,
      isolation: undefined,
      operator: undefined,
    };
    expect(divergences(record, 'enforce', NOW)).toEqual([]);
  });

  test('when a covered volume has no key', () => {
    expect(divergences(converged({ disks: new Map() }), 'enforce', NOW)).toEqual(['KEY_MISSING']);
  });

  test('once, however many volumes have none', () => {
    const volumes = [aVolume(), aVolume({ id: 'vol-00000002' })];
    const vm = aVm({ observation: { volumes } });
    expect(divergences(converged({ vm, disks: new Map() }), 'enforce', NOW)).toEqual(['KEY_MISSING']);
  });

  test.each([
    ['waits for adoption', aVolume({ snapshotId: 'snap-00000001' }), undefined],
    ['moved', aVolume(), aDisk({ instanceId: 'i-00000002' })],
    ['is a root volume', aVolume({ root: true }), undefined],
    ['has only a retired key', aVolume(), aDisk({ generations: [aGeneration({ state: 'retired' })] })],
  ])('not when its volume %s', (_, volume, disk) => {
    const vm = aVm({ observation: { volumes: [volume] } });
    const disks = new Map(disk ? [[volume.id, disk]] : []);
    expect(divergences(converged({ vm, disks }), 'enforce', NOW)).toEqual([]);
  });

  test('when its compliant posture grew stale, in posture and in profile', () => {
    expect(divergences(converged(), 'enforce', later(901))).toEqual(['POSTURE_OUTDATED', 'PROFILE_OUTDATED']);
  });

  test('when it has no profile yet, or another', () => {
    expect(divergences(converged({ isolation: undefined }), 'enforce', NOW)).toEqual(['PROFILE_OUTDATED']);
    const isolation = anIsolation({ profile: 'probation' });
    expect(divergences(converged({ isolation }), 'enforce', NOW)).toEqual(['PROFILE_OUTDATED']);
  });

  test('when the mode was switched', () => {
    expect(divergences(converged(), 'observe', NOW)).toEqual(['PROFILE_OUTDATED']);
  });

  test('when the profile is not applied, in enforce mode alone', () => {
    expect(divergences(converged({ isolation: anIsolation({ applied: false }) }), 'enforce', NOW)).toEqual([
      'PROFILE_NOT_APPLIED',
    ]);
    const observed = anIsolation({ applied: false, mode: 'observe' });
    expect(divergences(converged({ isolation: observed }), 'observe', NOW)).toEqual([]);
  });

  test('when it has an interface that the profile does not know', () => {
    const vm = aVm({ observation: { interfaces: [anInterface(), anInterface({ id: 'eni-00000009' })] } });
    expect(divergences(converged({ vm }), 'enforce', NOW)).toEqual(['INTERFACES_UNKNOWN']);
  });

  test('when somebody changed the groups of a fenced interface, and not when EC2 only reorders them', () => {
    const at = (groups: string[], profile: 'probation' | 'workload') => {
      const vm = aVm({ observation: { interfaces: [anInterface({ groups })] } });
      return divergences(
        profile === 'probation'
          ? converged({ vm, posture: undefined, isolation: fencedIn(['sg-00000001', 'sg-00000002']) })
          : converged({ vm }),
        'enforce',
        NOW,
      );
    };
    expect(at(['sg-00000001', 'sg-00000003'], 'probation')).toEqual(['INTERFACES_UNKNOWN']);
    expect(at(['sg-00000002', 'sg-00000001'], 'probation')).toEqual([]);
    // In workload it is somebody's Terraform.
    expect(at(['sg-0000dddd'], 'workload')).toEqual([]);
  });

  test('not in its fence when it has no interface, is gone or shuts down', () => {
    for (const vm of [
      aVm({ observation: { interfaces: [] } }),
      aVm({ gone: true }),
      aVm({ observation: { state: 'shutting-down' } }),
    ]) {
      expect(divergences(converged({ vm, isolation: undefined }), 'enforce', NOW)).toEqual([]);
    }
  });
});

describe('volumes without a key', () => {
  test('are those that should have one and have none', () => {
    const volumes = [
      aVolume(),
      aVolume({ id: 'vol-00000002' }),
      aVolume({ id: 'vol-00000003', root: true }),
      aVolume({ id: 'vol-00000004', snapshotId: 'snap-00000001' }),
    ];
    expect(volumesWithoutKey(converged({ vm: aVm({ observation: { volumes } }) }))).toEqual(['vol-00000002']);
  });
});

describe('a sweep', () => {
  const fleet = (...records: VmRecord[]) => new Map(records.map((r) => [r.vm.observation.instanceId, r]));
  const ids = (n: number, from = 0) =>
    Array.from({ length: n }, (_, i) => `i-${(from + i).toString(16).padStart(8, '0')}`);

  test('looks at every VM that EC2 shows and at every one of ours that it does not', () => {
    const plan = planSweep(fleet(converged()), ['i-00000001'], 'enforce', NOW);
    expect(plan.hints).toEqual([{ instanceIds: ['i-00000001', VM_ID], resync: false }]);
    expect(plan.hinted).toBe(2);
  });

  test('does not look again at a VM that is gone, unless EC2 shows it', () => {
    const gone = converged({ vm: aVm({ gone: true }) });
    expect(planSweep(fleet(gone), [], 'enforce', NOW).hints).toEqual([]);
    expect(planSweep(fleet(gone), [VM_ID], 'enforce', NOW).hints).toEqual([
      { instanceIds: [VM_ID], resync: false },
    ]);
  });

  test('has a VM that diverges announced again', () => {
    const plan = planSweep(fleet(converged({ disks: new Map() })), [VM_ID], 'enforce', NOW);
    expect(plan.hints).toEqual([{ instanceIds: [VM_ID], resync: true }]);
    expect(plan.diverged.get(VM_ID)).toEqual(['KEY_MISSING']);
  });

  test('drives one fenced VM of each VPC that any interface is in, for the rules of the groups there', () => {
    const only = (id: string, interfaces = [anInterface()]) =>
      converged({
        posture: undefined,
        vm: aVm({ observation: { instanceId: id, interfaces } }),
        isolation: fencedIn([], {
          instanceId: id,
          interfaces: interfaces.map((eni) => ({
            id: eni.id,
            originals: ['sg-0000cccc'],
            groups: eni.groups,
          })),
        }),
      });
    const elsewhere = anInterface({ id: 'eni-00000002', vpcId: 'vpc-00000002' });
    const records = fleet(only(VM_ID, [anInterface(), elsewhere]), only('i-00000001'), only('i-00000002'));
    const again = planSweep(records, [], 'enforce', NOW).hints.filter((hint) => hint.resync);
    expect(again.flatMap((hint) => hint.instanceIds)).toEqual([VM_ID, 'i-00000002']);
  });

  test('drives one VM of each micro-segment, too, though it is in workload', () => {
    const profiles = parseProfiles(
      {
        schemaVersion: 1,
        profiles: {
          probation: {},
          workload: { originals: true },
          quarantine: {},
          segmented: { sameTenant: true },
        },
        use: [{ stage: 'workload', profile: 'segmented', tag: { key: 'casemate:tenant', value: 'acme' } }],
      },
      { kind: 'https-anywhere' },
    );
    const segmented = (id: string) =>
      converged({
        vm: aVm({ observation: { instanceId: id, tags: { 'casemate:tenant': 'acme' } } }),
        isolation: anIsolation({
          instanceId: id,
          definition: 'segmented',
          limits: DEFAULT_LIMITS,
          tenant: 'acme',
        }),
      });
    const records = fleet(segmented(VM_ID), segmented('i-00000001'), converged({ vm: aVm() }));
    const plan = planSweep(records, [], 'enforce', NOW, { profiles, limits: DEFAULT_LIMITS });
    const again = plan.hints.filter((hint) => hint.resync).flatMap((hint) => hint.instanceIds);
    expect(again).toHaveLength(1);
  });

  describe('drives a VM again for CREDENTIALS_OUTDATED', () => {
    const contained = converged({
      operator: anOperator(),
      isolation: anIsolation({ profile: 'quarantine', definition: 'quarantine' }),
    });
    const ended = { ...contained, vm: aVm({ observation: { state: 'terminated' } }) };
    const denials = (instanceIds: readonly string[], applied = true): Denials => ({
      denied: instanceIds.map((instanceId) => ({ instanceId, since: NOW.toISOString(), over: null })),
      left: [],
      applied,
      faults: [],
      changedAt: NOW.toISOString(),
    });
    const why = (record: VmRecord, credentials?: Parameters<typeof planSweep>[5]) => {
      const plan = planSweep(fleet(record), [], 'enforce', NOW, undefined, credentials);
      return plan.diverged.get(VM_ID) ?? [];
    };

    test.each<[string, VmRecord, Denials | undefined]>([
      ['that is contained, and nobody was ever denied', contained, undefined],
      ['that is contained, and others are denied', contained, denials(['i-00000002'])],
      ['that is denied, and not seen so in every role', contained, denials([VM_ID], false)],
      ['that was given back, and is denied', converged(), denials([VM_ID])],
    ])('%s', (_, record, stands) => {
      expect(why(record, { denials: stands })).toEqual(['CREDENTIALS_OUTDATED']);
      const [hint] = planSweep(fleet(record), [], 'enforce', NOW, undefined, { denials: stands }).hints;
      expect(hint).toEqual({ instanceIds: [VM_ID], resync: true });
    });

    test.each<[string, VmRecord, Parameters<typeof planSweep>[5]]>([
      ['that is denied in every role', contained, { denials: denials([VM_ID]) }],
      ['that is not contained, and not denied', converged(), { denials: denials([], false) }],
      ['that ended: deny-credentials itself says how long', ended, { denials: denials([VM_ID]) }],
      ['where nobody asked for that', contained, undefined],
    ])('and not one %s', (_, record, credentials) => {
      expect(why(record, credentials)).toEqual([]);
    });
  });

  test('raises the alarm for keys that are overdue by five minutes since the VM was first seen', () => {
    const records = fleet(converged({ disks: new Map() }));
    const overdue = (seconds: number) => planSweep(records, [], 'enforce', later(seconds)).overdueVolumes;
    expect(overdue(KEY_OVERDUE_SECONDS)).toEqual([]);
    expect(overdue(KEY_OVERDUE_SECONDS + 1)).toEqual([aVolume().id]);
  });

  test('of any fleet hints at each VM exactly once, at most 200 in a message', () => {
    void fc.assert(
      fc.property(fc.nat(450), fc.nat(450), fc.nat(450), (live, ours, offset) => {
        const shown = ids(live);
        const records = ids(ours, offset).map((id, i) =>
          converged({ vm: aVm({ observation: { instanceId: id } }), ...(i % 3 ? {} : { disks: new Map() }) }),
        );
        const plan = planSweep(fleet(...records), shown, 'enforce', NOW);
        const hinted = plan.hints.flatMap((h) => h.instanceIds);
        expect(new Set(hinted)).toEqual(new Set([...shown, ...ids(ours, offset)]));
        expect(hinted).toHaveLength(plan.hinted);
        for (const hint of plan.hints) {
          expect(hint.instanceIds.length).toBeGreaterThan(0);
          expect(hint.instanceIds.length).toBeLessThanOrEqual(200);
          for (const id of hint.instanceIds) expect(plan.diverged.has(id)).toBe(hint.resync);
        }
      }),
      { numRuns: 30 },
    );
  });
});

describe('the fleet out of the items of the table', () => {
  async function* items(...all: Record<string, unknown>[]) {
    yield* all;
  }
  const pointer = { pk: `disk#${aVolume().id}`, disk: DISK };

  test('is put together by VM, in whatever order the items come', async () => {
    const all = [aVm(), aDisk(), pointer, aPosture(), anIsolation()];
    for (const order of [all, [...all].reverse()]) {
      const { fleet, corrupt } = await assembleFleet(items(...order));
      expect(corrupt).toEqual([]);
      expect(fleet.get(VM_ID)).toEqual(converged());
    }
  });

  test('passes over kinds that belong to no VM’s record', async () => {
    const { fleet, corrupt } = await assembleFleet(
      items({ pk: 'nonce#x', used: false }, { pk: `enrol#${VM_ID}` }, aVm()),
    );
    expect([fleet.size, corrupt]).toEqual([1, []]);
  });

  test('shows the disk of a volume that moved to the VM by its pointer', async () => {
    const moved = aDisk({ instanceId: 'i-00000002' });
    const { fleet } = await assembleFleet(items(aVm(), moved, pointer));
    expect(fleet.get(VM_ID)?.disks.get(aVolume().id)).toEqual(moved);
  });

  test('keeps the disk of a volume that was detached in sight', async () => {
    const vm = aVm({ observation: { volumes: [] } });
    const { fleet } = await assembleFleet(items(vm, aDisk(), pointer));
    expect([...(fleet.get(VM_ID)?.disks.keys() ?? [])]).toEqual([aVolume().id]);
  });

  test.each([
    ['a VM', { ...aVm(), managed: 'yes' }],
    ['a disk', { ...aDisk(), generations: 'none' }],
    ['a pointer', { pk: 'disk#vol-00000001', disk: 'x' }],
    ['a posture', { ...aPosture(), verdict: 'fine' }],
    ['an isolation', { ...anIsolation(), profile: 'open' }],
  ])('names %s that is not what its key says, and decides on the rest', async (_, item) => {
    const good = aVm({ observation: { instanceId: 'i-00000007' } });
    const { fleet, corrupt } = await assembleFleet(items(item, good));
    expect(corrupt).toEqual([{ pk: item.pk, fault: expect.any(String) }]);
    expect([...fleet.keys()]).toEqual(['i-00000007']);
  });
});
