/**
 * The cloud that a burst of launches meets, in a process of its own so that what it keeps is not counted as
 * memory of the functions: EC2, KMS, the buses and the queues here, the table of test/world. Everything is
 * found by its id, so that the cloud answers as fast for 10,000 VMs as for one.
 *
 * Started by bench/pipeline.ts, which passes on what the functions send.
 */
import { randomUUID } from 'node:crypto';
import * as dynamodbCommands from '@aws-sdk/client-dynamodb';
import type { PutEventsCommandInput } from '@aws-sdk/client-eventbridge';
import { createAgent, enrolled, sealReport, type TestAgent } from '../test/world/agent.ts';
import { fakeDynamoDb } from '../test/world/dynamodb.ts';
import { ACCOUNT, REGION } from '../test/world/ec2.ts';
import { stateChange } from './function-call.ts';

export type QueueName = 'observe-vm' | 'issue-disk-keys' | 'ingest-report' | 'apply-isolation';

/** `states`: EC2's two state changes of a launch alone; `everything`: also what EBS and CloudTrail tell of it. */
export type Telling = 'states' | 'everything';

export interface Message {
  readonly id: string;
  readonly body: string;
  receives: number;
}

/** What stands when a burst is over. */
export interface Standing {
  readonly vms: number;
  readonly managed: number;
  readonly keys: number;
  readonly fenced: number;
  readonly open: number;
  readonly restored: number;
  readonly rejected: number;
  readonly rows: number;
}

export type Request =
  | {
      readonly service: 'ec2' | 'dynamodb' | 'kms' | 'eventbridge' | 'sqs';
      readonly command: string;
      readonly input: never;
    }
  | { readonly service: 'launch'; readonly from: number; readonly count: number; readonly telling: Telling }
  | { readonly service: 'report' }
  | { readonly service: 'receive'; readonly queue: QueueName; readonly max: number; readonly window: boolean }
  | { readonly service: 'return'; readonly queue: QueueName; readonly messages: readonly Message[] }
  | { readonly service: 'standing' };

interface Vm {
  readonly id: string;
  readonly eni: string;
  readonly root: string;
  readonly data: string;
  groups: string[];
  readonly agent: TestAgent;
}

interface Input {
  readonly Filters?: readonly { readonly Name: string; readonly Values: readonly string[] }[];
  readonly [name: string]: unknown;
}

const VPC = 'vpc-0a1b2c3d4e5f60718';
const ORIGINALS = ['sg-0000aaaa', 'sg-0000bbbb'];
const LAUNCHED_TOGETHER = 20;

const vms = new Map<string, Vm>();
const byInterface = new Map<string, Vm>();
const byVolume = new Map<string, Vm>();
const groups: Record<string, unknown>[] = [];
const queues = new Map<QueueName, Message[]>();
let telling: Telling = 'states';
let rejected = 0;
// Nothing is counted or killed here.
const table = fakeDynamoDb({
  write: async (_name, effect) => effect(),
  read: async () => undefined,
  killAfter: () => undefined,
  revive: () => undefined,
  names: [],
});
const now = () => new Date();
const shared = createAgent('i-00000000'); // a key for each VM would take longer than the burst

function enqueue(queue: QueueName, body: string): void {
  const waiting = queues.get(queue) ?? [];
  queues.set(queue, waiting);
  waiting.push({ id: randomUUID(), body, receives: 0 });
}

const event = (source: string, detailType: string, detail: object, resources: readonly string[] = []) =>
  JSON.stringify({
    version: '0',
    id: randomUUID(),
    'detail-type': detailType,
    source,
    account: ACCOUNT,
    time: now().toISOString(),
    region: REGION,
    resources,
    detail,
  });

const trail = (eventName: string, requestParameters: object, responseElements: object) =>
  event('aws.ec2', 'AWS API Call via CloudTrail', {
    eventVersion: '1.10',
    eventSource: 'ec2.amazonaws.com',
    eventName,
    awsRegion: REGION,
    requestParameters,
    responseElements,
  });

