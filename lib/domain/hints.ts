import * as z from 'zod';
import { type Envelope, type Parsed, parseDetail } from './envelope.ts';
import { groupId, instanceId, interfaceId, volumeId } from './ids.ts';

/**
 * What an event hints at: things that want looking at. An event is never believed for more than that, so
 * a duplicate, late or reordered one costs one look and changes nothing.
 */
export interface Hints {
  readonly instanceIds: readonly string[];
  readonly volumeIds: readonly string[];
  readonly interfaceIds: readonly string[];
  readonly groupIds: readonly string[];
  /** A sweep asks: an absent VM counts as missed, and an unchanged one is announced again. */
  readonly sweep: boolean;
  readonly resync: boolean;
}

const NONE: Hints = {
  instanceIds: [],
  volumeIds: [],
  interfaceIds: [],
  groupIds: [],
  sweep: false,
  resync: false,
};

/** EC2's own state change. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-state-changes.html */
const stateChange = z.looseObject({ 'instance-id': instanceId, state: z.string() });

/** https://docs.aws.amazon.com/ebs/latest/userguide/ebs-cloud-watch-events.html */
const volumeNotification = z.looseObject({ event: z.string(), result: z.string() });

const cloudTrailCall = z.looseObject({
  eventSource: z.literal('ec2.amazonaws.com'),
  eventName: z.string(),
  requestParameters: z.record(z.string(), z.unknown()).nullish(),
  responseElements: z.record(z.string(), z.unknown()).nullish(),
});

const sweepHint = z.strictObject({
  instanceIds: z.array(instanceId).min(1).max(200),
  resync: z.boolean(),
});
export type SweepHint = z.infer<typeof sweepHint>;

export const SWEEP_SOURCE = 'casemate.sweep';
export const SWEEP_DETAIL_TYPE = 'VM Hint';

/** Reads the hints out of any event that the rules of the default bus, or a sweep, put in the queue. */
export function hintsOf(event: Envelope): Parsed<Hints> {
  const type = event['detail-type'];
  switch (event.source) {
    case 'aws.ec2':
      if (type === 'EC2 Instance State-change Notification') {
        return map(parseDetail(event, stateChange), (d) => ({ ...NONE, instanceIds: [d['instance-id']] }));
      }
      if (type === 'EBS Volume Notification') {
        return map(parseDetail(event, volumeNotification), () => ({ ...NONE, ...idsIn(event['resources']) }));
      }
      if (type === 'AWS API Call via CloudTrail') {
        return map(parseDetail(event, cloudTrailCall), (d) => ({
          ...NONE,
          ...idsIn([d.requestParameters, d.responseElements]),
        }));
      }
      break;
    case SWEEP_SOURCE:
      if (type === SWEEP_DETAIL_TYPE) {
        return map(parseDetail(event, sweepHint), (d) => ({ ...NONE, ...d, sweep: true }));
      }
      break;
  }
  return { kind: 'reject', reason: 'EVENT_UNKNOWN', detail: `${event.source} / ${type}`.slice(0, 200) };
}

/**
 * Every EC2 id in a value, wherever it stands. A CloudTrail record holds ids in a different place for each
 * call and each service's own calls; since an id only causes a look, finding one too many costs nothing,
 * and a list of paths would miss the next call.
 */
function idsIn(value: unknown): Pick<Hints, 'instanceIds' | 'volumeIds' | 'interfaceIds' | 'groupIds'> {
  const found = {
    i: new Set<string>(),
    vol: new Set<string>(),
    eni: new Set<string>(),
    sg: new Set<string>(),
  };
  const note = (text: string): void => {
    const id = text.slice(text.lastIndexOf('/') + 1); // an ARN ends in the id
    if (instanceId.safeParse(id).success) found.i.add(id);
    else if (volumeId.safeParse(id).success) found.vol.add(id);
    else if (interfaceId.safeParse(id).success) found.eni.add(id);
    else if (groupId.safeParse(id).success) found.sg.add(id);
  };
  // A stack of our own: an event can nest deeper than calls can, and one that overflowed them would take
  // its whole batch with it.
  const open: unknown[] = [value];
  while (open.length > 0) {
    const node = open.pop();
    if (typeof node === 'string') note(node);
    else if (node !== null && typeof node === 'object') {
      const inner: unknown[] = Array.isArray(node) ? node : Object.values(node);
      for (let i = inner.length - 1; i >= 0; i--) open.push(inner[i]);
    }
  }
  return {
    instanceIds: [...found.i],
    volumeIds: [...found.vol],
    interfaceIds: [...found.eni],
    groupIds: [...found.sg],
  };
}

function map<A, B>(parsed: Parsed<A>, f: (value: A) => B): Parsed<B> {
  return parsed.kind === 'ok' ? { kind: 'ok', value: f(parsed.value) } : parsed;
}
