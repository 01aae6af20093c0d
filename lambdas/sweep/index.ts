import { EC2Client } from '@aws-sdk/client-ec2';
import { SQSClient } from '@aws-sdk/client-sqs';
import { bundledProfiles } from '../bundled-profiles.ts';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

/** Which profile a VM has does not hang on what its rules let out. */
const NO_EGRESS = { kind: 'endpoints' as const, securityGroupIds: [], prefixListIds: [] };

export const handler = createHandler({
  ...realTelemetry(),
  ec2: new EC2Client(retrying),
  sqs: new SQSClient(retrying),
  table: realTable(config.TABLE_NAME),
  observeQueueUrl: config.OBSERVE_QUEUE_URL,
  profiles: bundledProfiles(NO_EGRESS),
  deniesCredentials: config.DENIES_CREDENTIALS,
  enforcement: { mode: config.MODE, share: config.ENFORCE_SHARE },
  now: () => new Date(),
});
