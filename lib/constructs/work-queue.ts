import { Duration } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import type { CustomerKeys } from './customer-keys.ts';

/** After this many receives a message goes to the dead-letter queue. */
const MAX_RECEIVES = 5;

/** SQS keeps a message at most this long. */
const LONGEST = Duration.days(14);

export interface WorkQueueProps {
  readonly keys: CustomerKeys;
  /** Of the function behind the queue. */
  readonly functionTimeout: Duration;
  readonly batchWindow: Duration;
}

/** The queue in front of one function, with its dead-letter queue. */
export class WorkQueue extends Construct {
  readonly queue: sqs.Queue;
  /** What could not be processed: messages that failed too often, and events that a rule could not deliver. */
  readonly deadLetters: sqs.Queue;
  private readonly keys: CustomerKeys;

  constructor(scope: Construct, id: string, props: WorkQueueProps) {
    super(scope, id);
    this.keys = props.keys;
    this.deadLetters = encryptedQueue(this, 'DeadLetters', props.keys, {});
    this.queue = encryptedQueue(this, 'Queue', props.keys, {
      // Six times the function's timeout and the window on top, so that a throttled batch is not seen twice:
      // https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
      visibilityTimeout: Duration.seconds(
        6 * props.functionTimeout.toSeconds() + props.batchWindow.toSeconds(),
      ),
      deadLetterQueue: { queue: this.deadLetters, maxReceiveCount: MAX_RECEIVES },
    });
  }

  /** Lets a rule put its events here, and into the dead-letter queue when this one does not take them. */
  targetOf(): events.IRuleTarget {
    return {
      bind: (rule) => {
        const arn = events.CfnRule.arnForRule(rule);
        for (const queue of [this.queue, this.deadLetters]) {
          queue.addToResourcePolicy(
            new iam.PolicyStatement({
              principals: [new iam.ServicePrincipal('events.amazonaws.com')],
              actions: ['sqs:SendMessage'],
              resources: [queue.queueArn],
              conditions: { ArnEquals: { 'aws:SourceArn': arn } },
            }),
          );
        }
        return { arn: this.queue.queueArn, deadLetterConfig: { arn: this.deadLetters.queueArn } };
      },
    };
  }

  /** Runs the function on batches of this queue. A message that fails comes back alone, not its batch. */
  drive(
    fn: lambda.Function,
    role: iam.Role,
    batch: { readonly size: number; readonly window: Duration; readonly maxConcurrency: number },
  ): void {
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'TakeFromItsQueue',
        actions: [
          'sqs:ChangeMessageVisibility',
          'sqs:DeleteMessage',
          'sqs:GetQueueAttributes',
          'sqs:ReceiveMessage',
        ],
        resources: [this.queue.queueArn],
      }),
    );
    this.keys.grantStateThrough(role, 'queues');
    new lambda.EventSourceMapping(this, 'Mapping', {
      target: fn,
      eventSourceArn: this.queue.queueArn,
      batchSize: batch.size,
      ...(batch.window.toSeconds() > 0 ? { maxBatchingWindow: batch.window } : {}),
      maxConcurrency: batch.maxConcurrency,
      reportBatchItemFailures: true,
    });
  }
}

export function encryptedQueue(
  scope: Construct,
  id: string,
  keys: CustomerKeys,
  props: Pick<sqs.QueueProps, 'visibilityTimeout' | 'deadLetterQueue'>,
): sqs.Queue {
  return new sqs.Queue(scope, id, {
    ...props,
    encryption: sqs.QueueEncryption.KMS,
    encryptionMasterKey: keys.state,
    // SQS then asks KMS once an hour, not once a message burst.
    dataKeyReuse: Duration.hours(1),
    enforceSSL: true,
    retentionPeriod: LONGEST,
  });
}

/** Put messages into a queue. */
export function grantSend(role: iam.Role, sid: string, queue: sqs.Queue, keys: CustomerKeys): void {
  role.addToPolicy(
    new iam.PolicyStatement({ sid, actions: ['sqs:SendMessage'], resources: [queue.queueArn] }),
  );
  keys.grantStateThrough(role, 'queues');
}
