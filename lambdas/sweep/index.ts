import { EC2Client } from '@aws-sdk/client-ec2';
import { SQSClient } from '@aws-sdk/client-sqs';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  ec2: new EC2Client(retrying),
  sqs: new SQSClient(retrying),
  table: realTable(config.TABLE_NAME),
  observeQueueUrl: config.OBSERVE_QUEUE_URL,
  enforcement: { mode: config.MODE, share: config.ENFORCE_SHARE },
  now: () => new Date(),
});
