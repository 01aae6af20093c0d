import { EC2Client } from '@aws-sdk/client-ec2';
import { realQueueDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realQueueDeps(config),
  ec2: new EC2Client(retrying),
  mode: config.MODE,
  probationEgress: config.PROBATION_EGRESS,
});
