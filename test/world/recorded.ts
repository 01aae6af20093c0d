import { readdirSync, readFileSync } from 'node:fs';
import type { APIGatewayProxyEvent, Context, SQSEvent, SQSRecord } from 'aws-lambda';

/** Whole events of test/fixtures/events, and what carries them to a function. */

const folder = new URL('../fixtures/events/', import.meta.url);

export interface RecordedEvent {
  readonly source: string;
  readonly 'detail-type': string;
  readonly resources: readonly string[];
  readonly detail: Record<string, unknown>;
}

function read(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'));
}

export const recorded = (name: string): RecordedEvent => read(name) as RecordedEvent;

/** Names of all recorded events of the default bus. */
export const RECORDED_EVENTS = readdirSync(folder)
  .map((file) => file.replace(/\.json$/, ''))
  .filter((name) => /^(ec2|ebs|cloudtrail)-/.test(name));

/** An event of ours with EventBridge's envelope around it. */
export const enveloped = (source: string, detailType: string, detail: object): object => ({
  ...recorded('ec2-state-running'),
  source,
  'detail-type': detailType,
  resources: [],
  detail,
});

/** One SQS record around a body; an object stands for its JSON. */
export function sqsRecord(
  body: string | object,
  overrides: { readonly messageId?: string; readonly receives?: number; readonly sentAt?: Date } = {},
): SQSRecord {
  const record = read('sqs-record') as SQSRecord;
  return {
    ...record,
    messageId: overrides.messageId ?? record.messageId,
    body: typeof body === 'string' ? body : JSON.stringify(body),
    attributes: {
      ...record.attributes,
      ApproximateReceiveCount: String(overrides.receives ?? 1),
      ...(overrides.sentAt ? { SentTimestamp: String(overrides.sentAt.getTime()) } : {}),
    },
  };
}

/** A batch; messages are named m-1, m-2, … unless they have a name. */
export const sqsEvent = (...bodies: readonly (string | object)[]): SQSEvent => ({
  Records: bodies.map((body, i) => sqsRecord(body, { messageId: `m-${i + 1}` })),
});

export function apiRequest(
  caller: 'instance' | 'other-instance' | 'person' | 'no-iam',
  path: string,
  body: unknown,
): APIGatewayProxyEvent {
  const event = read(`api-${caller}`) as APIGatewayProxyEvent;
  return {
    ...event,
    path,
    resource: path,
    body: typeof body === 'string' || body === null ? body : JSON.stringify(body),
  };
}

/** The VM of the recorded events. */
export const RECORDED_VM = 'i-0a1b2c3d4e5f60718';

export const CONTEXT = {
  callbackWaitsForEmptyEventLoop: false,
  functionName: 'test',
  functionVersion: '1',
  invokedFunctionArn: 'arn:aws:lambda:eu-west-1:123456789012:function:test',
  memoryLimitInMB: '256',
  awsRequestId: '00000000-0000-4000-8000-000000000000',
  logGroupName: '/aws/lambda/test',
  logStreamName: '2026/11/24/[$LATEST]0',
  getRemainingTimeInMillis: () => 30_000,
} as unknown as Context;
