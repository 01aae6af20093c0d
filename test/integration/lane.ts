import { randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  DescribeInstancesCommand,
  DescribeNetworkInterfacesCommand,
  DescribeSecurityGroupsCommand,
} from '@aws-sdk/client-ec2';
import { PutEventsCommand } from '@aws-sdk/client-eventbridge';
import { createApi, UnreachableError } from '../../agent/api.ts';
import { type AgentConfig, configSchema } from '../../agent/config.ts';
import { enrol } from '../../agent/enrol.ts';
import { type AgentKey, loadOrCreateKey } from '../../agent/key.ts';
import { seal } from '../../agent/report.ts';
import { ACCOUNT, CREDENTIALS, REGION } from '../../bin/local/emulators.ts';
import { createNetwork, launch, type Network, type VmPlan } from '../../bin/local/vms.ts';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import type { Fact } from '../../lib/domain/fact.ts';
import { canonicalJson } from '../../lib/domain/vm.ts';
import type { Cloud } from './cloud.ts';
import { type Call, type Fate, mutates } from './proxy.ts';

const PLAN: VmPlan = { name: 'lane', inScope: true, interfaces: 2, dataVolumes: 1, sevSnp: false };

/** What a VM that has nothing to hide reports. */
const GOOD_FACTS: readonly Fact[] = [
  { id: 'virt.hypervisor', state: 'present', value: 'KVMKVMKVM', evidence: 'test' },
  { id: 'mem.swap', state: 'absent', evidence: 'test' },
  { id: 'mem.sev-snp.guest', state: 'absent', evidence: 'test' },
];

/**
 * One VM on a way of its own through the pipeline, in a VPC of its own, so that every effect that the
 * pipeline has for it can be told from every other VM's.
 */
export interface Lane {
  readonly instanceId: string;
  readonly network: Network;
  /** Ids that stand in calls for this VM; grows as groups are made for it. */
  readonly ids: Set<string>;
  /** Its effects in order, each with how often it came: `observe-vm PutItem vm #1`. */
  readonly effects: string[];
  /** Its reads, likewise. */
  readonly reads: string[];
  /** What becomes of one of its calls. */
  fate?: (label: string, call: Call) => Fate | undefined;
  readonly agent: TestAgent;
}

interface TestAgent {
  readonly key: AgentKey;
  readonly config: AgentConfig;
  enrol(): Promise<string>;
  report(sequence: number): Promise<void>;
}

export async function createLane(cloud: Cloud, plan: Partial<VmPlan> = {}, within?: Network): Promise<Lane> {
  const network = within ?? (await createNetwork(cloud.ec2));
  const instanceId = await launch(cloud.ec2, network, { ...PLAN, ...plan });
  const instance = (
    await cloud.ec2.send(
      new DescribeInstancesCommand({ Filters: [{ Name: 'instance-id', Values: [instanceId] }] }),
    )
  ).Reservations?.[0]?.Instances?.[0];
  const ids = new Set([
    instanceId,
    ...(within ? [] : [instance?.VpcId ?? '']),
    ...(instance?.NetworkInterfaces ?? []).map((eni) => eni.NetworkInterfaceId ?? ''),
    ...(instance?.BlockDeviceMappings ?? []).map((m) => m.Ebs?.VolumeId ?? ''),
  ]);
  if (ids.has('')) throw new Error(`${instanceId}: the emulated EC2 does not show all of it`);
  return { instanceId, network, ids, effects: [], reads: [], agent: createAgent(cloud, instanceId) };
}

/** An agent with a key of its own, made of the real agent's parts, that does each step when it is told to. */
export function createAgent(cloud: Cloud, instanceId: string): TestAgent {
  const stateDir = join(cloud.folder, 'test-agents', `${instanceId}-${randomUUID()}`);
  mkdirSync(stateDir, { recursive: true });
  const config = configSchema.parse({
    region: REGION,
    apiUrl: cloud.apiUrl,
    busName: cloud.outputs['BusName'] ?? '',
    stateDir,
    metadataEndpoint: cloud.metadata.endpointOf(instanceId),
    reportIntervalSeconds: 300,
    evidenceIntervalSeconds: 1800,
    spoolMax: 10,
  });
  const key = loadOrCreateKey(stateDir, instanceId);
  const identity = { instanceId, accountId: ACCOUNT, region: REGION };
  const bootId = randomUUID();
  return {
    key,
    config,
    enrol: () => enrol(createApi(config.apiUrl, REGION, CREDENTIALS), config, identity, key),
    async report(sequence) {
      const now = new Date();
      const detail = await seal(
        config,
        identity,
        key,
        {
          schema: 'casemate.report/1',
          accountId: ACCOUNT,
          region: REGION,
          instanceId,
          bootId,
          sequence,
          observedAt: now.toISOString(),
          agentVersion: '0.1.0',
          facts: [...GOOD_FACTS],
        },
        now,
      );
      const Entries = [
        {
          EventBusName: config.busName,
          Source: 'casemate.agent',
          DetailType: 'Capability Report',
          Detail: JSON.stringify(detail),
        },
      ];
      const answer = await cloud.events.send(new PutEventsCommand({ Entries }));
      if (answer.FailedEntryCount) throw new Error('the bus did not take a report');
    },
  };
}

