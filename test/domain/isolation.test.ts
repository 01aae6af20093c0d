import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import {
  type Drift,
  decideProfile,
  type InterfaceRecord,
  type IsolationItem,
  type Known,
  knownOf,
  nextIsolation,
  type Profile,
  type ProfileFacts,
  planIsolation,
  sameGroups,
  settleIsolation,
  type Target,
} from '../../lib/domain/isolation.ts';
import type { PostureItem } from '../../lib/domain/posture.ts';
import type { ObservedInterface, VmItem } from '../../lib/domain/vm.ts';
import {
  AT,
  anInterface,
  anIsolation,
  anOperator,
  aPosture,
  aVm,
  DECISION,
  later,
  NOW,
} from '../world/items.ts';

const OWN = { probation: 'sg-00000001', quarantine: 'sg-00000002' };
const ORIGINALS = ['sg-0000aaaa', 'sg-0000bbbb'];
const ENI = anInterface().id;

const targetOf = (profile: Profile, groupsOf: GroupsOf): Target => ({
  kind: profile === 'workload' ? 'originals' : 'groups',
  profile,
  groupsIn: (vpcId) => {
    const groups = groupsOf(vpcId);
    return groups && profile !== 'workload' ? [groups[profile]] : undefined;
  },
  isOwn: (group) => /^sg-[0b]000000[12]$/.test(group),
});
type GroupsOf = (vpcId: string) => Record<'probation' | 'quarantine', string> | undefined;

/** Not settled: nothing that differs is anybody's doing. */
const planFor = (
  profile: Profile,
  interfaces: readonly ObservedInterface[],
  records: readonly InterfaceRecord[],
  groupsOf: GroupsOf,
  named: Record<string, string[]> = {},
) => {
  const known = { records, settled: false, drift: [] };
  const { drift, ...plan } = planIsolation(targetOf(profile, groupsOf), interfaces, known, {
    named,
    now: NOW,
  });
  expect(drift).toEqual([]);
  return plan;
};
const settleFor = (
  profile: Profile,
  planned: readonly InterfaceRecord[],
  readBack: readonly ObservedInterface[],
  groupsOf: GroupsOf,
  named: Record<string, string[]> = {},
) => settleIsolation(targetOf(profile, groupsOf), planned, readBack, named);

const record = (overrides: Partial<InterfaceRecord> = {}): InterfaceRecord => ({
  id: ENI,
  originals: ORIGINALS,
  groups: [OWN.probation],
  ...overrides,
});

test('each interface is fenced by the groups of its own VPC, and one without groups fails alone', () => {
  const inB = anInterface({ id: 'eni-0000000b', vpcId: 'vpc-b' });
  const inC = anInterface({ id: 'eni-0000000c', vpcId: 'vpc-c' });
  const groups = new Map([
    [anInterface().vpcId, OWN],
    ['vpc-b', { probation: 'sg-b0000001', quarantine: 'sg-b0000002' }],
  ]);
  const groupsOf = (vpcId: string) => groups.get(vpcId);
  const plan = planFor('quarantine', [anInterface(), inB, inC], [], groupsOf);
  expect(plan.changes).toEqual([
    { interfaceId: anInterface().id, groups: [OWN.quarantine] },
    { interfaceId: inB.id, groups: ['sg-b0000002'] },
  ]);
  expect(plan.left).toEqual([{ interfaceId: inC.id, reason: 'NO_GROUPS_IN_VPC' }]);
  expect(settleFor('quarantine', plan.records, [anInterface(), inB, inC], groupsOf).applied).toBe(false);
});

test('an answer of EC2 that is older than the last change does not lose the originals', () => {
  const stale = anInterface({ groups: [OWN.probation] });
  const restored = { id: stale.id, originals: null, groups: ['sg-0000aaaa'] };
  const plan = planFor('probation', [stale], [restored], () => OWN);
  expect(plan.records).toMatchObject([{ originals: ['sg-0000aaaa'] }]);
});

const decide = (
  vm: VmItem,
  posture: PostureItem | undefined,
  now: Date,
  more: Partial<Pick<ProfileFacts, 'operator' | 'isolation'>> = {},
) => decideProfile({ vm, posture, operator: undefined, isolation: undefined, ...more }, now);

