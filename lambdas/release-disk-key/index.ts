import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { KMSClient } from '@aws-sdk/client-kms';
import { createAnnouncer } from '../aws/eventbridge.ts';
import { bundledEvidencePolicies, bundledPolicyEngine } from '../bundled-policies.ts';
import { realSignedDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realSignedDeps(config),
  kms: new KMSClient(retrying),
  diskKeyId: config.DISK_KEY_ID,
  announce: createAnnouncer(new EventBridgeClient(retrying), config.BUS_NAME),
  policy: bundledPolicyEngine(),
  mode: config.MODE,
  nitroPolicy: bundledEvidencePolicies().nitro,
  evidenceMaxAgeSeconds: config.EVIDENCE_MAX_AGE_SECONDS,
});
