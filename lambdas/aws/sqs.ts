import { SendMessageBatchCommand, SendMessageCommand, type SQSClient } from '@aws-sdk/client-sqs';

/** A queue did not take a message. Retryable. */
export class SendError extends Error {
  override readonly name = 'SendError';
}

/**
 * Text as SQS takes it: the characters of XML 1.0, whole. Anything else is refused with the whole message.
 * https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
 */
function sqsText(text: string): string {
  return text
    .toWellFormed()
    .replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu, '\u{FFFD}');
}

/** Puts one message into a queue, with string attributes; a character that no queue takes becomes U+FFFD. */
export async function send(
  client: SQSClient,
  queueUrl: string,
  body: string,
  attributes: Record<string, string>,
): Promise<void> {
  await client.send(
    new SendMessageCommand({
      QueueUrl: queueUrl,
      MessageBody: sqsText(body),
      MessageAttributes: Object.fromEntries(
        Object.entries(attributes).map(([name, value]) => [
          name,
          { DataType: 'String', StringValue: sqsText(value) },
        ]),
      ),
    }),
  );
}

/** Puts a message into a queue that is seen only after a while. */
export async function sendLater(
  client: SQSClient,
  queueUrl: string,
  body: string,
  delaySeconds: number,
): Promise<void> {
  await client.send(
    new SendMessageCommand({ QueueUrl: queueUrl, MessageBody: body, DelaySeconds: delaySeconds }),
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
