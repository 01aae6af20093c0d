import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type EC2Client,
  type Instance,
  paginateDescribeInstances,
  paginateDescribeSecurityGroups,
  paginateDescribeVolumes,
} from '@aws-sdk/client-ec2';
import {
  type EventBridgeClient,
  PutEventsCommand,
  type PutEventsRequestEntry,
} from '@aws-sdk/client-eventbridge';
import { ACCOUNT, REGION } from './emulators.ts';

/** What of the emulated EC2 an event could tell about. */
export interface Snapshot {
  readonly instances: ReadonlyMap<
    string,
    {
      readonly state: string;
      readonly tags: Readonly<Record<string, string>>;
      /** Interface to its groups, joined in order. */
      readonly interfaces: Readonly<Record<string, string>>;
      readonly volumes: readonly string[];
    }
  >;
  readonly volumes: ReadonlySet<string>;
  /** Group to its rules, as one string. */
  readonly groups: ReadonlyMap<string, string>;
}

/** An event as EC2, EBS or CloudTrail puts it on the default bus, without the envelope's own members. */
export interface AwsEvent {
  readonly detailType:
    | 'EC2 Instance State-change Notification'
    | 'EBS Volume Notification'
    | 'AWS API Call via CloudTrail';
  readonly resources: readonly string[];
  readonly detail: Record<string, unknown>;
}

export const EMPTY: Snapshot = { instances: new Map(), volumes: new Set(), groups: new Map() };

/** States on the way to each state, for what changed between two looks. */
const ON_THE_WAY: Readonly<Record<string, readonly string[]>> = {
  running: ['pending'],
  stopped: ['stopping'],
  terminated: ['shutting-down'],
};

/** The events that lie between two snapshots. Pure: the same two always give the same events. */
export function eventsBetween(before: Snapshot, after: Snapshot): readonly AwsEvent[] {
  const events: AwsEvent[] = [];
  for (const volume of after.volumes)
    if (!before.volumes.has(volume)) events.push(volumeEvent(volume, 'createVolume', 'available'));
  for (const volume of before.volumes)
    if (!after.volumes.has(volume)) events.push(volumeEvent(volume, 'deleteVolume', 'deleted'));
  for (const [id, now] of after.instances) {
    const was = before.instances.get(id);
    if (now.state !== was?.state) {
      const way = (ON_THE_WAY[now.state] ?? []).filter((state) => state !== was?.state);
      for (const state of [...way, now.state]) events.push(stateEvent(id, state));
    }
    if (!was) {
      events.push(callEvent('RunInstances', {}, { instancesSet: { items: [{ instanceId: id }] } }));
      continue;
    }
    events.push(...tagEvents(id, was.tags, now.tags));
    for (const [eni, groups] of Object.entries(now.interfaces)) {
      const had = was.interfaces[eni];
      if (had === undefined)
        events.push(callEvent('AttachNetworkInterface', { instanceId: id, networkInterfaceId: eni }));
      else if (had !== groups) {
        const groupSet = { items: groups.split(',').map((groupId) => ({ groupId })) };
        events.push(callEvent('ModifyNetworkInterfaceAttribute', { networkInterfaceId: eni, groupSet }));
      }
    }
    for (const volumeId of now.volumes) {
      if (!was.volumes.includes(volumeId))
        events.push(callEvent('AttachVolume', { instanceId: id, volumeId }));
    }
    for (const volumeId of was.volumes) {
      if (!now.volumes.includes(volumeId))
        events.push(callEvent('DetachVolume', { instanceId: id, volumeId }));
    }
  }
  for (const [groupId, rules] of after.groups) {
    const had = before.groups.get(groupId);
    if (had !== undefined && had !== rules) {
      // Which of the calls it was does not show in a snapshot; the ids stand in the same place in each.
      events.push(
        callEvent(
          'AuthorizeSecurityGroupEgress',
          { groupId },
          { securityGroupRuleSet: { items: [{ groupId }] } },
        ),
      );
    }
  }
  return events;
}

/** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instance-state-changes.html */
function stateEvent(id: string, state: string): AwsEvent {
  return {
    detailType: 'EC2 Instance State-change Notification',
    resources: [`arn:aws:ec2:${REGION}:${ACCOUNT}:instance/${id}`],
    detail: { 'instance-id': id, state },
  };
}

/** https://docs.aws.amazon.com/ebs/latest/userguide/ebs-cloud-watch-events.html */
function volumeEvent(id: string, event: string, result: string): AwsEvent {
  return {
    detailType: 'EBS Volume Notification',
    resources: [`arn:aws:ec2:${REGION}:${ACCOUNT}:volume/${id}`],
    detail: { result, cause: '', event, 'request-id': randomUUID() },
  };
}

