import { randomUUID } from 'node:crypto';
import { KMSClient } from '@aws-sdk/client-kms';
import { bundledPolicyEngine } from '../bundled-policies.ts';
import { realQueueDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realQueueDeps(config),
  kms: new KMSClient(retrying),
  diskKeyId: config.DISK_KEY_ID,
  policy: bundledPolicyEngine(),
  randomUuid: randomUUID,
});
