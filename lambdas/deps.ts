import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics } from '@aws-lambda-powertools/metrics';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { SQSClient } from '@aws-sdk/client-sqs';
import type { CallerIdentity } from '../lib/domain/caller.ts';
import type { ApiDeps } from './api-function.ts';
import type { Table } from './aws/dynamodb.ts';
import { type Announce, createAnnouncer } from './aws/eventbridge.ts';
import type { QueueDeps } from './queue-function.ts';
import type { SignedDeps } from './signed-request.ts';

/**
 * Every client retries throttling and 5xx answers with backoff and jitter, five attempts in all; what
 * still fails returns its message to the queue, which is the slower retry behind it.
 */
export const retrying = { maxAttempts: 5, retryMode: 'standard' } as const;

export function realTable(name: string): Table {
  return { client: new DynamoDBClient(retrying), name };
}

/** Logger and metrics; their names come from Powertools' own variables. */
export function realTelemetry(): { logger: Logger; metrics: Metrics } {
  return { logger: new Logger(), metrics: new Metrics() };
}

export interface QueueSettings {
  readonly TABLE_NAME: string;
  readonly BUS_NAME: string;
  readonly REJECTED_QUEUE_URL: string;
  readonly AWS_REGION: string;
}

/** What all queue-driven functions share. */
export function realQueueDeps(
  settings: QueueSettings,
): QueueDeps & { table: Table; announce: Announce; now: () => Date } {
  return {
    ...realTelemetry(),
    sqs: new SQSClient(retrying),
    rejectedQueueUrl: settings.REJECTED_QUEUE_URL,
    table: realTable(settings.TABLE_NAME),
    announce: createAnnouncer(new EventBridgeClient(retrying), settings.BUS_NAME),
    now: () => new Date(),
  };
}

/** What all functions share that answer signed requests of agents. */
export function realSignedDeps(settings: {
  readonly TABLE_NAME: string;
  readonly API_ORIGIN: string;
  readonly CALLER_IDENTITY: CallerIdentity;
}): ApiDeps & SignedDeps {
  return {
    ...realTelemetry(),
    callerIdentity: settings.CALLER_IDENTITY,
    table: realTable(settings.TABLE_NAME),
    apiOrigin: settings.API_ORIGIN,
    now: () => new Date(),
  };
}
