import { IAMClient } from '@aws-sdk/client-iam';
import { SQSClient } from '@aws-sdk/client-sqs';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  sqs: new SQSClient(retrying),
  rejectedQueueUrl: config.REJECTED_QUEUE_URL,
  table: realTable(config.TABLE_NAME),
  iam: new IAMClient(retrying),
  roleNames: config.ROLE_NAMES,
  instanceArnPrefix: config.INSTANCE_ARN_PREFIX,
  now: () => new Date(),
});
