import { randomUUID } from 'node:crypto';
import type { Context, SQSBatchResponse, SQSEvent } from 'aws-lambda';

export type QueueHandler = (event: SQSEvent, context: Context) => Promise<SQSBatchResponse>;

export const CONTEXT = {
  functionName: 'bench',
  functionVersion: '1',
  invokedFunctionArn: 'arn:aws:lambda:eu-west-1:123456789012:function:bench',
  memoryLimitInMB: '512',
  awsRequestId: '00000000-0000-4000-8000-000000000000',
  getRemainingTimeInMillis: () => 30_000,
} as Context;

/** A batch as Lambda hands it to a function, delivered for the first time. */
export function batchOf(bodies: readonly string[], sentAt = new Date()): SQSEvent {
  return {
    Records: bodies.map((body) => ({
      messageId: randomUUID(),
      receiptHandle: 'receipt',
      body,
      attributes: {
        ApproximateReceiveCount: '1',
        SentTimestamp: String(sentAt.getTime()),
        SenderId: 'AIDAIENQZJOLO23YVJ4VO',
        ApproximateFirstReceiveTimestamp: String(sentAt.getTime()),
      },
      messageAttributes: {},
      md5OfBody: '',
      eventSource: 'aws:sqs',
      eventSourceARN: 'arn:aws:sqs:eu-west-1:123456789012:bench',
      awsRegion: 'eu-west-1',
    })),
  };
}

/** EC2's own event, whole, as EventBridge delivers it. */
export function stateChange(instanceId: string, state: string, account: string, region: string): object {
  return {
    version: '0',
    id: randomUUID(),
    'detail-type': 'EC2 Instance State-change Notification',
    source: 'aws.ec2',
    account,
    time: new Date().toISOString(),
    region,
    resources: [`arn:aws:ec2:${region}:${account}:instance/${instanceId}`],
    detail: { 'instance-id': instanceId, state },
  };
}

/** What a function writes to its log goes nowhere from here on: standard output belongs to the result. */
export function silenceLogs(): { readonly restore: () => void } {
  const { write } = process.stdout;
  const { warn } = console;
  console.warn = () => undefined;
  process.stdout.write = ((_chunk: unknown, ...rest: unknown[]) => {
    const done = rest.find((argument) => typeof argument === 'function') as (() => void) | undefined;
    done?.();
    return true;
  }) as typeof write;
  return {
    restore: () => {
      process.stdout.write = write;
      console.warn = warn;
    },
  };
}