/** https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html */
function callEvent(
  eventName: string,
  requestParameters: object,
  responseElements: object = { _return: true },
): AwsEvent {
  return {
    detailType: 'AWS API Call via CloudTrail',
    resources: [],
    detail: {
      eventVersion: '1.10',
      userIdentity: { type: 'AssumedRole', accountId: ACCOUNT },
      eventSource: 'ec2.amazonaws.com',
      eventName,
      awsRegion: REGION,
      requestParameters,
      responseElements,
      eventID: randomUUID(),
      eventType: 'AwsApiCall',
      managementEvent: true,
      recipientAccountId: ACCOUNT,
    },
  };
}

function tagEvents(
  id: string,
  was: Readonly<Record<string, string>>,
  now: Readonly<Record<string, string>>,
): AwsEvent[] {
  const items = (entries: [string, string][]) => ({ items: entries.map(([key, value]) => ({ key, value })) });
  const resourcesSet = { items: [{ resourceId: id }] };
  const added = Object.entries(now).filter(([key, value]) => was[key] !== value);
  const removed = Object.entries(was).filter(([key]) => !(key in now));
  return [
    ...(added.length > 0 ? [callEvent('CreateTags', { resourcesSet, tagSet: items(added) })] : []),
    ...(removed.length > 0 ? [callEvent('DeleteTags', { resourcesSet, tagSet: items(removed) })] : []),
  ];
}

async function look(ec2: EC2Client): Promise<Snapshot> {
  const instances = new Map<string, Snapshot['instances'] extends ReadonlyMap<string, infer V> ? V : never>();
  for await (const page of paginateDescribeInstances({ client: ec2, pageSize: 1000 }, {})) {
    for (const instance of page.Reservations?.flatMap((r) => r.Instances ?? []) ?? []) {
      instances.set(instance.InstanceId ?? '', {
        state: instance.State?.Name ?? '',
        tags: Object.fromEntries((instance.Tags ?? []).map((t) => [t.Key ?? '', t.Value ?? ''])),
        interfaces: interfacesOf(instance),
        volumes: (instance.BlockDeviceMappings ?? []).map((m) => m.Ebs?.VolumeId ?? ''),
      });
    }
  }
  const volumes = new Set<string>();
  for await (const page of paginateDescribeVolumes({ client: ec2 }, {})) {
    for (const volume of page.Volumes ?? []) volumes.add(volume.VolumeId ?? '');
  }
  const groups = new Map<string, string>();
  for await (const page of paginateDescribeSecurityGroups({ client: ec2 }, {})) {
    for (const group of page.SecurityGroups ?? []) {
      groups.set(group.GroupId ?? '', JSON.stringify([group.IpPermissions, group.IpPermissionsEgress]));
    }
  }
  return { instances, volumes, groups };
}

function interfacesOf(instance: Instance): Record<string, string> {
  return Object.fromEntries(
    (instance.NetworkInterfaces ?? []).map((eni) => [
      eni.NetworkInterfaceId ?? '',
      (eni.Groups ?? [])
        .map((g) => g.GroupId ?? '')
        .sort()
        .join(),
    ]),
  );
}

export interface Feed {
  stop(): Promise<void>;
}

const EVERY_MS = 300;
const ENTRIES_MAX = 10;

/**
 * Watches the emulated EC2 and puts what changed on the default bus, as EC2 itself would. A look that
 * fails, or events that the bus did not take, are tried again from the same snapshot: nothing is lost.
 */
export function startFeed(ec2: EC2Client, bus: EventBridgeClient, onError: (error: unknown) => void): Feed {
  const stop = new AbortController();
  const watch = async () => {
    let before = EMPTY;
    while (!stop.signal.aborted) {
      try {
        const after = await look(ec2);
        const events = eventsBetween(before, after);
        for (let i = 0; i < events.length; i += ENTRIES_MAX) {
          const Entries = events.slice(i, i + ENTRIES_MAX).map(toEntry);
          const answer = await bus.send(new PutEventsCommand({ Entries }));
          if (answer.FailedEntryCount) throw new Error(`${answer.FailedEntryCount} events were not taken`);
        }
        before = after;
      } catch (error) {
        if (!stop.signal.aborted) onError(error);
      }
      await sleep(EVERY_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  };
  const done = watch();
  return {
    async stop() {
      stop.abort();
      await done;
    },
  };
}

function toEntry(event: AwsEvent): PutEventsRequestEntry {
  return {
    Source: 'aws.ec2',
    DetailType: event.detailType,
    Resources: [...event.resources],
    Detail: JSON.stringify(event.detail),
    Time: new Date(),
  };
}
