import { randomBytes } from 'node:crypto';
import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { createAnnouncer } from '../aws/eventbridge.ts';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  callerIdentity: config.CALLER_IDENTITY,
  table: realTable(config.TABLE_NAME),
  ec2: new EC2Client(retrying),
  announce: createAnnouncer(new EventBridgeClient(retrying), config.BUS_NAME),
  apiOrigin: config.API_ORIGIN,
  now: () => new Date(),
  randomBytes,
});
