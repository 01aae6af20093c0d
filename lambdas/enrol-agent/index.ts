import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { awsIdentityIssuers } from '../../lib/domain/evidence/identity/aws-issuers.ts';
import { createAnnouncer } from '../aws/eventbridge.ts';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  callerIdentity: config.CALLER_IDENTITY,
  table: realTable(config.TABLE_NAME),
  announce: createAnnouncer(new EventBridgeClient(retrying), config.BUS_NAME),
  apiOrigin: config.API_ORIGIN,
  issuers:
    config.IDENTITY_ISSUERS === 'aws'
      ? awsIdentityIssuers()
      : new Map([[config.AWS_REGION, [config.IDENTITY_ISSUERS]]]),
  region: config.AWS_REGION,
  now: () => new Date(),
});
