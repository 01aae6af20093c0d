import { BatchProcessor, EventType, processPartialResponse } from '@aws-lambda-powertools/batch';
import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import { type Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { logMetrics } from '@aws-lambda-powertools/metrics/middleware';
import type { SQSClient } from '@aws-sdk/client-sqs';
import middy from '@middy/core';
import type { Context, SQSBatchResponse, SQSEvent } from 'aws-lambda';
import { type Envelope, type Parsed, parseEnvelope } from '../lib/domain/envelope.ts';
import { VersionConflictError } from './aws/dynamodb.ts';
import { send } from './aws/sqs.ts';

/** What every queue-driven function needs around its work. */
export interface QueueDeps {
  readonly sqs: SQSClient;
  readonly rejectedQueueUrl: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** One understood message. */
export interface Work<T> {
  readonly value: T;
  /** When the queue took the message in; nobody outside of SQS can set it. */
  readonly receivedAt: Date;
  /**
   * Delivered before, so an earlier run may have stored its result and died before it announced it: what
   * is found unchanged is announced again.
   */
  readonly redelivered: boolean;
}

export interface QueueFunction<T> {
  readonly name: string;
  /** Understands a message, or says why not. Pure. */
  parse(event: Envelope): Parsed<T>;
  /**
   * Does the work of a whole batch, so that one call to EC2 serves all of it.
   *
   * @returns for each work item a promise that settles with its own outcome
   */
  run(work: readonly Work<T>[]): Promise<readonly Promise<void>[]>;
}

/** What was rejected keeps this much of its body. */
const REJECTED_BODY_MAX_CHARS = 128 * 1024;

/**
 * The handler of a queue-driven function: what cannot be understood goes to the `rejected` queue with its
 * reason at once, the rest is worked on as one batch, and only what failed is returned to the queue.
 */
export function createQueueHandler<T>(deps: QueueDeps, queueFunction: QueueFunction<T>) {
  const { logger, metrics } = deps;

  const handle = async (event: SQSEvent, context: Context): Promise<SQSBatchResponse> => {
    const outcomes = new Map<string, Promise<void>>();
    metrics.addMetric('MessageReceived', MetricUnit.Count, event.Records.length);
    const understood: { messageId: string; work: Work<T> }[] = [];
    for (const record of event.Records) {
      const opened = parseEnvelope(record.body);
      const parsed = opened.kind === 'ok' ? queueFunction.parse(opened.value) : opened;
      if (parsed.kind === 'ok') {
        understood.push({
          messageId: record.messageId,
          work: {
            value: parsed.value,
            receivedAt: new Date(Number(record.attributes.SentTimestamp)),
            redelivered: Number(record.attributes.ApproximateReceiveCount) > 1,
          },
        });
      } else {
        logger.warn('message rejected', { messageId: record.messageId, reason: parsed.reason });
        metrics.addMetric('MessageRejected', MetricUnit.Count, 1);
        outcomes.set(
          record.messageId,
          awaitedLater(
            send(deps.sqs, deps.rejectedQueueUrl, record.body.slice(0, REJECTED_BODY_MAX_CHARS), {
              reason: parsed.reason,
              detail: parsed.detail.slice(0, 1000) || '-',
              function: queueFunction.name,
              messageId: record.messageId,
            }),
          ),
        );
      }
    }
    if (understood.length > 0) {
      const results = await settleTogether(
        queueFunction,
        understood.map((u) => u.work),
      );
      understood.forEach(({ messageId }, i) => {
        outcomes.set(messageId, results[i] ?? Promise.reject(new Error('the batch gave no outcome')));
      });
    }
    return processPartialResponse(
      event,
      async (record: { messageId: string }) => {
        try {
          await outcomes.get(record.messageId);
        } catch (error) {
          logger.error('message returned to the queue', {
            messageId: record.messageId,
            error: error as Error,
          });
          throw error;
        }
      },
      new BatchProcessor(EventType.SQS),
      { context, throwOnFullBatchFailure: false },
    );
  };

  return middy<SQSEvent, SQSBatchResponse>()
    .use(injectLambdaContext(logger, { resetKeys: true }))
    .use(logMetrics(metrics))
    .handler(handle);
}

const CONFLICT_ATTEMPTS = 3;

/**
 * Another worker wrote first: those items look and decide again at once. Back in the queue they would wait
 * for minutes, with a fence still open or evidence growing old.
 */
async function withoutConflicts<T>(
  queueFunction: QueueFunction<T>,
  work: readonly Work<T>[],
  attempts: number,
): Promise<readonly Promise<void>[]> {
  const outcomes = await queueFunction.run(work);
  if (attempts === 1) return outcomes;
  const settled = await Promise.allSettled(outcomes);
  const conflicted = settled.flatMap((outcome, i) =>
    outcome.status === 'rejected' && outcome.reason instanceof VersionConflictError ? [i] : [],
  );
  if (conflicted.length === 0) return outcomes;
  await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 200));
  // Whoever was stopped between storing and announcing announces now.
  const again = conflicted.flatMap((i) => (work[i] ? [{ ...work[i], redelivered: true }] : []));
  const retried = await withoutConflicts(queueFunction, again, attempts - 1);
  return outcomes.map((outcome, i) => retried[conflicted.indexOf(i)] ?? outcome);
}

/** A failure before the batch fell into single outcomes is every item's failure. */
async function settleTogether<T>(
  queueFunction: QueueFunction<T>,
  work: readonly Work<T>[],
): Promise<readonly Promise<void>[]> {
  try {
    return await withoutConflicts(queueFunction, work, CONFLICT_ATTEMPTS);
  } catch (error) {
    return work.map(() => awaitedLater(Promise.reject(error)));
  }
}

/**
 * Runs `converge` once for each VM that any work item names, and gives each item the outcome of all its VMs.
 */
export function oncePerVm<T>(
  work: readonly Work<T>[],
  vmsOf: (value: T) => readonly string[],
  converge: (instanceId: string, work: readonly Work<T>[]) => Promise<void>,
): readonly Promise<void>[] {
  const byVm = new Map<string, Work<T>[]>();
  for (const item of work) {
    for (const id of vmsOf(item.value)) {
      const list = byVm.get(id) ?? [];
      list.push(item);
      byVm.set(id, list);
    }
  }
  const run = async (id: string, items: readonly Work<T>[]) => converge(id, items); // a throw is its own, too
  const runs = new Map([...byVm].map(([id, items]) => [id, run(id, items)]));
  return work.map((item) =>
    awaitedLater(
      Promise.allSettled(vmsOf(item.value).map((id) => runs.get(id))).then((results) => {
        const failed = results.find((result) => result.status === 'rejected');
        if (failed) throw failed.reason;
      }),
    ),
  );
}

/**
 * A promise that may reject before anybody awaits it. Its rejection is still seen by whoever awaits it;
 * without this, Node would end the process first.
 */
export function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
