import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { type Envelope, parseEnvelope } from '../../lib/domain/envelope.ts';
import { type Hints, hintsOf, SWEEP_DETAIL_TYPE, SWEEP_SOURCE } from '../../lib/domain/hints.ts';
import { RECORDED_EVENTS, RECORDED_VM, recorded } from '../world/recorded.ts';

const VM = RECORDED_VM;
const VOLUME = 'vol-0f1e2d3c4b5a69780';
const INTERFACE = 'eni-0a1b2c3d4e5f60718';
const GROUP = 'sg-0123456789abcdef0';

function hints(event: unknown): Hints {
  const parsed = hintsOf(event as Envelope);
  if (parsed.kind === 'reject') throw new Error(`${parsed.reason}: ${parsed.detail}`);
  return parsed.value;
}
const call = (requestParameters: unknown, responseElements: unknown = null) => ({
  source: 'aws.ec2',
  'detail-type': 'AWS API Call via CloudTrail',
  detail: { eventSource: 'ec2.amazonaws.com', eventName: 'Any', requestParameters, responseElements },
});
const sweep = (detail: object) => ({ source: SWEEP_SOURCE, 'detail-type': SWEEP_DETAIL_TYPE, detail });

describe('a recorded event', () => {
  test.each(RECORDED_EVENTS)('%s is understood, whole', (name) => {
    const parsed = parseEnvelope(JSON.stringify(recorded(name)));
    if (parsed.kind === 'reject') throw new Error(parsed.detail);
    const found = hints(parsed.value);
    const all = [found.instanceIds, found.volumeIds, found.interfaceIds, found.groupIds].flat();
    expect(all.length).toBeGreaterThan(0);
    expect(found).toMatchObject({ sweep: false, resync: false });
  });

  test.each(RECORDED_EVENTS.filter((name) => name.startsWith('ec2-state-')))('%s hints at its VM', (name) => {
    expect(hints(recorded(name))).toEqual({
      instanceIds: [VM],
      volumeIds: [],
      interfaceIds: [],
      groupIds: [],
      sweep: false,
      resync: false,
    });
  });

  test.each(RECORDED_EVENTS.filter((name) => name.startsWith('ebs-')))('%s hints at its volume', (name) => {
    expect(hints(recorded(name))).toMatchObject({ instanceIds: [], volumeIds: [VOLUME] });
  });

  test.each<[string, Partial<Hints>]>([
    ['RunInstances', { instanceIds: [VM, 'i-0b1b2c3d4e5f60718'] }],
    ['CreateVolume', { instanceIds: [], volumeIds: [VOLUME] }],
    ['AttachVolume', { instanceIds: [VM], volumeIds: [VOLUME] }],
    ['DetachVolume', { instanceIds: [VM], volumeIds: [VOLUME] }],
    ['AttachNetworkInterface', { instanceIds: [VM], interfaceIds: [INTERFACE] }],
    ['ModifyNetworkInterfaceAttribute', { instanceIds: [], interfaceIds: [INTERFACE], groupIds: [GROUP] }],
    ['ModifyInstanceAttribute', { instanceIds: [VM] }],
    ['CreateTags', { instanceIds: [VM] }],
    ['DeleteTags', { instanceIds: [VM] }],
    ['AuthorizeSecurityGroupIngress', { instanceIds: [], groupIds: [GROUP] }],
    ['AuthorizeSecurityGroupEgress', { instanceIds: [], groupIds: [GROUP] }],
    ['RevokeSecurityGroupIngress', { instanceIds: [], groupIds: [GROUP] }],
    ['RevokeSecurityGroupEgress', { instanceIds: [], groupIds: [GROUP] }],
    ['ModifySecurityGroupRules', { instanceIds: [], groupIds: [GROUP] }],
  ])('cloudtrail-%s hints at what the call named', (name, expected) => {
    expect(hints(recorded(`cloudtrail-${name}`))).toMatchObject(expected);
  });
});

