import { beforeEach, describe, expect, test } from '@jest/globals';
import { createHandler } from '../../lambdas/apply-isolation/handler.ts';
import type { OperatorChange } from '../../lib/domain/operator.ts';
import type { ProbationEgress } from '../../lib/domain/profiles.ts';
import type { WorldVm } from '../world/ec2.ts';
import { isolationSettings } from '../world/isolation.ts';
import { anOperator, aPosture, DECISION } from '../world/items.ts';
import { CONTEXT, enveloped, sqsEvent, sqsRecord } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

const ORIGINALS = ['sg-0000aaaa', 'sg-0000bbbb'];
let world: World;
let vm: WorldVm;

/** Puts VMs into the table as observe-vm does, and empties the queues behind it. */
async function observed(...vms: WorldVm[]) {
  for (const each of vms) world.stateChange(each);
  while ((world.queues.get('observe-vm') ?? []).length > 0) {
    await world.deliver('observe-vm', world.queues.get('observe-vm') ?? []);
  }
  for (const queue of world.queues.keys()) world.queues.set(queue, []);
  world.announced.length = 0;
  world.calls.length = 0;
}
beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1);
  await observed(vm);
});

const changed = (id = vm.id) =>
  enveloped('casemate', 'VM Changed', {
    schemaVersion: 1,
    instanceId: id,
    at: world.now().toISOString(),
    state: 'running',
    managed: true,
    leavingScope: false,
    gone: false,
  });
const postureChanged = () =>
  enveloped('casemate', 'Posture Changed', {
    schemaVersion: 1,
    instanceId: vm.id,
    at: world.now().toISOString(),
    verdict: 'compliant',
    reasons: [],
    policies: [],
    validUntil: null,
  });
const judged = (verdict: 'compliant' | 'noncompliant' | 'unproven', id = vm.id) =>
  world.rows.set(`posture#${id}`, {
    ...aPosture({
      pk: `posture#${id}`,
      instanceId: id,
      verdict,
      validUntil: new Date(world.now().getTime() + 900_000).toISOString(),
    }),
  });
const run = (...bodies: object[]) => world.handlers['apply-isolation'](sqsEvent(...bodies), CONTEXT);
const groupOf = (name: string, vpcId?: string) =>
  [...world.groups.values()].find((g) => g.GroupName === name && (vpcId === undefined || g.VpcId === vpcId));
const item = (id = vm.id) => world.rows.get(`isolation#${id}`);
const changes = () => world.calls.filter((call) => !call.startsWith('Describe'));
const throttled = () => Object.assign(new Error('Rate exceeded'), { name: 'RequestLimitExceeded' });

describe('an unproven VM', () => {
  test('is fenced: originals recorded, one group on, and announced', async () => {
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
    const probation = groupOf('casemate-probation')?.GroupId;
    expect(vm.interfaces[0]?.groups).toEqual([probation]);
    expect(item()).toMatchObject({
      profile: 'probation',
      applied: true,
      mode: 'enforce',
      reasons: ['NO_REPORT'],
      interfaces: [{ id: vm.interfaces[0]?.id, originals: ORIGINALS, groups: [probation] }],
    });
    expect(world.announced.map((e) => [e.detailType, e.detail['applied']])).toEqual([
      ['Isolation Changed', true],
    ]);
  });

  test('has every interface fenced', async () => {
    vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'] });
    await run(changed());
    const probation = groupOf('casemate-probation')?.GroupId;
    expect(vm.interfaces.map((eni) => eni.groups)).toEqual([[probation], [probation]]);
  });

  test('that is fenced already costs looks alone', async () => {
    await run(changed());
    world.calls.length = 0;
    world.announced.length = 0;
    await run(changed(), postureChanged());
    expect([changes(), world.announced]).toEqual([[], []]);
  });

  test('that is fenced already is announced again by a redelivered message', async () => {
    await run(changed());
    world.announced.length = 0;
    const again = sqsRecord(changed(), { receives: 2 });
    await world.handlers['apply-isolation']({ Records: [again] }, CONTEXT);
    expect(world.announced).toHaveLength(1);
  });

  test('has an interface that drifted put back, and its originals kept', async () => {
    await run(changed());
    (vm.interfaces[0] as { groups: string[] }).groups = ['sg-0000dddd'];
    await run(changed());
    expect(vm.interfaces[0]?.groups).toEqual([groupOf('casemate-probation')?.GroupId]);
    expect(item()).toMatchObject({ interfaces: [{ originals: ORIGINALS }] });
  });
});