describe('which profile a VM belongs in', () => {
  test('no posture is probation', () => {
    expect(decide(aVm(), undefined, NOW)).toEqual({
      kind: 'fence',
      profile: 'probation',
      by: 'policy',
      reasons: ['NO_REPORT'],
    });
  });

  test.each([
    ['compliant', 'workload'],
    ['unproven', 'probation'],
    ['noncompliant', 'quarantine'],
  ] as const)('a posture that is %s is %s', (verdict, profile) => {
    expect(decide(aVm(), aPosture({ verdict }), NOW)).toMatchObject({ kind: 'fence', profile });
  });

  test('a compliant posture that grew stale is probation, to the second', () => {
    const posture = aPosture({ validUntil: later(900).toISOString() });
    expect(decide(aVm(), posture, later(900))).toMatchObject({ profile: 'workload' });
    expect(decide(aVm(), posture, later(901))).toMatchObject({
      profile: 'probation',
      reasons: ['REPORT_STALE'],
    });
  });

  test('a compliant posture without an end is probation', () => {
    expect(decide(aVm(), aPosture({ validUntil: null }), NOW)).toMatchObject({ profile: 'probation' });
  });

  test('a stale noncompliant posture stays quarantine', () => {
    const posture = aPosture({ verdict: 'noncompliant', validUntil: AT });
    expect(decide(aVm(), posture, later(9999))).toMatchObject({ profile: 'quarantine' });
  });

  test('a VM that leaves scope keeps its fence', () => {
    expect(decide(aVm({ leavingScope: true }), undefined, NOW)).toMatchObject({ kind: 'fence' });
  });

  test.each([
    ['VM_NOT_MANAGED', { managed: false }],
    ['VM_GONE', { gone: true }],
    ['VM_NOT_LIVE', { observation: { state: 'shutting-down' as const } }],
  ])('a VM is left alone for %s', (reason, overrides) => {
    expect(decide(aVm(overrides), aPosture(), NOW)).toEqual({ kind: 'leave-alone', reason });
  });

  test.each(['compliant', 'unproven', 'noncompliant'] as const)(
    'a VM that an operator contained is quarantined while its posture is %s',
    (verdict) => {
      expect(decide(aVm(), aPosture({ verdict }), NOW, { operator: anOperator() })).toEqual({
        kind: 'fence',
        profile: 'quarantine',
        by: 'operator',
        reasons: ['OPERATOR_QUARANTINE'],
      });
    },
  );

  test('an operator contains a VM out of scope, too, and it gets back what was taken once that ended', () => {
    const vm = aVm({ managed: false });
    expect(decide(vm, undefined, NOW, { operator: anOperator() })).toMatchObject({ profile: 'quarantine' });
    const isolation = anIsolation({ profile: 'quarantine', interfaces: [record()] });
    expect(decide(vm, undefined, NOW, { isolation })).toEqual({
      kind: 'fence',
      profile: 'workload',
      by: 'policy',
      reasons: ['VM_NOT_MANAGED'],
    });
    const released = anIsolation({ interfaces: [record({ originals: null })] });
    expect(decide(vm, undefined, NOW, { isolation: released })).toMatchObject({ kind: 'leave-alone' });
  });

  test('what else an operator decided contains nothing', () => {
    const held = anOperator({ quarantine: undefined, hold: DECISION });
    expect(decide(aVm(), aPosture(), NOW, { operator: held })).toMatchObject({ profile: 'workload' });
  });

  test.each(['pending', 'running', 'stopping', 'stopped'] as const)('a VM that is %s is fenced', (state) => {
    expect(decide(aVm({ observation: { state } }), undefined, NOW)).toMatchObject({ kind: 'fence' });
  });
});

describe('groups are compared as sets', () => {
  test.each<[string[], string[], boolean]>([
    [['sg-1', 'sg-2'], ['sg-2', 'sg-1'], true],
    [['sg-1', 'sg-1'], ['sg-1'], true],
    [[], [], true],
    [['sg-1'], ['sg-1', 'sg-2'], false],
    [['sg-1', 'sg-2'], ['sg-1'], false],
    [['sg-1'], ['sg-2'], false],
    [['sg-1', 'sg-1'], ['sg-1', 'sg-2'], false],
  ])('%j and %j: %s', (a, b, same) => {
    expect(sameGroups(a, b)).toBe(same);
  });
});

