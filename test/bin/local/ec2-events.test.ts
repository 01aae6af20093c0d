import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { EMPTY, eventsBetween, type Snapshot } from '../../../bin/local/ec2-events.ts';

const VM = 'i-0123456789abcdef0';
const ENI = 'eni-0123456789abcdef0';
const ROOT = 'vol-0aaaaaaaaaaaaaaaa';
const DATA = 'vol-0bbbbbbbbbbbbbbbb';
const GROUP = 'sg-0123456789abcdef0';

type Vm = Snapshot['instances'][string];
const vm = (overrides: Partial<Vm> = {}): Vm => ({
  state: 'running',
  instanceType: 'm7i.large',
  interfaces: { [ENI]: { deviceIndex: 0, attachmentId: 'eni-attach-1', groups: [GROUP] } },
  ...overrides,
});
const running: Snapshot = {
  instances: { [VM]: vm() },
  volumes: { [ROOT]: { [VM]: '/dev/sda1' } },
  tags: { [VM]: { Name: 'web' }, [ROOT]: {} },
  groups: [GROUP],
  rules: {},
};
const state = (name: string) => ({
  detailType: 'EC2 Instance State-change Notification',
  resources: [`instance/${VM}`],
  detail: { 'instance-id': VM, state: name },
});
const call = (
  eventName: string,
  requestParameters: object,
  responseElements: object = { _return: true },
) => ({
  detailType: 'AWS API Call via CloudTrail',
  detail: { eventName, requestParameters, responseElements },
});
const volume = (id: string, event: string, result: string) => ({
  detailType: 'EBS Volume Notification',
  resources: [`volume/${id}`],
  detail: { result, cause: '', event },
});

