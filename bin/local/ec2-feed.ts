import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type EC2Client,
  paginateDescribeInstances,
  paginateDescribeSecurityGroupRules,
  paginateDescribeSecurityGroups,
  paginateDescribeVolumes,
  type Tag,
} from '@aws-sdk/client-ec2';
import {
  type EventBridgeClient,
  PutEventsCommand,
  type PutEventsRequestEntry,
} from '@aws-sdk/client-eventbridge';
import { type AwsEvent, EMPTY, eventsBetween, type Snapshot } from './ec2-events.ts';
import { ACCOUNT, REGION } from './emulators.ts';

export interface Feed {
  stop(): Promise<void>;
}

/** https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html */
const ENTRIES_MAX = 10;

/**
 * Watches the emulated EC2 and puts what changed on the default bus, as EC2 itself would. Each look is
 * compared with the one whose events the bus took, so a look that fails loses nothing; events that the bus
 * did not take are put again, and only those.
 */
export function startFeed(
  ec2: EC2Client,
  bus: EventBridgeClient,
  onError: (error: unknown) => void,
  everyMs = 300,
): Feed {
  const stop = new AbortController();
  const watch = async () => {
    let before = EMPTY;
    let waiting: PutEventsRequestEntry[] = [];
    while (!stop.signal.aborted) {
      try {
        if (waiting.length === 0) {
          const after = await look(ec2);
          const at = new Date();
          waiting = eventsBetween(before, after).map((event) => toEntry(event, at));
          before = after;
        }
        while (waiting.length > 0 && !stop.signal.aborted) {
          const Entries = waiting.slice(0, ENTRIES_MAX);
          const answer = await bus.send(new PutEventsCommand({ Entries }), { abortSignal: stop.signal });
          const refused = Entries.filter((_, i) => answer.Entries?.[i]?.ErrorCode !== undefined);
          waiting = [...refused, ...waiting.slice(ENTRIES_MAX)];
          if (refused.length > 0) throw new Error(`the default bus did not take ${refused.length} events`);
        }
      } catch (error) {
        if (!stop.signal.aborted) onError(error);
      }
      await sleep(everyMs, undefined, { signal: stop.signal }).catch(() => undefined);
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

/** What the bus gets; it adds id, version, account and Region, as EventBridge does. */
function toEntry(event: AwsEvent, at: Date): PutEventsRequestEntry {
  const entry = { Source: 'aws.ec2', DetailType: event.detailType, Time: at };
  switch (event.detailType) {
    case 'EC2 Instance State-change Notification':
    case 'EBS Volume Notification':
      return {
        ...entry,
        Resources: event.resources.map((id) => `arn:aws:ec2:${REGION}:${ACCOUNT}:${id}`),
        Detail: JSON.stringify(
          event.detailType === 'EBS Volume Notification'
            ? { ...event.detail, 'request-id': randomUUID() }
            : event.detail,
        ),
      };
    case 'AWS API Call via CloudTrail':
      return { ...entry, Resources: [], Detail: JSON.stringify(trailRecord(event, at)) };
  }
}

/** https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html */
function trailRecord(
  { detail }: Extract<AwsEvent, { detailType: 'AWS API Call via CloudTrail' }>,
  at: Date,
): object {
  const requestId = randomUUID();
  return {
    eventVersion: '1.11',
    userIdentity: {
      type: 'AssumedRole',
      principalId: 'AROAEXAMPLE:operator',
      arn: `arn:aws:sts::${ACCOUNT}:assumed-role/operator/operator`,
      accountId: ACCOUNT,
    },
    eventTime: at.toISOString().replace(/\.\d+Z$/, 'Z'),
    eventSource: 'ec2.amazonaws.com',
    eventName: detail.eventName,
    awsRegion: REGION,
    sourceIPAddress: '127.0.0.1',
    userAgent: 'casemate-embedded-cloud',
    requestParameters: detail.requestParameters,
    responseElements: { requestId, ...detail.responseElements },
    requestID: requestId,
    eventID: randomUUID(),
    readOnly: false,
    eventType: 'AwsApiCall',
    managementEvent: true,
    recipientAccountId: ACCOUNT,
    eventCategory: 'Management',
  };
}

/** One look at the emulated EC2. */
async function look(ec2: EC2Client): Promise<Snapshot> {
  const instances: Record<string, Snapshot['instances'][string]> = {};
  const tags: Record<string, Readonly<Record<string, string>>> = {};
  for await (const page of paginateDescribeInstances({ client: ec2, pageSize: 1000 }, {})) {
    for (const instance of page.Reservations?.flatMap((r) => r.Instances ?? []) ?? []) {
      const id = instance.InstanceId ?? '';
      instances[id] = {
        state: instance.State?.Name ?? '',
        instanceType: instance.InstanceType ?? '',
        interfaces: Object.fromEntries(
          (instance.NetworkInterfaces ?? []).map((eni) => [
            eni.NetworkInterfaceId ?? '',
            {
              deviceIndex: eni.Attachment?.DeviceIndex ?? 0,
              attachmentId: eni.Attachment?.AttachmentId ?? '',
              groups: (eni.Groups ?? []).map((group) => group.GroupId ?? '').sort(),
            },
          ]),
        ),
      };
      tags[id] = toRecord(instance.Tags);
    }
  }
  const volumes: Record<string, Snapshot['volumes'][string]> = {};
  for await (const page of paginateDescribeVolumes({ client: ec2 }, {})) {
    for (const volume of page.Volumes ?? []) {
      const id = volume.VolumeId ?? '';
      volumes[id] = Object.fromEntries(
        (volume.Attachments ?? []).map((a) => [a.InstanceId ?? '', a.Device ?? '']),
      );
      tags[id] = toRecord(volume.Tags);
    }
  }
  const groups: string[] = [];
  for await (const page of paginateDescribeSecurityGroups({ client: ec2 }, {})) {
    for (const group of page.SecurityGroups ?? []) groups.push(group.GroupId ?? '');
  }
  const rules: Record<string, Snapshot['rules'][string]> = {};
  for await (const page of paginateDescribeSecurityGroupRules({ client: ec2 }, {})) {
    for (const rule of page.SecurityGroupRules ?? []) {
      rules[rule.SecurityGroupRuleId ?? ''] = {
        groupId: rule.GroupId ?? '',
        isEgress: rule.IsEgress ?? false,
        ipProtocol: rule.IpProtocol ?? '',
        fromPort: rule.FromPort ?? -1,
        toPort: rule.ToPort ?? -1,
        ...(rule.CidrIpv4 ? { cidrIpv4: rule.CidrIpv4 } : {}),
        ...(rule.CidrIpv6 ? { cidrIpv6: rule.CidrIpv6 } : {}),
        ...(rule.PrefixListId ? { prefixListId: rule.PrefixListId } : {}),
        ...(rule.ReferencedGroupInfo?.GroupId ? { referencedGroupId: rule.ReferencedGroupInfo.GroupId } : {}),
      };
    }
  }
  return { instances, volumes, tags, groups, rules };
}

function toRecord(tags: readonly Tag[] = []): Record<string, string> {
  return Object.fromEntries(tags.map((tag) => [tag.Key ?? '', tag.Value ?? '']));
}
