import { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import { EC2Client } from '@aws-sdk/client-ec2';
import { bundledProfiles } from '../bundled-profiles.ts';
import { realQueueDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realQueueDeps(config),
  ec2: new EC2Client(retrying),
  enforcement: { mode: config.MODE, share: config.ENFORCE_SHARE },
  probationEgress: config.PROBATION_EGRESS,
  profiles: bundledProfiles(config.PROBATION_EGRESS),
  guards: config.GUARDS,
  cutTrackedFlows: config.CUT_TRACKED_FLOWS,
  detachElasticIps: config.DETACH_ELASTIC_IPS,
  ...(config.STANDBY ? { autoScaling: new AutoScalingClient(retrying) } : {}),
  replacementsPerHour: config.REPLACEMENTS_PER_HOUR,
  ownQueueUrl: config.OWN_QUEUE_URL,
});