describe('the order of effects', () => {
  test('originals are stored before the first interface is changed', async () => {
    await run(changed());
    const names = [...world.effects.names];
    const stored = names.indexOf(`put isolation#${vm.id}`);
    const swapped = names.indexOf(`groups of ${vm.interfaces[0]?.id}`);
    expect(stored).toBeGreaterThanOrEqual(0);
    expect(stored).toBeLessThan(swapped);
    expect(names.indexOf('put events', swapped)).toBeGreaterThan(swapped);
  });

  test('nothing is changed when the originals could not be stored', async () => {
    world.fail('PutItem', throttled());
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(vm.interfaces[0]?.groups).toEqual(ORIGINALS);
    expect(world.announced).toEqual([]);
  });

  test('a group is closed before an interface gets it', async () => {
    await run(changed());
    const names = [...world.effects.names];
    expect(names.lastIndexOf('revoke egress')).toBeLessThan(
      names.indexOf(`groups of ${vm.interfaces[0]?.id}`),
    );
    expect(groupOf('casemate-quarantine')).toMatchObject({ IpPermissions: [], IpPermissionsEgress: [] });
  });
});

describe('a VM that proved itself', () => {
  beforeEach(async () => {
    await run(changed());
    world.announced.length = 0;
  });

  test('gets exactly its groups back', async () => {
    judged('compliant');
    await run(postureChanged());
    expect(new Set(vm.interfaces[0]?.groups)).toEqual(new Set(ORIGINALS));
    expect(item()).toMatchObject({ profile: 'workload', applied: true, interfaces: [{ originals: null }] });
    expect(world.announced.at(-1)?.detail).toMatchObject({ profile: 'workload', applied: true });
  });

  test('is left to its owners from then on', async () => {
    judged('compliant');
    await run(postureChanged());
    (vm.interfaces[0] as { groups: string[] }).groups = ['sg-0000dddd'];
    world.calls.length = 0;
    await run(changed());
    expect(changes()).toEqual([]);
    expect(vm.interfaces[0]?.groups).toEqual(['sg-0000dddd']);
  });

  test('and then contradicted EC2 is quarantined, and goes back to its own groups afterwards', async () => {
    judged('compliant');
    await run(postureChanged());
    judged('noncompliant');
    await run(postureChanged());
    expect(vm.interfaces[0]?.groups).toEqual([groupOf('casemate-quarantine')?.GroupId]);
    judged('compliant');
    await run(postureChanged());
    expect(new Set(vm.interfaces[0]?.groups)).toEqual(new Set(ORIGINALS));
  });
});

