import type { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import type { EC2Client } from '@aws-sdk/client-ec2';
import type { Enforcement, GuardSettings } from '../../lib/domain/guard.ts';
import type { ProbationEgress, Profiles } from '../../lib/domain/profiles.ts';
import type { Limits } from '../../lib/domain/quotas.ts';
import type { Table } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import type { QueueDeps } from '../queue-function.ts';

export interface Deps extends QueueDeps {
  readonly ec2: EC2Client;
  readonly table: Table;
  readonly announce: Announce;
  readonly enforcement: Enforcement;
  readonly probationEgress: ProbationEgress;
  readonly profiles: Profiles;
  readonly guards: GuardSettings;
  /** Steps of containing a VM beyond its groups; each is off unless somebody wants it. */
  readonly cutTrackedFlows: boolean;
  readonly detachElasticIps: boolean;
  /** Told before a VM of an Auto Scaling group is contained; undefined where that was not asked for. */
  readonly autoScaling?: AutoScalingClient;
  /** In one Auto Scaling group, so many contained VMs are replaced within an hour. */
  readonly replacementsPerHour: number;
  /** The function's own queue, for a look a little later. */
  readonly ownQueueUrl: string;
  readonly now: () => Date;
}

/** What one batch runs with. */
export interface Run extends Deps {
  /** What groups are composed under, for as long as the batch takes. */
  readonly limits: Limits;
}
