import { EC2Client } from '@aws-sdk/client-ec2';
import { bundledPolicyEngine } from '../bundled-policies.ts';
import { realQueueDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realQueueDeps(config),
  ec2: new EC2Client(retrying),
  policy: bundledPolicyEngine(),
  region: config.AWS_REGION,
});
