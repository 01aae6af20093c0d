import { setTimeout as sleep } from 'node:timers/promises';
import { EC2Client, type Instance } from '@aws-sdk/client-ec2';
import { EventBridgeClient, type PutEventsRequestEntry } from '@aws-sdk/client-eventbridge';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { type Feed, startFeed } from '../../../bin/local/ec2-feed.ts';

const options = { region: 'us-east-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' } };
const ids = (n: number) => Array.from({ length: n }, (_, i) => `i-${String(i).padStart(17, '0')}`);
const instance = (InstanceId: string): Instance => ({
  InstanceId,
  InstanceType: 'm7i.large',
  State: { Name: 'running' },
});

/** EC2 and the bus, at the clients' `send`. */
function emulated() {
  const ec2 = new EC2Client(options);
  const bus = new EventBridgeClient(options);
  const shown: Instance[] = [];
  const taken: PutEventsRequestEntry[] = [];
  const batches: number[] = [];
  const faults = { looks: 0, puts: 0, refused: new Set<string>() };
  const counts = { looks: 0 };
  ec2.send = jest.fn(async (command: { constructor: { name: string } }) => {
    if (command.constructor.name === 'DescribeInstancesCommand') counts.looks++;
    if (faults.looks-- > 0) throw new Error('EC2 is away');
    return command.constructor.name === 'DescribeInstancesCommand'
      ? { Reservations: [{ Instances: [...shown] }] }
      : {};
  }) as never;
  bus.send = jest.fn(async ({ input: { Entries } }: { input: { Entries: PutEventsRequestEntry[] } }) => {
    if (faults.puts-- > 0) throw new Error('the bus is away');
    batches.push(Entries.length);
    const answers = Entries.map((entry) => {
      for (const id of faults.refused) {
        if (!entry.Detail?.includes(id)) continue;
        faults.refused.delete(id);
        return { ErrorCode: 'InternalFailure' };
      }
      taken.push(entry);
      return { EventId: '1' };
    });
    return { Entries: answers, FailedEntryCount: answers.filter((a) => a.ErrorCode).length };
  }) as never;
  return { ec2, bus, shown, taken, batches, faults, counts };
}

const states = (entries: readonly PutEventsRequestEntry[]) =>
  entries
    .filter((entry) => entry.DetailType === 'EC2 Instance State-change Notification')
    .map((entry) => Object.values(JSON.parse(entry.Detail ?? '{}') as object).join(' '));

describe('the feed of EC2 events', () => {
  let feed: Feed | undefined;
  afterEach(() => feed?.stop());
  const start = (cloud: ReturnType<typeof emulated>, onFault: (fault: unknown) => void = () => undefined) => {
    feed = startFeed(cloud.ec2, cloud.bus, onFault, 1);
    return feed;
  };
  /** Waits until the feed looked so often, and put what it saw. */
  const looks = async (cloud: ReturnType<typeof emulated>, n: number) => {
    for (const until = cloud.counts.looks + n; cloud.counts.looks < until; ) await sleep(1);
  };

  test('puts the events as EC2 and CloudTrail would', async () => {
    const cloud = emulated();
    const [id = ''] = ids(1);
    cloud.shown.push(instance(id));
    start(cloud);
    await looks(cloud, 2);
    expect(cloud.taken).toHaveLength(3);
    const [run, pending] = cloud.taken;
    expect(pending).toEqual({
      Source: 'aws.ec2',
      DetailType: 'EC2 Instance State-change Notification',
      Resources: [`arn:aws:ec2:us-east-1:000000000000:instance/${id}`],
      Time: expect.any(Date),
      Detail: JSON.stringify({ 'instance-id': id, state: 'pending' }),
    });
    expect(run).toMatchObject({
      Source: 'aws.ec2',
      DetailType: 'AWS API Call via CloudTrail',
      Resources: [],
    });
    const uuid = expect.stringMatching(/^[0-9a-f-]{36}$/);
    expect(JSON.parse(run?.Detail ?? '{}')).toEqual({
      eventVersion: '1.11',
      userIdentity: {
        type: 'AssumedRole',
        principalId: 'AROAEXAMPLE:operator',
        arn: 'arn:aws:sts::000000000000:assumed-role/operator/operator',
        accountId: '000000000000',
      },
      eventTime: run?.Time?.toISOString().replace(/\.\d+Z/, 'Z'),
      eventSource: 'ec2.amazonaws.com',
      eventName: 'RunInstances',
      awsRegion: 'us-east-1',
      sourceIPAddress: '127.0.0.1',
      userAgent: 'casemate-embedded-cloud',
      requestParameters: {
        instancesSet: { items: [{ minCount: 1, maxCount: 1 }] },
        instanceType: 'm7i.large',
      },
      responseElements: {
        requestId: uuid,
        instancesSet: { items: [{ instanceId: id, instanceType: 'm7i.large' }] },
      },
      requestID: uuid,
      eventID: uuid,
      readOnly: false,
      eventType: 'AwsApiCall',
      managementEvent: true,
      recipientAccountId: '000000000000',
      eventCategory: 'Management',
    });
  });

  test('puts nothing while nothing changes, and at most ten at once', async () => {
    const cloud = emulated();
    cloud.shown.push(...ids(7).map(instance));
    start(cloud);
    await looks(cloud, 5);
    expect(cloud.batches).toEqual([10, 10, 1]);
  });

  test('loses nothing when looks and puts fail, and puts nothing twice', async () => {
    const cloud = emulated();
    const [first = '', second = '', third = ''] = ids(3);
    const faults: unknown[] = [];
    cloud.faults.looks = 2;
    cloud.faults.puts = 2;
    cloud.faults.refused.add(second);
    cloud.shown.push(instance(first), instance(second));
    start(cloud, (fault) => faults.push(fault));
    await looks(cloud, 4);
    cloud.shown.push(instance(third));
    await looks(cloud, 10);
    expect(states(cloud.taken).sort()).toEqual(
      [first, second, third].flatMap((id) => [`${id} pending`, `${id} running`]),
    );
    expect(cloud.taken).toHaveLength(9);
    expect(faults.map(String)).toEqual([
      'Error: EC2 is away',
      'Error: EC2 is away',
      'Error: the bus is away',
      'Error: the bus is away',
      'Error: the default bus did not take 1 events',
    ]);
  });

  test('is over once it is stopped', async () => {
    const cloud = emulated();
    const started = start(cloud);
    await looks(cloud, 1);
    await started.stop();
    const { looks: before } = cloud.counts;
    cloud.shown.push(...ids(1).map(instance));
    await sleep(20);
    expect(cloud.counts.looks).toBe(before);
    expect(cloud.taken).toEqual([]);
  });
});