describe('events between two looks at the emulated EC2', () => {
  test('a launch tells of its volume, the call, and both states, and of no attachment or tag', () => {
    expect(eventsBetween(EMPTY, running)).toEqual([
      volume(ROOT, 'createVolume', 'available'),
      call(
        'RunInstances',
        { instancesSet: { items: [{ minCount: 1, maxCount: 1 }] }, instanceType: 'm7i.large' },
        { instancesSet: { items: [{ instanceId: VM, instanceType: 'm7i.large' }] } },
      ),
      state('pending'),
      state('running'),
    ]);
  });

  test.each([
    ['pending', 'running', ['running']],
    ['running', 'stopped', ['stopping', 'stopped']],
    ['running', 'stopping', ['stopping']],
    ['stopping', 'stopped', ['stopped']],
    ['stopped', 'running', ['pending', 'running']],
    ['running', 'shutting-down', ['shutting-down']],
    ['shutting-down', 'terminated', ['terminated']],
  ])('from %s to %s an instance passes %j', (from, to, passed) => {
    const at = (name: string): Snapshot => ({ ...running, instances: { [VM]: vm({ state: name }) } });
    expect(eventsBetween(at(from), at(to))).toEqual(passed.map(state));
  });

  test('a termination tells of states and deleted volumes, and of no detachment', () => {
    const after: Snapshot = {
      ...running,
      instances: { [VM]: vm({ state: 'terminated', interfaces: {} }) },
      volumes: {},
    };
    expect(eventsBetween(running, after)).toEqual([
      volume(ROOT, 'deleteVolume', 'deleted'),
      state('shutting-down'),
      state('terminated'),
    ]);
  });

  test('a volume made and attached later tells of both', () => {
    const after = { ...running, volumes: { ...running.volumes, [DATA]: { [VM]: '/dev/sdf' } } };
    const where = { volumeId: DATA, instanceId: VM, device: '/dev/sdf' };
    expect(eventsBetween(running, after)).toEqual([
      volume(DATA, 'createVolume', 'available'),
      call('AttachVolume', where, { ...where, status: 'attaching' }),
    ]);
  });

  test('a volume that is taken off tells of it', () => {
    const after = { ...running, volumes: { [ROOT]: {} } };
    expect(eventsBetween(running, after)).toEqual([
      call(
        'DetachVolume',
        { volumeId: ROOT },
        { volumeId: ROOT, instanceId: VM, device: '/dev/sda1', status: 'detaching' },
      ),
    ]);
  });

  test('an interface that comes and one that goes tell of it', () => {
    const second = { deviceIndex: 1, attachmentId: 'eni-attach-2', groups: [GROUP] };
    const after = { ...running, instances: { [VM]: vm({ interfaces: { 'eni-2': second } }) } };
    expect(eventsBetween(running, after)).toEqual([
      call('DetachNetworkInterface', { attachmentId: 'eni-attach-1', force: false }),
      call(
        'AttachNetworkInterface',
        { networkInterfaceId: 'eni-2', instanceId: VM, deviceIndex: 1 },
        { attachmentId: 'eni-attach-2' },
      ),
    ]);
  });

  test('other groups of an interface tell of the whole new set', () => {
    const changed = { deviceIndex: 0, attachmentId: 'eni-attach-1', groups: ['sg-a', 'sg-b'] };
    const after = { ...running, instances: { [VM]: vm({ interfaces: { [ENI]: changed } }) } };
    expect(eventsBetween(running, after)).toEqual([
      call('ModifyNetworkInterfaceAttribute', {
        networkInterfaceId: ENI,
        groupSet: { items: [{ groupId: 'sg-a' }, { groupId: 'sg-b' }] },
      }),
    ]);
  });

  test('tags that are set, changed and deleted tell of it, on volumes too', () => {
    const before = { ...running, tags: { [VM]: { keep: '1', change: '1', drop: '1' }, [ROOT]: {} } };
    const after = { ...running, tags: { [VM]: { keep: '1', change: '2' }, [ROOT]: { new: '' } } };
    const on = (resourceId: string) => ({ items: [{ resourceId }] });
    expect(eventsBetween(before, after)).toEqual([
      call('CreateTags', { resourcesSet: on(VM), tagSet: { items: [{ key: 'change', value: '2' }] } }),
      call('DeleteTags', { resourcesSet: on(VM), tagSet: { items: [{ key: 'drop', value: '1' }] } }),
      call('CreateTags', { resourcesSet: on(ROOT), tagSet: { items: [{ key: 'new', value: '' }] } }),
    ]);
  });

  test('rules of a group tell of the direction, of what was revoked first, and of nothing for a new group', () => {
    const https = {
      groupId: GROUP,
      isEgress: false,
      ipProtocol: 'tcp',
      fromPort: 443,
      toPort: 443,
      cidrIpv4: '10.0.0.0/8',
    };
    const everything = { groupId: GROUP, isEgress: true, ipProtocol: '-1', fromPort: -1, toPort: -1 };
    const before = { ...running, rules: { 'sgr-1': { ...everything, cidrIpv4: '0.0.0.0/0' } } };
    const after = {
      ...running,
      groups: [GROUP, 'sg-new'],
      rules: { 'sgr-2': https, 'sgr-3': { ...everything, groupId: 'sg-new', cidrIpv6: '::/0' } },
    };
    const empty = { groups: {}, ipRanges: {}, ipv6Ranges: {}, prefixListIds: {} };
    expect(eventsBetween(before, after)).toEqual([
      call('RevokeSecurityGroupEgress', {
        groupId: GROUP,
        ipPermissions: {
          items: [
            {
              ipProtocol: '-1',
              fromPort: -1,
              toPort: -1,
              ...empty,
              ipRanges: { items: [{ cidrIp: '0.0.0.0/0' }] },
            },
          ],
        },
      }),
      call(
        'AuthorizeSecurityGroupIngress',
        {
          groupId: GROUP,
          ipPermissions: {
            items: [
              {
                ipProtocol: 'tcp',
                fromPort: 443,
                toPort: 443,
                ...empty,
                ipRanges: { items: [{ cidrIp: '10.0.0.0/8' }] },
              },
            ],
          },
        },
        { _return: true, securityGroupRuleSet: { items: [{ securityGroupRuleId: 'sgr-2', ...https }] } },
      ),
    ]);
  });

  test('a group that goes takes its rules with it without a call', () => {
    const rule = { groupId: GROUP, isEgress: true, ipProtocol: '-1', fromPort: -1, toPort: -1 };
    const before = { ...running, rules: { 'sgr-1': rule } };
    expect(eventsBetween(before, { ...running, groups: [] })).toEqual([]);
  });

  test('two equal looks give no event, and the same two looks always the same events', () => {
    const snapshots = fc.constantFrom<Snapshot>(
      EMPTY,
      running,
      { ...running, instances: { [VM]: vm({ state: 'stopped' }) } },
      { ...running, volumes: { [ROOT]: {}, [DATA]: { [VM]: '/dev/sdf' } } },
      { ...running, tags: { [VM]: { Name: 'db' } } },
    );
    const property = fc.property(snapshots, snapshots, (before, after) => {
      expect(eventsBetween(before, structuredClone(before))).toEqual([]);
      expect(eventsBetween(before, after)).toEqual(eventsBetween(before, after));
    });
    void fc.assert(property); // not asynchronous: it throws here
  });
});