function launch(from: number, count: number): void {
  const launched: Vm[] = [];
  for (let n = from; n < from + count; n++) {
    const hex = n.toString(16).padStart(8, '0');
    const vm: Vm = {
      id: `i-${hex}`,
      eni: `eni-${hex}`,
      root: `vol-a${hex.slice(1)}`,
      data: `vol-b${hex.slice(1)}`,
      groups: [...ORIGINALS],
      agent: { ...shared, instanceId: `i-${hex}` },
    };
    vms.set(vm.id, vm);
    byInterface.set(vm.eni, vm);
    byVolume.set(vm.root, vm);
    byVolume.set(vm.data, vm);
    launched.push(vm);
  }
  const tell = (body: string) => enqueue('observe-vm', body);
  if (telling === 'everything') {
    for (let i = 0; i < launched.length; i += LAUNCHED_TOGETHER) {
      const items = launched.slice(i, i + LAUNCHED_TOGETHER).map((vm) => ({ instanceId: vm.id }));
      tell(trail('RunInstances', {}, { instancesSet: { items } }));
    }
    for (const vm of launched) {
      for (const volume of [vm.root, vm.data]) {
        tell(
          event(
            'aws.ec2',
            'EBS Volume Notification',
            { event: 'createVolume', result: 'available', cause: '', 'request-id': '' },
            [`arn:aws:ec2:${REGION}:${ACCOUNT}:volume/${volume}`],
          ),
        );
      }
    }
  }
  for (const state of ['pending', 'running']) {
    for (const vm of launched) tell(JSON.stringify(stateChange(vm.id, state, ACCOUNT, REGION)));
  }
}

/** Every agent enrolled, and sends its first report. */
function report(): void {
  const world = { now, rows: table.rows } as unknown as Parameters<typeof enrolled>[0];
  for (const vm of vms.values()) {
    enrolled(world, vm.agent);
    enqueue('ingest-report', event('casemate.agent', 'Capability Report', sealReport({ now }, vm.agent, 1)));
  }
}

/** The VMs that a filter names, found by id. */
function select({ Filters = [] }: Input): readonly Vm[] {
  const [filter] = Filters;
  if (!filter || Filters.length > 1) throw new Error('a look at all VMs is not of a burst');
  if (filter.Values.length > 200) throw new Error('a filter takes at most 200 values');
  const index: Record<string, ReadonlyMap<string, Vm>> = {
    'instance-id': vms,
    'attachment.instance-id': vms,
    'volume-id': byVolume,
    'network-interface-id': byInterface,
  };
  const map = index[filter.Name];
  if (!map) throw new Error(`EC2 here does not know the filter ${filter.Name}`);
  return [...new Set(filter.Values.flatMap((value) => map.get(value) ?? []))];
}

const networkInterface = (vm: Vm) => ({
  NetworkInterfaceId: vm.eni,
  VpcId: VPC,
  InterfaceType: 'interface',
  RequesterManaged: false,
  Groups: vm.groups.map((GroupId) => ({ GroupId })),
  Attachment: { InstanceId: vm.id },
});

const launchTime = new Date();

const ec2: Record<string, (input: Input) => object> = {
  DescribeInstancesCommand: (input) => ({
    Reservations: select(input).map((vm) => ({
      OwnerId: ACCOUNT,
      Instances: [
        {
          InstanceId: vm.id,
          State: { Name: 'running' },
          LaunchTime: launchTime,
          InstanceType: 'm6a.large',
          ImageId: 'ami-0123456789abcdef0',
          VpcId: VPC,
          RootDeviceName: '/dev/xvda',
          Tags: [{ Key: 'casemate:protect', Value: 'true' }],
          CpuOptions: {},
          NetworkInterfaces: [networkInterface(vm)],
        },
      ],
    })),
  }),
  DescribeVolumesCommand: (input) => ({
    Volumes: select(input).flatMap((vm) =>
      [
        [vm.root, '/dev/xvda'],
        [vm.data, '/dev/sdf'],
      ].map(([VolumeId, Device]) => ({
        VolumeId,
        Size: 8,
        SnapshotId: '',
        MultiAttachEnabled: false,
        Attachments: [{ InstanceId: vm.id, Device }],
      })),
    ),
  }),
  DescribeNetworkInterfacesCommand: (input) => ({ NetworkInterfaces: select(input).map(networkInterface) }),
  DescribeSecurityGroupsCommand: () => ({ SecurityGroups: groups }),
  CreateSecurityGroupCommand: (input) => {
    if (groups.some((group) => group['GroupName'] === input['GroupName']))
      throw named('InvalidGroup.Duplicate');
    const GroupId = `sg-${String(groups.length + 1).padStart(8, '0')}`;
    const [specification] = input['TagSpecifications'] as { readonly Tags: unknown }[];
    groups.push({
      GroupId,
      GroupName: input['GroupName'],
      VpcId: VPC,
      Tags: specification?.Tags,
      IpPermissions: [],
      IpPermissionsEgress: [],
    });
    return { GroupId };
  },
  AuthorizeSecurityGroupEgressCommand: (input) => {
    const group = groups.find((g) => g['GroupId'] === input['GroupId']);
    if (group) (group['IpPermissionsEgress'] as unknown[]).push(...(input['IpPermissions'] as unknown[]));
    return {};
  },
  ModifyNetworkInterfaceAttributeCommand: (input) => {
    const vm = byInterface.get(String(input['NetworkInterfaceId']));
    if (!vm) throw named('InvalidNetworkInterfaceID.NotFound');
    vm.groups = [...(input['Groups'] as string[])];
    if (telling === 'everything') {
      enqueue(
        'observe-vm',
        trail('ModifyNetworkInterfaceAttribute', { networkInterfaceId: vm.eni }, { _return: true }),
      );
    }
    return {};
  },
};