describe('taking an interface into probation', () => {
  test('records its groups as originals and changes it', () => {
    expect(planFor('probation', [anInterface()], [], () => OWN)).toEqual({
      records: [{ id: ENI, originals: ORIGINALS, groups: ORIGINALS }],
      changes: [{ interfaceId: ENI, groups: [OWN.probation] }],
      left: [],
    });
  });

  test('does not record originals a second time', () => {
    const drifted = anInterface({ groups: ['sg-0000dddd'] });
    expect(planFor('probation', [drifted], [record()], () => OWN)).toEqual({
      records: [record({ groups: ['sg-0000dddd'] })],
      changes: [{ interfaceId: ENI, groups: [OWN.probation] }],
      left: [],
    });
  });

  test('never records a group of its own', () => {
    const mixed = anInterface({ groups: [OWN.probation, OWN.quarantine, 'sg-0000aaaa'] });
    expect(planFor('probation', [mixed], [], () => OWN).records).toEqual([
      { id: ENI, originals: ['sg-0000aaaa'], groups: [OWN.probation, OWN.quarantine, 'sg-0000aaaa'] },
    ]);
  });

  test('records that an interface launched in the probation group has no originals', () => {
    const plan = planFor('probation', [anInterface({ groups: [OWN.probation] })], [], () => OWN);
    expect(plan).toMatchObject({ records: [{ originals: [] }], changes: [] });
  });

  test('changes nothing where it holds, in whatever order', () => {
    const plan = planFor('probation', [anInterface({ groups: [OWN.probation] })], [record()], () => OWN);
    expect(plan).toEqual({ records: [record()], changes: [], left: [] });
  });

  test('reports a requester-managed interface and does not touch it', () => {
    const plan = planFor('probation', [anInterface({ managedBy: 'requester' })], [], () => OWN);
    expect(plan).toEqual({
      records: [{ id: ENI, originals: null, groups: ORIGINALS }],
      changes: [],
      left: [{ interfaceId: ENI, reason: 'REQUESTER_MANAGED' }],
    });
  });

  test('from quarantine keeps the originals', () => {
    const plan = planFor(
      'probation',
      [anInterface({ groups: [OWN.quarantine] })],
      [record({ groups: [OWN.quarantine] })],
      () => OWN,
    );
    expect(plan).toMatchObject({
      records: [{ originals: ORIGINALS }],
      changes: [{ groups: [OWN.probation] }],
    });
  });
});

describe('giving an interface back', () => {
  test('restores exactly the originals', () => {
    const plan = planFor('workload', [anInterface({ groups: [OWN.probation] })], [record()], () => OWN);
    expect(plan).toEqual({
      records: [record()],
      changes: [{ interfaceId: ENI, groups: ORIGINALS }],
      left: [],
    });
  });

  test('changes nothing when the originals are there in another order', () => {
    const plan = planFor(
      'workload',
      [anInterface({ groups: [...ORIGINALS].reverse() })],
      [record()],
      () => OWN,
    );
    expect(plan.changes).toEqual([]);
  });

  test('leaves alone what an interface carries once its originals were given back', () => {
    const theirs = anInterface({ groups: ['sg-0000dddd'] });
    expect(planFor('workload', [theirs], [record({ originals: null })], () => OWN)).toEqual({
      records: [record({ originals: null, groups: ['sg-0000dddd'] })],
      changes: [],
      left: [],
    });
  });

  test('gives back again what a late worker took after it was given back', () => {
    const given = record({ originals: null, groups: ['sg-0000dddd'] });
    const plan = planFor('workload', [anInterface({ groups: [OWN.quarantine] })], [given], () => OWN);
    expect(plan).toEqual({
      records: [record({ originals: ['sg-0000dddd'], groups: [OWN.quarantine] })],
      changes: [{ interfaceId: ENI, groups: ['sg-0000dddd'] }],
      left: [],
    });
  });

  test.each([
    ['started in the probation group', [record({ originals: [] })]],
    ['was put into a Casemate group by somebody else', []],
  ])('says that an interface has none when it %s', (_, known) => {
    const plan = planFor('workload', [anInterface({ groups: [OWN.probation] })], known, () => OWN);
    expect(plan).toMatchObject({
      changes: [],
      left: [{ interfaceId: ENI, reason: 'NO_ORIGINAL_GROUPS' }],
    });
  });

  test('does not report a requester-managed interface as left: it is open already', () => {
    expect(planFor('workload', [anInterface({ managedBy: 'requester' })], [], () => OWN).left).toEqual([]);
  });
});