/** Follows the lanes' calls through the proxy and lets each decide on its own. @returns what ends it */
export function watchLanes(cloud: Cloud, lanes: readonly Lane[]): () => void {
  const counts = new Map<Lane, Map<string, number>>();
  const of = (call: Call) => lanes.filter((lane) => [...lane.ids].some((id) => call.body.includes(id)));
  const unrule = cloud.proxy.rule((call) => {
    let fate: Fate | undefined;
    for (const lane of of(call)) {
      const name = labelOf(call);
      const seen = counts.get(lane) ?? new Map<string, number>();
      counts.set(lane, seen);
      const n = (seen.get(name) ?? 0) + 1;
      seen.set(name, n);
      const label = `${name} #${n}`;
      (mutates(call) ? lane.effects : lane.reads).push(label);
      fate ??= lane.fate?.(label, call);
    }
    return fate;
  });
  const unlisten = cloud.proxy.onAnswer((call, answer) => {
    if (call.operation !== 'CreateSecurityGroup') return;
    const group = /<groupId>(sg-[0-9a-f]+)<\/groupId>/.exec(answer)?.[1];
    if (group) for (const lane of of(call)) lane.ids.add(group);
  });
  return () => {
    unrule();
    unlisten();
  };
}

/** What a call does, without what is of one VM alone. */
function labelOf(call: Call): string {
  const what = [call.by, call.operation];
  if (call.operation === 'PutEvents') {
    what.push(...new Set([...call.body.matchAll(/"DetailType":"([^"]+)"/g)].map((m) => m[1] ?? '')));
  } else if (call.operation === 'CreateSecurityGroup') {
    what.push(/GroupName=([\w-]+)/.exec(call.body)?.[1] ?? '');
  } else if (mutates(call)) {
    const kind = /"pk":\{"S":"(\w+)#/.exec(call.body)?.[1];
    if (kind) what.push(kind);
  }
  return what.join(' ');
}

/** Tries until the API takes it, as the agent's own loop does. */
export async function enrolAtLast(lane: Lane, seconds: number): Promise<void> {
  for (const deadline = Date.now() + seconds * 1000; ; await sleep(300)) {
    try {
      await lane.agent.enrol();
      return;
    } catch (error) {
      if (!(error instanceof UnreachableError) || Date.now() > deadline) throw error;
    }
  }
}

export function fencedIn(record: VmRecord | undefined): boolean {
  return (
    record !== undefined &&
    record.disks.size > 0 &&
    record.posture !== undefined &&
    record.isolation?.profile === 'probation' &&
    record.isolation.applied
  );
}

export function letOut(record: VmRecord | undefined): boolean {
  return (
    record?.posture?.verdict === 'compliant' &&
    record.isolation?.profile === 'workload' &&
    record.isolation.applied
  );
}

const VOLATILE =
  /^(version|at|decidedAt|changedAt|enrolledAt|issuedAt|sentAt|observedAt|validUntil|firstSeenAt|launchTime|wrappedKey|publicKey|bootId|decisions|late)$/;

/**
 * All that the table and EC2 hold of a lane's VM, without times, random ids and counts of writes and of
 * deliveries (a report that comes twice is counted as late): two VMs that took the same way end in the same.
 */
export async function settled(
  cloud: Cloud,
  lane: Lane,
  items: readonly Record<string, unknown>[],
): Promise<unknown> {
  const { instanceId } = lane;
  const own = items.filter((item) => {
    const text = JSON.stringify(item);
    return !String(item['pk']).startsWith('nonce#') && [...lane.ids].some((id) => text.includes(id));
  });
  const [enis, groups] = await Promise.all([
    cloud.ec2.send(
      new DescribeNetworkInterfacesCommand({
        Filters: [{ Name: 'attachment.instance-id', Values: [instanceId] }],
      }),
    ),
    cloud.ec2.send(new DescribeSecurityGroupsCommand({})),
  ]);
  const names = new Map<string, string>([[instanceId, 'VM']]);
  for (const eni of enis.NetworkInterfaces ?? []) {
    names.set(eni.NetworkInterfaceId ?? '', `ENI ${eni.Attachment?.DeviceIndex}`);
    names.set(eni.VpcId ?? '', 'VPC');
  }
  for (const group of groups.SecurityGroups ?? []) names.set(group.GroupId ?? '', group.GroupName ?? '');
  const vm = own.find((item) => item['pk'] === `vm#${instanceId}`)?.['observation'] as
    | { volumes: { id: string; device: string }[] }
    | undefined;
  for (const volume of vm?.volumes ?? []) names.set(volume.id, `VOLUME ${volume.device}`);
  own
    .filter((item) => item['disk'] !== undefined && item['generations'] !== undefined)
    .forEach((item, i) => void names.set(String(item['disk']), `DISK ${i + 1}`));
  const named = (value: unknown): unknown => {
    if (typeof value === 'string') {
      let text = value;
      for (const [id, name] of names) if (id !== '') text = text.replaceAll(id, name);
      return text;
    }
    if (Array.isArray(value)) {
      // By name: the order of groups and volumes is that of their random ids, that of members the emulator's.
      return value.map(named).sort((a, b) => (canonicalJson(a) < canonicalJson(b) ? -1 : 1));
    }
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(
      Object.entries(value)
        .filter(([key]) => !VOLATILE.test(key))
        .map(([key, member]) => [key, named(member)]),
    );
  };
  return named({
    table: own,
    ec2: (enis.NetworkInterfaces ?? []).map((eni) => ({
      id: eni.NetworkInterfaceId,
      groups: eni.Groups?.map((group) => group.GroupId),
    })),
  });
}
