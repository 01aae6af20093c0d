import { SendMessageBatchCommand, SendMessageCommand, type SQSClient } from '@aws-sdk/client-sqs';

/** A queue did not take a message. Retryable. */
export class SendError extends Error {
  override readonly name = 'SendError';
}

/**
 * Text that SQS takes: it refuses control characters and halves of surrogate pairs, in bodies and attributes.
 * https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
 */
export function sendable(text: string): string {
  return text.replace(/[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, '\uFFFD');
}

/** Puts one message into a queue, with string attributes. */
export async function send(
  client: SQSClient,
  queueUrl: string,
  body: string,
  attributes: Record<string, string>,
): Promise<void> {
  await client.send(
    new SendMessageCommand({
      QueueUrl: queueUrl,
      MessageBody: body,
      MessageAttributes: Object.fromEntries(
        Object.entries(attributes).map(([name, value]) => [name, { DataType: 'String', StringValue: value }]),
      ),
    }),
  );
}

const BATCH_MAX = 10;

/** Puts messages into a queue, ten a call. */
export async function sendAll(client: SQSClient, queueUrl: string, bodies: readonly string[]): Promise<void> {
  for (let i = 0; i < bodies.length; i += BATCH_MAX) {
    const answer = await client.send(
      new SendMessageBatchCommand({
        QueueUrl: queueUrl,
        Entries: bodies.slice(i, i + BATCH_MAX).map((MessageBody, k) => ({ Id: String(k), MessageBody })),
      }),
    );
    const failed = answer.Failed ?? [];
    if (failed.length > 0) throw new SendError(`${failed.length} messages: ${failed[0]?.Code ?? 'unknown'}`);
  }
}