describe('groups that an operator named', () => {
  const NAMED = { [ENI]: ['sg-0000eeee'] };
  const fenced = anInterface({ groups: [OWN.probation] });
  const planned = (known: InterfaceRecord[], named: Record<string, string[]> = NAMED) =>
    planFor('workload', [fenced], known, () => OWN, named);

  test.each([
    ['started in the probation group', [record({ originals: [] })]],
    ['has nothing on record', []],
    ['had a group that was deleted', [record({ gone: ['sg-0000bbbb'] })]],
  ])('are what an interface gets that %s', (_, known) => {
    const plan = planned(known);
    expect([plan.changes, plan.left]).toEqual([[{ interfaceId: ENI, groups: ['sg-0000eeee'] }], []]);
    const open = anInterface({ groups: ['sg-0000eeee'] });
    expect(settleFor('workload', plan.records, [open], () => OWN, NAMED)).toEqual({
      applied: true,
      records: [{ id: ENI, originals: null, groups: ['sg-0000eeee'] }],
    });
  });

  test('do not take the place of originals that are there', () => {
    expect(planned([record()]).changes).toEqual([{ interfaceId: ENI, groups: ORIGINALS }]);
  });

  test('are waited for, behind the fence, where an original was deleted', () => {
    const plan = planned([record({ gone: ['sg-0000bbbb'] })], {});
    expect([plan.changes, plan.left]).toEqual([[], [{ interfaceId: ENI, reason: 'ORIGINAL_GROUP_GONE' }]]);
    const settled = settleFor('workload', plan.records, [fenced], () => OWN);
    expect(settled).toMatchObject({ applied: false, records: [{ originals: ORIGINALS }] });
  });

  test('are not needed where somebody put other groups in the place of ours by hand', () => {
    const byHand = anInterface({ groups: ['sg-0000cccc'] });
    const plan = planFor('workload', [byHand], [record({ originals: [] })], () => OWN);
    expect([plan.changes, plan.left]).toEqual([[], []]);
    expect(settleFor('workload', plan.records, [byHand], () => OWN)).toMatchObject({ applied: true });
  });
});

describe('an interface that is detached', () => {
  test('keeps its originals while others are planned', () => {
    const gone = record({ id: 'eni-00000009' });
    const plan = planFor('quarantine', [anInterface()], [gone], () => OWN);
    expect(plan.records).toContainEqual(gone);
    expect(plan.changes.map((c) => c.interfaceId)).toEqual([ENI]);
  });

  test('is forgotten when it has nothing to be given back', () => {
    const gone = record({ id: 'eni-00000009', originals: null });
    expect(planFor('probation', [anInterface()], [gone], () => OWN).records).not.toContainEqual(gone);
  });

  test('while the plan runs keeps its originals and holds nothing up', () => {
    const settled = settleFor(
      'probation',
      [record(), record({ id: 'eni-00000009' })],
      [anInterface({ groups: [OWN.probation] })],
      () => OWN,
    );
    expect(settled.applied).toBe(true);
    expect(settled.records.map((r) => [r.id, r.originals])).toEqual([
      [ENI, ORIGINALS],
      ['eni-00000009', ORIGINALS],
    ]);
  });

  test('while the plan runs, with nothing to be given back, is forgotten', () => {
    const settled = settleFor('workload', [record({ originals: null })], [], () => OWN);
    expect(settled).toEqual({ records: [], applied: true });
  });
});