describe('when AWS says no', () => {
  test('to one interface, the others are still fenced, and the message is returned', async () => {
    vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'] });
    const heal = world.fail(
      'ModifyNetworkInterfaceAttribute',
      throttled(),
      (input) => input['NetworkInterfaceId'] === vm.interfaces[0]?.id,
    );
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    const probation = groupOf('casemate-probation')?.GroupId;
    expect(vm.interfaces.map((eni) => eni.groups)).toEqual([ORIGINALS, [probation]]);
    expect(item()).toMatchObject({ applied: false });
    expect(world.announced.at(-1)?.detail).toMatchObject({ applied: false });
    heal();
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
    expect(item()).toMatchObject({
      applied: true,
      interfaces: [{ originals: ORIGINALS }, { originals: ['sg-0000cccc'] }],
    });
  });

  test('to one VM of a batch, the others are fenced', async () => {
    const other = launch(world, 2);
    await observed(vm, other);
    world.fail(
      'ModifyNetworkInterfaceAttribute',
      throttled(),
      (input) => input['NetworkInterfaceId'] === vm.interfaces[0]?.id,
    );
    await expect(run(changed(), changed(other.id))).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(item(other.id)).toMatchObject({ applied: true });
  });

  test.each([
    ['has too many groups', 'SecurityGroupLimitExceeded'],
    ['grants nothing', 'UnauthorizedOperation'],
  ])('when one VPC %s, the VMs of another are fenced, and its own keep what they have', async (_, name) => {
    const elsewhere = launch(world, 2, { vpcId: 'vpc-00000002' });
    await observed(vm, elsewhere);
    const refused = Object.assign(new Error(name), { name });
    world.fail('CreateSecurityGroup', refused, (input) => input['VpcId'] !== 'vpc-00000002');
    await expect(run(changed(), changed(elsewhere.id))).resolves.toEqual({
      batchItemFailures: [{ itemIdentifier: 'm-1' }],
    });
    expect(elsewhere.interfaces[0]?.groups).toEqual([groupOf('casemate-probation', 'vpc-00000002')?.GroupId]);
    expect(vm.interfaces[0]?.groups).toEqual(ORIGINALS);
    expect(item()).toMatchObject({ applied: false, interfaces: [{ originals: null }] });
    expect(item()?.['reasons']).toContain('NO_GROUPS_IN_VPC');
  });

  test('to the groups of a new interface’s VPC, a contained VM is at no moment said to be still contained', async () => {
    await run(changed());
    vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'], vpcId: 'vpc-00000002' });
    world.fail('CreateSecurityGroup', throttled());
    const said: unknown[] = [];
    world.stand(async (call, go) => {
      const answer = await go();
      if (call.name === 'PutItem') said.push(item()?.['applied']);
      return answer;
    });
    await run(changed());
    expect(said.length).toBeGreaterThan(0);
    expect(said).not.toContain(true);
  });

  test('to the announcement, the redelivered message makes it', async () => {
    const heal = world.fail('PutEvents', throttled());
    await expect(run(changed())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    heal();
    const again = sqsRecord(changed(), { receives: 2 });
    await world.handlers['apply-isolation']({ Records: [again] }, CONTEXT);
    expect(world.announced).toHaveLength(1);
  });
});

test('a VM that terminates between the record and the change ends nothing else, and is left alone from then on', async () => {
  const other = launch(world, 2);
  await observed(other);
  world.stand(async (call, go) => {
    if (call.name === 'ModifyNetworkInterfaceAttribute') {
      vm.state = 'terminated';
      vm.interfaces = [];
    }
    return go();
  });
  await expect(run(changed(), changed(other.id))).resolves.toEqual({
    batchItemFailures: [{ itemIdentifier: 'm-1' }],
  });
  expect(other.interfaces[0]?.groups).toEqual([groupOf('casemate-probation')?.GroupId]);
  expect(item(other.id)).toMatchObject({ applied: true });
  // What it had is not forgotten with its interface, and its message finds nothing to do once it was looked at.
  expect(item()).toMatchObject({ interfaces: [{ originals: ORIGINALS }] });
  await observed(vm);
  await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
  expect(changes()).toEqual([]);
});

test('of two workers at once one wins, the other looks again, and the originals are recorded once', async () => {
  const answers = await Promise.all([run(changed()), run(changed())]);
  expect(answers.flatMap((a) => a.batchItemFailures)).toEqual([]);
  expect(item()).toMatchObject({ applied: true, interfaces: [{ originals: ORIGINALS }] });
  expect([...world.groups.values()].map((g) => g.GroupName).sort()).toEqual([
    'casemate-probation',
    'casemate-quarantine',
  ]);
});

describe('a VM is left alone', () => {
  test.each<[string, Partial<WorldVm>]>([
    ['out of scope', { tags: {} }],
    ['while it shuts down', { state: 'shutting-down' }],
    ['once it is terminated', { state: 'terminated' }],
    ['without an interface', { interfaces: [] }],
  ])('%s', async (_, overrides) => {
    const other = launch(world, 2, overrides);
    await observed(other);
    await expect(run(changed(other.id))).resolves.toEqual({ batchItemFailures: [] });
    expect([changes(), item(other.id), world.announced]).toEqual([[], undefined, []]);
  });

  test('when nobody observed it', async () => {
    await run(changed('i-000000ff'));
    expect([changes(), world.announced]).toEqual([[], []]);
  });
});

test('a requester-managed interface is reported, and not touched', async () => {
  vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'], requesterManaged: true });
  await expect(run(changed())).resolves.toEqual({ batchItemFailures: [] });
  expect(vm.interfaces[1]?.groups).toEqual(['sg-0000cccc']);
  expect(item()).toMatchObject({ applied: true, reasons: ['NO_REPORT', 'REQUESTER_MANAGED'] });
});

describe('a VM that an operator contained', () => {
  const decided = () =>
    enveloped('casemate', 'Operator Decided', {
      schemaVersion: 1,
      instanceId: vm.id,
      what: 'quarantine',
      ...DECISION,
    });
  const operator = (set: OperatorChange['set'] = {}) => {
    const pk = `operator#${vm.id}`;
    world.rows.set(pk, { ...anOperator(set), pk, instanceId: vm.id });
  };
  const quarantine = () => groupOf('casemate-quarantine')?.GroupId;
  beforeEach(async () => {
    judged('compliant');
    await run(changed());
  });

  test('is quarantined on every interface by the event alone, and says why', async () => {
    vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'] });
    operator();
    await expect(run(decided())).resolves.toEqual({ batchItemFailures: [] });
    expect(vm.interfaces.map((eni) => eni.groups)).toEqual([[quarantine()], [quarantine()]]);
    expect(item()).toMatchObject({ profile: 'quarantine', applied: true, reasons: ['OPERATOR_QUARANTINE'] });
    expect(world.announced.at(-1)?.detail).toMatchObject({ profile: 'quarantine', applied: true });
  });

  test('has an interface that is attached later contained as well', async () => {
    operator();
    await run(decided());
    vm.interfaces.push({ id: 'eni-00000011', groups: ['sg-0000cccc'] });
    await run(changed());
    expect(vm.interfaces[1]?.groups).toEqual([quarantine()]);
  });

  test('gets exactly its groups back when the operator takes that back', async () => {
    operator();
    await run(decided());
    operator({ quarantine: undefined });
    await run(decided());
    expect(vm.interfaces[0]?.groups).toEqual(ORIGINALS);
    expect(item()).toMatchObject({ profile: 'workload', applied: true, interfaces: [{ originals: null }] });
  });

  test('stays fenced while a group that it had is gone, until groups are named for it', async () => {
    operator();
    await run(decided());
    world.deletedGroups.add('sg-0000bbbb');
    operator({ quarantine: undefined });
    // Not returned to the queue: trying again gives back no group that was deleted.
    await expect(run(decided())).resolves.toEqual({ batchItemFailures: [] });
    expect(vm.interfaces[0]?.groups).toEqual([quarantine()]);
    expect(item()).toMatchObject({
      profile: 'workload',
      applied: false,
      interfaces: [{ originals: ORIGINALS, gone: ['sg-0000bbbb'] }],
    });
    expect(item()?.['reasons']).toContain('ORIGINAL_GROUP_GONE');
    operator({ quarantine: undefined, workloadGroups: { [vm.interfaces[0]?.id ?? '']: ['sg-0000aaaa'] } });
    await run(decided());
    expect(vm.interfaces[0]?.groups).toEqual(['sg-0000aaaa']);
    expect(item()).toMatchObject({ applied: true, interfaces: [{ originals: null }] });
  });

  test('gets its groups back by itself when a group that was gone is there again', async () => {
    operator();
    await run(decided());
    world.deletedGroups.add('sg-0000bbbb');
    operator({ quarantine: undefined });
    await run(decided());
    world.deletedGroups.clear();
    await run(changed());
    expect(vm.interfaces[0]?.groups).toEqual(ORIGINALS);
    expect(item()).toMatchObject({ applied: true });
    expect(item()?.['reasons']).not.toContain('ORIGINAL_GROUP_GONE');
  });

  test('is left where it is when what operators decided cannot be read', async () => {
    world.rows.set(`operator#${vm.id}`, { pk: `operator#${vm.id}`, nonsense: true });
    judged('noncompliant');
    await expect(run(decided())).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(vm.interfaces[0]?.groups).toEqual(ORIGINALS);
  });
});

describe('in observe mode', () => {
  beforeEach(async () => {
    world = createWorld({ mode: 'observe' });
    vm = launch(world, 1);
    await observed(vm);
  });

  test('nothing is changed or made; what would be is recorded and announced', async () => {
    await run(changed());
    expect([changes(), vm.interfaces[0]?.groups, world.groups.size]).toEqual([[], ORIGINALS, 0]);
    expect(item()).toMatchObject({
      profile: 'probation',
      applied: false,
      mode: 'observe',
      interfaces: [{ originals: null, groups: ORIGINALS }],
    });
    expect(world.announced.map((e) => e.detail['mode'])).toEqual(['observe']);
  });
});

describe('the probation group', () => {
  const withEgress = (probationEgress: ProbationEgress) => {
    const settings = isolationSettings('enforce', { probationEgress });
    const handler = createHandler({ ...world.common(), ec2: world.client, ...settings });
    return handler(sqsEvent(changed()), CONTEXT);
  };
  const egress = () => groupOf('casemate-probation')?.IpPermissionsEgress;

  test('lets HTTPS out anywhere, over both protocols, when that was declared', async () => {
    await withEgress({ kind: 'https-anywhere' });
    const https = { IpProtocol: 'tcp', FromPort: 443, ToPort: 443 };
    expect(egress()).toEqual([
      { ...https, IpRanges: [{ CidrIp: '0.0.0.0/0' }] },
      { ...https, Ipv6Ranges: [{ CidrIpv6: '::/0' }] },
    ]);
  });

  test('lets HTTPS out to the endpoints alone otherwise', async () => {
    const endpoints = { securityGroupIds: ['sg-0000eeee'], prefixListIds: ['pl-0000ffff'] };
    await withEgress({ kind: 'endpoints', ...endpoints });
    const https = { IpProtocol: 'tcp', FromPort: 443, ToPort: 443 };
    expect(egress()).toEqual([
      { ...https, UserIdGroupPairs: [{ GroupId: 'sg-0000eeee' }] },
      { ...https, PrefixListIds: [{ PrefixListId: 'pl-0000ffff' }] },
    ]);
  });

  test('is put right when somebody opened it', async () => {
    await run(changed());
    const group = groupOf('casemate-probation');
    const wanted = structuredClone(egress());
    group?.IpPermissionsEgress.push({ IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] });
    if (group)
      group.IpPermissions = [
        { IpProtocol: 'tcp', FromPort: 22, ToPort: 22, IpRanges: [{ CidrIp: '0.0.0.0/0' }] },
      ];
    await run(changed());
    expect([group?.IpPermissions, egress()]).toEqual([[], wanted]);
  });

  test('is not one that somebody else tagged as ours', async () => {
    world.groups.set('sg-0000dddd', {
      GroupId: 'sg-0000dddd',
      GroupName: 'wide-open',
      VpcId: 'vpc-0a1b2c3d4e5f60718',
      Tags: [
        { Key: 'casemate:managed', Value: 'true' },
        { Key: 'casemate:profile', Value: 'probation' },
      ],
      IpPermissions: [],
      IpPermissionsEgress: [],
    });
    await run(changed());
    expect(vm.interfaces[0]?.groups).toEqual([groupOf('casemate-probation')?.GroupId]);
    expect(vm.interfaces[0]?.groups).not.toContain('sg-0000dddd');
  });
});
