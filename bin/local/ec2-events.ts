/** What of the emulated EC2 an event could tell about, by id. */
export interface Snapshot {
  readonly instances: Readonly<
    Record<
      string,
      {
        readonly state: string;
        readonly instanceType: string;
        readonly interfaces: Readonly<
          Record<
            string,
            {
              readonly deviceIndex: number;
              readonly attachmentId: string;
              /** Sorted. */
              readonly groups: readonly string[];
            }
          >
        >;
      }
    >
  >;
  /** The instances that a volume is attached to, each with the device name. */
  readonly volumes: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** Tags of instances and volumes. */
  readonly tags: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** Ids of security groups. */
  readonly groups: readonly string[];
  /** Their rules. */
  readonly rules: Readonly<Record<string, SecurityGroupRule>>;
}

export interface SecurityGroupRule {
  readonly groupId: string;
  readonly isEgress: boolean;
  readonly ipProtocol: string;
  readonly fromPort: number;
  readonly toPort: number;
  readonly cidrIpv4?: string;
  readonly cidrIpv6?: string;
  readonly prefixListId?: string;
  readonly referencedGroupId?: string;
}

/**
 * What an event of EC2, EBS or CloudTrail says of a change; what every event of its kind has besides (ids of
 * the event and the request, times, account, Region, who called) is added when it is put on the bus.
 */
export type AwsEvent =
  | {
      /** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-state-changes.html */
      readonly detailType: 'EC2 Instance State-change Notification';
      /** `instance/<id>`, the end of the ARN. */
      readonly resources: readonly [string];
      readonly detail: { readonly 'instance-id': string; readonly state: string };
    }
  | {
      /** https://docs.aws.amazon.com/ebs/latest/userguide/ebs-cloud-watch-events.html */
      readonly detailType: 'EBS Volume Notification';
      /** `volume/<id>`, the end of the ARN. */
      readonly resources: readonly [string];
      readonly detail: { readonly result: string; readonly cause: string; readonly event: string };
    }
  | {
      /** https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html */
      readonly detailType: 'AWS API Call via CloudTrail';
      readonly detail: {
        readonly eventName: string;
        readonly requestParameters: Readonly<Record<string, unknown>>;
        readonly responseElements: Readonly<Record<string, unknown>>;
      };
    };

export const EMPTY: Snapshot = { instances: {}, volumes: {}, tags: {}, groups: [], rules: {} };

/** The states that an instance passes before each, for what changed between two looks. */
const ON_THE_WAY: Readonly<Record<string, string>> = {
  running: 'pending',
  stopped: 'stopping',
  terminated: 'shutting-down',
};

const SUCCESS = { _return: true };

/**
 * The events that lie between two looks at EC2, causes before effects. Pure: the same two always give the same
 * events, and two equal ones give none. What appeared and vanished again between them is not seen; of several
 * changes to one thing, the sum is.
 */
export function eventsBetween(before: Snapshot, after: Snapshot): readonly AwsEvent[] {
  const { appeared } = difference(before.instances, after.instances);
  return [
    ...volumeEvents(before, after),
    ...appeared.map(([id, instance]) => runInstances(id, instance.instanceType)),
    ...attachmentEvents(before, after),
    ...interfaceEvents(before, after),
    ...tagEvents(before, after),
    ...ruleEvents(before, after),
    ...stateEvents(before, after),
  ];
}

function stateEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  return Object.entries(after.instances).flatMap(([id, { state }]) => {
    const was = before.instances[id]?.state;
    if (state === was) return [];
    const way = ON_THE_WAY[state];
    return [...(way && way !== was ? [way] : []), state].map((passed) => stateChange(id, passed));
  });
}

function stateChange(id: string, state: string): AwsEvent {
  return {
    detailType: 'EC2 Instance State-change Notification',
    resources: [`instance/${id}`],
    detail: { 'instance-id': id, state },
  };
}

function runInstances(instanceId: string, instanceType: string): AwsEvent {
  const one = { minCount: 1, maxCount: 1 };
  return call(
    'RunInstances',
    { instancesSet: { items: [one] }, instanceType },
    { instancesSet: { items: [{ instanceId, instanceType }] } },
  );
}

function volumeEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  const { appeared, vanished } = difference(before.volumes, after.volumes);
  return [
    ...appeared.map(([id]) => volumeNotification(id, 'createVolume', 'available')),
    ...vanished.map(([id]) => volumeNotification(id, 'deleteVolume', 'deleted')),
  ];
}

function volumeNotification(id: string, event: string, result: string): AwsEvent {
  return {
    detailType: 'EBS Volume Notification',
    resources: [`volume/${id}`],
    detail: { result, cause: '', event },
  };
}

/** Volumes come with RunInstances and go with TerminateInstances, of which no call tells. */
function attachmentEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  const events: AwsEvent[] = [];
  for (const volumeId of new Set([...Object.keys(before.volumes), ...Object.keys(after.volumes)])) {
    const { appeared, vanished } = difference(before.volumes[volumeId] ?? {}, after.volumes[volumeId] ?? {});
    for (const [instanceId, device] of vanished) {
      if (!isAlive(after, instanceId)) continue;
      events.push(call('DetachVolume', { volumeId }, { volumeId, instanceId, device, status: 'detaching' }));
    }
    for (const [instanceId, device] of appeared) {
      if (!(instanceId in before.instances)) continue;
      const requested = { volumeId, instanceId, device };
      events.push(call('AttachVolume', requested, { ...requested, status: 'attaching' }));
    }
  }
  return events;
}

function interfaceEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  const events: AwsEvent[] = [];
  for (const [instanceId, { interfaces }] of Object.entries(after.instances)) {
    const had = before.instances[instanceId]?.interfaces;
    if (!had || !isAlive(after, instanceId)) continue;
    const { appeared, vanished } = difference(had, interfaces);
    for (const [, { attachmentId }] of vanished) {
      events.push(call('DetachNetworkInterface', { attachmentId, force: false }));
    }
    for (const [networkInterfaceId, { deviceIndex, attachmentId }] of appeared) {
      const requested = { networkInterfaceId, instanceId, deviceIndex };
      events.push(call('AttachNetworkInterface', requested, { attachmentId }));
    }
    for (const [networkInterfaceId, { groups }] of Object.entries(interfaces)) {
      const were = had[networkInterfaceId]?.groups;
      if (!were || were.join() === groups.join()) continue;
      const groupSet = { items: groups.map((groupId) => ({ groupId })) };
      events.push(call('ModifyNetworkInterfaceAttribute', { networkInterfaceId, groupSet }));
    }
  }
  return events;
}

/** Tags that came with RunInstances or CreateVolume have no call of their own. */
function tagEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  return Object.entries(after.tags).flatMap(([resourceId, tags]) => {
    const were = before.tags[resourceId];
    if (!were) return [];
    const resourcesSet = { items: [{ resourceId }] };
    const tagSet = (entries: readonly (readonly [string, string])[]) => ({
      items: entries.map(([key, value]) => ({ key, value })),
    });
    const set = Object.entries(tags).filter(([key, value]) => were[key] !== value);
    const { vanished } = difference(were, tags);
    return [
      ...(set.length > 0 ? [call('CreateTags', { resourcesSet, tagSet: tagSet(set) })] : []),
      ...(vanished.length > 0 ? [call('DeleteTags', { resourcesSet, tagSet: tagSet(vanished) })] : []),
    ];
  });
}

/** One call a group and direction; the rules that a group comes and goes with have none. */
function ruleEvents(before: Snapshot, after: Snapshot): AwsEvent[] {
  const { appeared, vanished } = difference(before.rules, after.rules);
  return [
    ...byGroup(vanished.filter(([, { groupId }]) => after.groups.includes(groupId))).map(
      ([name, groupId, rules]) =>
        call(
          `RevokeSecurityGroup${name}`,
          { groupId, ipPermissions: { items: rules.map(([, rule]) => permission(rule)) } },
          SUCCESS,
        ),
    ),
    ...byGroup(appeared.filter(([, { groupId }]) => before.groups.includes(groupId))).map(
      ([name, groupId, rules]) =>
        call(
          `AuthorizeSecurityGroup${name}`,
          { groupId, ipPermissions: { items: rules.map(([, rule]) => permission(rule)) } },
          {
            ...SUCCESS,
            securityGroupRuleSet: {
              items: rules.map(([securityGroupRuleId, rule]) => ({ securityGroupRuleId, ...rule })),
            },
          },
        ),
    ),
  ];
}

type Rules = readonly (readonly [string, SecurityGroupRule])[];

function byGroup(rules: Rules): readonly (readonly ['Egress' | 'Ingress', string, Rules])[] {
  const groups = Map.groupBy(rules, ([, { groupId, isEgress }]) => `${groupId} ${isEgress}`);
  return [...groups.values()].flatMap((list) => {
    const [first] = list;
    return first ? [[first[1].isEgress ? 'Egress' : 'Ingress', first[1].groupId, list] as const] : [];
  });
}

/** As CloudTrail writes it: empty lists stand as `{}`. */
function permission(rule: SecurityGroupRule): object {
  const list = (name: string, value: string | undefined) => (value ? { items: [{ [name]: value }] } : {});
  return {
    ipProtocol: rule.ipProtocol,
    fromPort: rule.fromPort,
    toPort: rule.toPort,
    groups: list('groupId', rule.referencedGroupId),
    ipRanges: list('cidrIp', rule.cidrIpv4),
    ipv6Ranges: list('cidrIpv6', rule.cidrIpv6),
    prefixListIds: list('prefixListId', rule.prefixListId),
  };
}

function call(
  eventName: string,
  requestParameters: Readonly<Record<string, unknown>>,
  responseElements: Readonly<Record<string, unknown>> = SUCCESS,
): AwsEvent {
  return {
    detailType: 'AWS API Call via CloudTrail',
    detail: { eventName, requestParameters, responseElements },
  };
}

function isAlive(snapshot: Snapshot, instanceId: string): boolean {
  const state = snapshot.instances[instanceId]?.state;
  return state !== undefined && state !== 'shutting-down' && state !== 'terminated';
}

function difference<T>(before: Readonly<Record<string, T>>, after: Readonly<Record<string, T>>) {
  return {
    appeared: Object.entries(after).filter(([id]) => !(id in before)),
    vanished: Object.entries(before).filter(([id]) => !(id in after)),
  };
}