describe('reading back', () => {
  test('believes probation only when every interface carries exactly its group', () => {
    const read = (groups: string[]) =>
      settleFor('probation', [record()], [anInterface({ groups })], () => OWN).applied;
    expect(read([OWN.probation])).toBe(true);
    expect(read([OWN.probation, 'sg-0000aaaa'])).toBe(false);
    expect(read([OWN.quarantine])).toBe(false);
    expect(read(ORIGINALS)).toBe(false);
  });

  test('believes quarantine only of the quarantine group', () => {
    const read = (groups: string[]) =>
      settleFor('quarantine', [record()], [anInterface({ groups })], () => OWN).applied;
    expect(read([OWN.quarantine])).toBe(true);
    expect(read([OWN.probation])).toBe(false);
  });

  test('forgets originals once they were read back in place', () => {
    expect(settleFor('workload', [record()], [anInterface()], () => OWN)).toEqual({
      records: [{ id: ENI, originals: null, groups: ORIGINALS }],
      applied: true,
    });
  });

  test('keeps originals as long as they were not read back in place', () => {
    const half = anInterface({ groups: [ORIGINALS[0] as string] });
    expect(settleFor('workload', [record()], [half], () => OWN)).toEqual({
      records: [{ id: ENI, originals: ORIGINALS, groups: half.groups }],
      applied: false,
    });
  });

  test('does not call an interface open that carries a Casemate group and has no originals', () => {
    const stuck = anInterface({ groups: [OWN.probation] });
    expect(settleFor('workload', [record({ originals: [] })], [stuck], () => OWN)).toEqual({
      records: [record({ originals: [] })],
      applied: false,
    });
    expect(settleFor('workload', [record({ originals: null })], [stuck], () => OWN).applied).toBe(false);
  });

  test('is not held up by a requester-managed interface', () => {
    const theirs = anInterface({ managedBy: 'requester' });
    expect(settleFor('quarantine', [record({ originals: null })], [theirs], () => OWN)).toEqual({
      records: [record({ originals: null, groups: ORIGINALS })],
      applied: true,
    });
  });

  test('does not believe a profile that an interface attached meanwhile is not in', () => {
    const late = anInterface({ id: 'eni-00000009' });
    const settled = settleFor(
      'probation',
      [record()],
      [anInterface({ groups: [OWN.probation] }), late],
      () => OWN,
    );
    expect(settled.applied).toBe(false);
  });
});

describe('any history of profiles and of interfaces that come, go and drift', () => {
  const group = fc.constantFrom('sg-0000aaaa', 'sg-0000bbbb', 'sg-0000cccc');
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('profile' as const),
      profile: fc.constantFrom<Profile>('probation', 'workload', 'quarantine'),
      /** A change that EC2 did not take. */
      fails: fc.boolean(),
    }),
    fc.record({ kind: fc.constant('detach' as const), index: fc.nat(2) }),
    fc.record({ kind: fc.constant('attach' as const), index: fc.nat(2) }),
  );

  test('never loses an original group and never records one of its own', () => {
    void fc.assert(
      fc.property(
        fc.array(fc.uniqueArray(group, { minLength: 1, maxLength: 3 }), { minLength: 3, maxLength: 3 }),
        fc.array(step, { maxLength: 25 }),
        (starts, steps) => {
          const enis: ObservedInterface[] = starts.map((groups, i) =>
            anInterface({ id: `eni-0000000${i}`, groups: [...groups] }),
          );
          const attached = new Set([0, 1, 2]);
          let known: readonly InterfaceRecord[] = [];
          for (const s of steps) {
            if (s.kind === 'detach') attached.delete(s.index);
            else if (s.kind === 'attach') attached.add(s.index);
            else {
              const present = () => enis.filter((_, i) => attached.has(i));
              const plan = planFor(s.profile, present(), known, () => OWN);
              known = plan.records; // stored before anything is changed
              if (!s.fails) {
                for (const change of plan.changes) {
                  const i = enis.findIndex((eni) => eni.id === change.interfaceId);
                  enis[i] = { ...(enis[i] as ObservedInterface), groups: [...change.groups] };
                }
              }
              const settled = settleFor(s.profile, known, present(), () => OWN);
              known = settled.records;
              if (!s.fails) expect(settled.applied).toBe(true);
            }
            for (const [i, eni] of enis.entries()) {
              const start = starts[i] as string[];
              const recorded = known.find((r) => r.id === eni.id)?.originals;
              if (recorded) expect(new Set(recorded)).toEqual(new Set(start));
              // Either it is as it was, or what it was is on record.
              if (!sameGroups(eni.groups, start)) expect(recorded).toBeTruthy();
            }
          }
        },
      ),
    );
  });
});

