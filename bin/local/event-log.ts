import { appendFileSync } from 'node:fs';
import { EventBridgeClient, PutRuleCommand, PutTargetsCommand } from '@aws-sdk/client-eventbridge';
import {
  CreateQueueCommand,
  DeleteMessageBatchCommand,
  ReceiveMessageCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import type { Outputs } from './deploy.ts';
import { ACCOUNT, CREDENTIALS, type Emulators, REGION } from './emulators.ts';

export interface EventLog {
  /** Writes a fault of the embedded cloud itself into the log. */
  note(fault: unknown): void;
  stop(): Promise<void>;
}

const QUEUE = 'casemate-local-events';

/**
 * Writes every event of the default bus and of the Casemate bus into a file, one JSON document a line, by
 * a rule and a queue of its own beside the deployed ones: `npx casemate events` shows it.
 */
export async function startEventLog(emulators: Emulators, outputs: Outputs, file: string): Promise<EventLog> {
  const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
  const sqs = new SQSClient(options);
  const events = new EventBridgeClient(options);
  const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: QUEUE }));
  for (const [EventBusName, prefix] of [
    ['default', 'aws.'],
    [outputs['BusName'], 'casemate'],
  ] as const) {
    const Name = `${QUEUE}-${prefix.replace('.', '')}`;
    await events.send(
      new PutRuleCommand({ Name, EventBusName, EventPattern: JSON.stringify({ source: [{ prefix }] }) }),
    );
    const Arn = `arn:aws:sqs:${REGION}:${ACCOUNT}:${QUEUE}`;
    await events.send(new PutTargetsCommand({ Rule: Name, EventBusName, Targets: [{ Id: 'log', Arn }] }));
  }
  const stop = new AbortController();
  const write = (line: object) => appendFileSync(file, `${JSON.stringify(line)}\n`);
  const follow = async () => {
    while (!stop.signal.aborted) {
      try {
        const { Messages = [] } = await sqs.send(
          new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 1 }),
          { abortSignal: stop.signal },
        );
        for (const message of Messages) write(JSON.parse(message.Body ?? '{}') as object);
        if (Messages.length > 0) {
          const Entries = Messages.map((m, i) => ({ Id: String(i), ReceiptHandle: m.ReceiptHandle }));
          await sqs.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
        }
      } catch (error) {
        if (!stop.signal.aborted) note(error);
      }
    }
  };
  const note = (fault: unknown) =>
    write({ source: 'casemate.local', fault: fault instanceof Error ? fault.message : String(fault) });
  const done = follow();
  return {
    note,
    async stop() {
      stop.abort();
      await done;
    },
  };
}
