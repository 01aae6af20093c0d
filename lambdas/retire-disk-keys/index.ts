import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { S3Client } from '@aws-sdk/client-s3';
import { createAnnouncer } from '../aws/eventbridge.ts';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  table: realTable(config.TABLE_NAME),
  ec2: new EC2Client(retrying),
  s3: new S3Client(retrying),
  bucket: config.HEADER_BUCKET,
  announce: createAnnouncer(new EventBridgeClient(retrying), config.BUS_NAME),
  now: () => new Date(),
});