describe('what somebody else changed', () => {
  const drifted = anInterface({ groups: ['sg-0000dddd'] });
  const settled = (drift: Drift[] = [], profile: Profile = 'probation') => ({
    records: [record({ groups: [profile === 'workload' ? 'sg-0000aaaa' : OWN.probation] })],
    settled: true,
    drift,
  });
  const putBack = (secondsAgo: number): Drift => ({
    at: later(-secondsAgo).toISOString(),
    interfaceId: ENI,
    found: ['sg-0000dddd'],
    action: 'put-back',
  });
  const plan = (known: Known, profile: Profile = 'probation', eni = drifted) =>
    planIsolation(
      targetOf(profile, () => OWN),
      [eni],
      known,
      { now: NOW },
    );

  test('on a fenced interface is put back, and noted with what was found', () => {
    expect(plan(settled())).toMatchObject({
      changes: [{ interfaceId: ENI, groups: [OWN.probation] }],
      drift: [{ interfaceId: ENI, found: ['sg-0000dddd'], action: 'put-back', at: AT }],
      left: [],
    });
  });

  test('is not the doing of somebody else where the profile was not read back before', () => {
    expect(plan({ ...settled(), settled: false })).toMatchObject({ changes: [{}], drift: [] });
  });

  test('three times within ten minutes is left at the fourth, and said', () => {
    const thrice = [putBack(10), putBack(200), putBack(599)];
    expect(plan(settled(thrice))).toMatchObject({
      changes: [],
      left: [{ interfaceId: ENI, reason: 'DRIFT_FOUGHT' }],
      drift: [{ action: 'fought' }],
    });
    // Found again by the next event: still left, and not noted again.
    expect(plan({ ...settled(thrice), settled: false })).toMatchObject({
      changes: [],
      left: [{ reason: 'DRIFT_FOUGHT' }],
      drift: [],
    });
  });

  test('is put back again once ten minutes passed', () => {
    const before = [putBack(10), putBack(200), putBack(600)];
    expect(plan(settled(before))).toMatchObject({ changes: [{}], drift: [{ action: 'put-back' }] });
  });

  test('on another interface does not count', () => {
    const others = [putBack(1), putBack(2), { ...putBack(3), interfaceId: 'eni-00000009' }];
    expect(plan(settled(others)).changes).toHaveLength(1);
  });

  test('in workload is theirs: reported, and left', () => {
    const known = { ...settled([], 'workload'), records: [record({ originals: null, groups: ORIGINALS })] };
    expect(plan(known, 'workload')).toMatchObject({ changes: [], left: [], drift: [{ action: 'reported' }] });
  });

  test('counts anew in another profile, so that a fight over one never keeps a VM from the next', () => {
    const item = anIsolation({ profile: 'probation', definition: 'probation', drift: [putBack(1)] });
    expect(knownOf(item, { profile: 'probation', definition: 'probation' })).toMatchObject({
      settled: true,
      drift: [{}],
    });
    for (const other of [
      { profile: 'quarantine' as const, definition: 'quarantine' },
      { profile: 'probation' as const, definition: 'probation-of-acme' },
    ]) {
      expect(knownOf(item, other)).toMatchObject({ settled: false, drift: [] });
    }
    expect(knownOf({ ...item, mode: 'observe' }, item as never).settled).toBe(false);
  });
});

describe('the next item', () => {
  const change = (overrides: Partial<Parameters<typeof nextIsolation>[1]> = {}) => ({
    ...anIsolation(),
    ...overrides,
  });

  test('is the very same object when nothing changed', () => {
    const before = anIsolation();
    expect(nextIsolation(before, change(), later(60))).toBe(before);
  });

  test.each([
    ['profile', { profile: 'quarantine' as const }],
    ['applied', { applied: false }],
    ['mode', { mode: 'observe' as const }],
    ['interfaces', { interfaces: [] }],
    ['reasons', { reasons: ['OTHER'] }],
    ['definition', { definition: 'other' }],
    ['tenant', { tenant: 'acme' }],
    ['drift', { drift: [{ at: AT, interfaceId: ENI, found: [], action: 'reported' as const }] }],
  ])('is another when %s changed', (_, overrides) => {
    expect(nextIsolation(anIsolation(), change(overrides), later(60))).toMatchObject({
      ...overrides,
      changedAt: later(60).toISOString(),
    });
  });

  test('keeps a decision once, however often it is applied, and the last ten, newest first', () => {
    let item: IsolationItem | undefined;
    for (let i = 0; i < 15; i++) {
      for (const applied of [false, true]) {
        const next = nextIsolation(
          item,
          change({ profile: i % 2 ? 'workload' : 'probation', applied }),
          later(i),
        );
        item = { ...next, pk: 'isolation#', version: 1 };
      }
    }
    expect(item?.decisions.map((d) => d.at)).toEqual(
      Array.from({ length: 10 }, (_, i) => later(14 - i).toISOString()),
    );
  });
});