function named(name: string): Error {
  return Object.assign(new Error(name), { name });
}

/** What the rules of the deployed bus do. */
function deliver(detailType: string): readonly QueueName[] {
  if (detailType === 'VM Changed') return ['issue-disk-keys', 'ingest-report', 'apply-isolation'];
  if (detailType === 'Posture Changed') return ['apply-isolation'];
  return [];
}

async function answer(request: Request): Promise<unknown> {
  switch (request.service) {
    case 'ec2': {
      const run = ec2[request.command];
      if (!run) throw new Error(`EC2 here does not know ${request.command}`);
      return run(request.input);
    }
    case 'dynamodb': {
      // biome-ignore lint/performance/noDynamicNamespaceImportAccess: whatever the functions send
      const Command = dynamodbCommands[request.command as 'PutItemCommand'];
      return table.client.send(new Command(request.input));
    }
    case 'kms':
      return { CiphertextBlob: Buffer.from(randomUUID()) };
    case 'eventbridge': {
      const { Entries = [] } = request.input as PutEventsCommandInput;
      for (const { Source = '', DetailType = '', Detail = '' } of Entries) {
        for (const queue of deliver(DetailType))
          enqueue(queue, event(Source, DetailType, JSON.parse(Detail)));
      }
      return { Entries: Entries.map(() => ({ EventId: randomUUID() })) };
    }
    case 'sqs':
      rejected++;
      return {};
    case 'launch':
      telling = request.telling;
      return launch(request.from, request.count);
    case 'report':
      return report();
    case 'receive': {
      const waiting = queues.get(request.queue) ?? [];
      // While the batch window is open, a batch waits until it is full.
      if (request.window && waiting.length < request.max) return [];
      const batch = waiting.splice(0, request.max);
      for (const message of batch) message.receives++;
      return batch;
    }
    case 'return':
      queues.get(request.queue)?.push(...request.messages);
      return;
    case 'standing':
      return standing();
  }
}

function standing(): Standing {
  const count = (kind: string, holds: (row: Record<string, unknown>) => boolean) =>
    [...table.rows].filter(([pk, row]) => pk.startsWith(kind) && holds(row)).length;
  const all = [...vms.values()];
  return {
    vms: all.length,
    managed: count('vm#', (row) => row['managed'] === true),
    keys: count('disk#', (row) => (row['generations'] as unknown[] | undefined)?.length === 1),
    fenced: count('isolation#', (row) => row['profile'] === 'probation' && row['applied'] === true),
    open: count('isolation#', (row) => row['profile'] === 'workload' && row['applied'] === true),
    restored: all.filter((vm) => [...vm.groups].sort().join() === ORIGINALS.join()).length,
    rejected,
    rows: table.rows.size,
  };
}

process.on('message', ({ id, request }: { readonly id: number; readonly request: Request }) => {
  answer(request).then(
    (result) => process.send?.({ id, result }),
    (error: Error & { readonly CancellationReasons?: unknown }) =>
      process.send?.({
        id,
        error: { name: error.name, message: error.message, CancellationReasons: error.CancellationReasons },
      }),
  );
});
process.once('disconnect', () => process.exit(0));
