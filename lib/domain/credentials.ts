import * as z from 'zod';
import { instanceId, utcTime } from './ids.ts';
import type { IsolationItem } from './isolation.ts';
import { LIVE_STATES, type VmItem } from './vm.ts';

/** The inline policy of each role that refuses everything to contained VMs. */
export const DENIAL_POLICY = 'casemate-quarantine';

/** The one item of its kind: every role has the same list. */
export const DENIALS_PK = 'credential#denied';

/**
 * Of all inline policies of a role together; IAM does not count white space.
 * https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
 */
export const ROLE_POLICIES_MAX_CHARACTERS = 10_240;

/**
 * Credentials that a VM got before it was terminated live on for hours. AWS says when new ones are there, at least five
 * minutes before the old ones end, but not how long they live; some six and a half hours were seen. Twelve are past it.
 * https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html
 */
export const DENIED_AFTER_END_SECONDS = 12 * 3600;

/** The `credential#denied` item. Written before the roles are changed and after. */
export const denialsItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  denied: z.array(
    z.strictObject({
      instanceId,
      since: utcTime,
      /** Since when the VM is over; it stays denied for a while. */
      over: utcTime.nullable(),
    }),
  ),
  /** Contained, and without room in the policy: their credentials work on. */
  left: z.array(instanceId),
  /** The roles were seen with this very list. */
  applied: z.boolean(),
  /** Roles that could not be changed, with the reason. */
  faults: z.array(
    z.strictObject({ role: z.string(), reason: z.enum(['CREDENTIALS_NO_ROOM', 'CREDENTIALS_NO_ROLE']) }),
  ),
  changedAt: utcTime,
});
export type DenialsItem = z.infer<typeof denialsItem>;
export type Denials = Omit<DenialsItem, 'pk' | 'version'>;
type Denial = Denials['denied'][number];

/** What is known of a VM whose credentials are asked about. */
export interface CredentialFacts {
  readonly vm: VmItem | undefined;
  readonly isolation: IsolationItem | undefined;
}

type Wish =
  | 'deny'
  | 'allow'
  /** It was contained when it ended. */
  | 'over'
  /** Nothing is known: it stays as it is. */
  | 'keep';

/** Whether a VM's credentials are to be refused. */
export function wishFor({ vm, isolation }: CredentialFacts): Wish {
  if (!vm || !isolation) return 'keep';
  const contained = isolation.profile === 'quarantine' && isolation.mode === 'enforce';
  if (!contained) return 'allow';
  return vm.gone || !LIVE_STATES.has(vm.observation.state) ? 'over' : 'deny';
}

/**
 * Whom the policy is to name, after these VMs were looked at. Who is named already stays before who comes, when not
 * all have room: it must not open to one because another was contained.
 *
 * @param room so many fit
 */
export function decideDenials(
  before: Denials | undefined,
  looked: ReadonlyMap<string, CredentialFacts>,
  room: number,
  now: Date,
): Pick<Denials, 'denied' | 'left'> {
  const at = now.toISOString();
  const known = new Map((before?.denied ?? []).map((one) => [one.instanceId, one]));
  const wish = (id: string): Wish => {
    const facts = looked.get(id);
    return facts ? wishFor(facts) : 'keep';
  };
  const kept = [...known.values()].flatMap((one) => keptOf(one, wish(one.instanceId), now));
  const left = new Set(before?.left);
  const wanted = [...new Set([...left, ...looked.keys()])].filter(
    (id) => !known.has(id) && (wish(id) === 'deny' || (wish(id) === 'keep' && left.has(id))),
  );
  const free = Math.max(0, room - kept.length);
  return {
    denied: [...kept, ...wanted.slice(0, free).map((id) => ({ instanceId: id, since: at, over: null }))],
    left: wanted.slice(free),
  };
}

/** A VM that is named, as it is named from now on; none when it is named no more. */
function keptOf(one: Denial, wish: Wish, now: Date): readonly Denial[] {
  switch (wish) {
    case 'allow':
      return [];
    case 'deny':
      return [{ ...one, over: null }];
    case 'keep':
      return [one];
    case 'over': {
      const over = one.over ?? now.toISOString();
      const ended = now.getTime() - Date.parse(over) >= DENIED_AFTER_END_SECONDS * 1000;
      return ended ? [] : [{ ...one, over }];
    }
  }
}

/** What refuses everything to these VMs; undefined where there are none. */
export function denialPolicy(instanceArns: readonly string[]): string | undefined {
  if (instanceArns.length === 0) return undefined;
  return JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      {
        Sid: 'CasemateQuarantine',
        Effect: 'Deny',
        Action: '*',
        Resource: '*',
        // A global key, in the context of a request only where EC2 made the session: nobody else is refused anything.
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-ec2-source-instance-arn
        Condition: { ArnEquals: { 'ec2:SourceInstanceARN': instanceArns } },
      },
    ],
  });
}

/** How many VMs fit into the policy of a role that has no other. */
export function roomFor(instanceArnPrefix: string): number {
  const longest = `${instanceArnPrefix}i-0123456789abcdef0`;
  const one = denialPolicy([longest])?.length ?? 0;
  const two = denialPolicy([longest, longest])?.length ?? 0;
  return 1 + Math.floor((ROLE_POLICIES_MAX_CHARACTERS - one) / (two - one));
}