describe('a call', () => {
  test('that answered nothing is understood by what it asked', () => {
    expect(hints(call({ instanceId: VM }, null)).instanceIds).toEqual([VM]);
    expect(hints(call(null, { instanceId: VM })).instanceIds).toEqual([VM]);
  });

  test('that names nothing of ours hints at nothing', () => {
    expect(hints(call({ vpcId: 'vpc-00000001' }))).toMatchObject({ instanceIds: [], volumeIds: [] });
  });

  test('names each thing once, wherever it stands', () => {
    void fc.assert(
      fc.property(
        fc.uniqueArray(fc.constantFrom('i-00000001', 'i-00000002', 'i-0a1b2c3d4e5f60718'), { minLength: 1 }),
        fc.array(fc.constantFrom('items', 'a', '0'), { maxLength: 6 }),
        (ids, path) => {
          const nested = path.reduce<unknown>(
            (value, key) => ({ [key]: [value, 7, null, true] }),
            [...ids, ...ids],
          );
          expect(hints(call({ nested })).instanceIds).toEqual(ids);
        },
      ),
    );
  });

  test('reads no id out of what only looks like one', () => {
    const near = [
      'i-1',
      'i-0000000G',
      'I-00000001',
      ' i-00000001',
      'i-00000001 ',
      'mi-00000001',
      'ami-00000001',
    ];
    expect(hints(call({ near })).instanceIds).toEqual([]);
  });

  test('nested as deep as an event can be is understood', () => {
    const depth = 60_000;
    const text = `${'['.repeat(depth)}"${VM}"${']'.repeat(depth)}`;
    const event = call({ deep: 0 });
    const body = JSON.stringify(event).replace('"deep":0', `"deep":${text}`);
    const parsed = parseEnvelope(body);
    if (parsed.kind === 'reject') throw new Error(parsed.reason);
    expect(hints(parsed.value).instanceIds).toEqual([VM]);
  });
});

describe('a hint of the sweep', () => {
  test('counts as a look of the sweep, and says whether to announce again', () => {
    expect(hints(sweep({ instanceIds: [VM], resync: true }))).toMatchObject({
      instanceIds: [VM],
      sweep: true,
      resync: true,
    });
    expect(hints(sweep({ instanceIds: [VM], resync: false }))).toMatchObject({ sweep: true, resync: false });
  });

  test.each([
    ['no VM', { instanceIds: [], resync: false }],
    ['201 VMs', { instanceIds: Array(201).fill(VM), resync: false }],
    ['something that is no VM', { instanceIds: [VOLUME], resync: false }],
    ['a part of its own', { instanceIds: [VM], resync: false, gone: true }],
  ])('with %s is rejected', (_, detail) => {
    expect(hintsOf(sweep(detail) as Envelope)).toMatchObject({ reason: 'EVENT_MALFORMED' });
  });
});

describe('an event is rejected', () => {
  test.each([
    ['aws.ec2', 'EC2 Spot Instance Interruption Warning'],
    ['aws.ebs', 'EBS Volume Notification'],
    ['casemate', 'VM Changed'],
    ['casemate.agent', 'EC2 Instance State-change Notification'],
    ['casemate.agent', SWEEP_DETAIL_TYPE],
    ['aws.ec2', SWEEP_DETAIL_TYPE],
  ])('as unknown when it comes from %s and is a %s', (source, detailType) => {
    const event = { source, 'detail-type': detailType, detail: { 'instance-id': VM, instanceIds: [VM] } };
    expect(hintsOf(event as Envelope)).toMatchObject({ kind: 'reject', reason: 'EVENT_UNKNOWN' });
  });

  test.each([
    ['a state change without a VM', { ...recorded('ec2-state-running'), detail: { state: 'running' } }],
    [
      'a state change of something else',
      { ...recorded('ec2-state-running'), detail: { 'instance-id': VOLUME, state: 'x' } },
    ],
    [
      'a notification without a result',
      { ...recorded('ebs-createVolume-available'), detail: { event: 'createVolume' } },
    ],
    [
      'a call to another service',
      {
        ...recorded('cloudtrail-CreateTags'),
        detail: { ...recorded('cloudtrail-CreateTags').detail, eventSource: 'rds.amazonaws.com' },
      },
    ],
    [
      'a call with a text for parameters',
      {
        ...recorded('cloudtrail-CreateTags'),
        detail: { ...recorded('cloudtrail-CreateTags').detail, requestParameters: VM },
      },
    ],
  ])('as malformed when it is %s', (_, event) => {
    expect(hintsOf(event as Envelope)).toMatchObject({ kind: 'reject', reason: 'EVENT_MALFORMED' });
  });

  test('with a detail that is short, however long the event’s names are', () => {
    const event = { source: 'x'.repeat(9999), 'detail-type': 'y', detail: {} };
    const rejected = hintsOf(event as Envelope);
    expect(rejected.kind === 'reject' && rejected.detail.length).toBeLessThanOrEqual(200);
  });
});
