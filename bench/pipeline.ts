import { fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics } from '@aws-lambda-powertools/metrics';
import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  TransactionCanceledException,
} from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { KMSClient } from '@aws-sdk/client-kms';
import { SQSClient } from '@aws-sdk/client-sqs';
import { createHandler as applyIsolation } from '../lambdas/apply-isolation/handler.ts';
import { createAnnouncer } from '../lambdas/aws/eventbridge.ts';
import { createHandler as ingestReport } from '../lambdas/ingest-report/handler.ts';
import { createHandler as issueDiskKeys } from '../lambdas/issue-disk-keys/handler.ts';
import { createHandler as observeVm } from '../lambdas/observe-vm/handler.ts';
import { defaultPolicies } from '../lib/domain/evidence/policy-file.ts';
import { ACCOUNT, REGION } from '../test/world/ec2.ts';
import { isolationSettings } from '../test/world/isolation.ts';
import { API_ORIGIN, projectPolicies } from '../test/world/world.ts';
import type { Message, QueueName, Request, Standing, Telling } from './cloud.ts';
import type { DeployedFunction } from './deployed.ts';
import { batchOf, CONTEXT, type QueueHandler } from './function-call.ts';
import { timed } from './measuring.ts';

export const QUEUES = ['observe-vm', 'issue-disk-keys', 'ingest-report', 'apply-isolation'] as const;

/** Heap in use and resident set of this process, in bytes, after a collection. */
export interface Memory {
  readonly heap: number;
  readonly rss: number;
}

export interface Burst {
  /** `function API` to calls. */
  readonly calls: ReadonlyMap<string, number>;
  readonly fenced: Standing;
  readonly opened: Standing;
  readonly invocations: number;
  readonly returned: number;
  readonly cpuMs: number;
  readonly wallMs: number;
  /** Over time, evenly by invocations. */
  readonly memory: readonly Memory[];
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/**
 * Launches `count` VMs and drives the functions' own handlers, with the deployed batch sizes and
 * concurrency, until nothing waits any more: first to key and fence, then every agent reports and the
 * fences open.
 */
export async function burst(
  functions: readonly DeployedFunction[],
  count: number,
  telling: Telling,
  options: { readonly memoryEvery?: number } = {},
): Promise<Burst> {
  const child = fork(fileURLToPath(new URL('./cloud.ts', import.meta.url)), { serialization: 'advanced' });
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: unknown) => void }>();
  let ids = 0;
  child.on('message', ({ id, result, error }: { id: number; result: never; error?: Fault }) => {
    const promise = waiting.get(id);
    waiting.delete(id);
    if (error) promise?.reject(revived(error));
    else promise?.resolve(result);
  });
  const ended = new Promise<never>((_, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the cloud ended with ${code}`)));
  });
  ended.catch(() => undefined); // seen where it is raced
  const ask = <T>(request: Request): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      waiting.set(++ids, { resolve: resolve as never, reject });
      child.send({ id: ids, request });
    });

  const calls = new Map<string, number>();
  const sending =
    (name: QueueName, service: 'ec2' | 'dynamodb' | 'kms' | 'eventbridge' | 'sqs') => (command: object) => {
      const api = `${name} ${command.constructor.name.replace(/Command$/, '')}`;
      calls.set(api, (calls.get(api) ?? 0) + 1);
      const { input } = command as { readonly input: never };
      return ask({ service, command: command.constructor.name, input });
    };
  // One for each concurrent invocation, as Lambda has: none shares telemetry, clients or calls with another.
  const environments = new Map<QueueName, QueueHandler[]>(
    functions.flatMap((fn) => {
      const name = QUEUES.find((queue) => queue === fn.name);
      if (!name) return [];
      return [
        [name, Array.from({ length: fn.maxConcurrency ?? 1 }, () => handlersOn(sending)[name]())],
      ] as const;
    }),
  );
  const memory: Memory[] = [];
  /** Spent on measuring memory. */
  const aside = { cpuMs: 0, wallMs: 0 };
  let invocations = 0;
  let returned = 0;

  const deliver = async (handler: QueueHandler, queue: QueueName, messages: readonly Message[]) => {
    const event = batchOf(messages.map((m) => m.body));
    event.Records.forEach((record, i) => {
      record.messageId = messages[i]?.id ?? '';
      record.attributes.ApproximateReceiveCount = String(messages[i]?.receives);
    });
    const answer = await handler(event, CONTEXT);
    const failed = new Set(answer.batchItemFailures.map((f) => f.itemIdentifier));
    const back = messages.filter((m) => failed.has(m.id));
    returned += back.length;
    if (back.length > 0) await ask({ service: 'return', queue, messages: back });
    invocations++;
    if (options.memoryEvery && invocations % options.memoryEvery === 0) {
      const { cpuMs, wallMs } = await timed(collect);
      aside.cpuMs += cpuMs;
      aside.wallMs += wallMs;
      const { heapUsed, rss } = process.memoryUsage();
      memory.push({ heap: heapUsed, rss });
    }
  };

  /** Until every queue is empty. A batch window ends when nothing else is left to do. */
  const drain = async () => {
    for (;;) {
      const running = new Set<Promise<void>>();
      let delivered = 0;
      const start = async (window: boolean) => {
        for (const [name, free] of environments) {
          const max = functions.find((fn) => fn.name === name)?.batchSize ?? 10;
          while (free.length > 0) {
            const messages = await ask<readonly Message[]>({
              service: 'receive',
              queue: name,
              max,
              window: window && max > 10,
            });
            const handler = messages.length > 0 ? free.pop() : undefined;
            if (!handler) break;
            delivered++;
            const run: Promise<void> = deliver(handler, name, messages).finally(() => {
              free.push(handler);
              running.delete(run);
            });
            running.add(run);
          }
        }
      };
      do {
        await start(true);
        if (running.size > 0) await Promise.race([...running, ended]);
      } while (running.size > 0);
      await start(false);
      await Promise.race([Promise.all(running), ended]);
      if (delivered === 0) return;
    }
  };

  try {
    await ask({ service: 'launch', from: 1, count, telling });
    const cpu = process.cpuUsage();
    const began = performance.now();
    await drain();
    const fenced = await ask<Standing>({ service: 'standing' });
    await ask({ service: 'report' });
    await drain();
    const { user, system } = process.cpuUsage(cpu);
    return {
      calls,
      fenced,
      opened: await ask<Standing>({ service: 'standing' }),
      invocations,
      returned,
      cpuMs: (user + system) / 1000 - aside.cpuMs,
      wallMs: performance.now() - began - aside.wallMs,
      memory,
    };
  } finally {
    child.removeAllListeners('exit');
    child.disconnect();
  }
}

interface Fault {
  readonly name: string;
  readonly message: string;
  readonly CancellationReasons?: { Code?: string }[];
}

/** The exceptions that our code tells apart by class. */
function revived({ name, message, CancellationReasons }: Fault): Error {
  switch (name) {
    case 'ConditionalCheckFailedException':
      return new ConditionalCheckFailedException({ message, $metadata: {} });
    case 'TransactionCanceledException':
      return new TransactionCanceledException({
        message,
        $metadata: {},
        ...(CancellationReasons ? { CancellationReasons } : {}),
      });
    default:
      return Object.assign(new Error(message), { name });
  }
}

/** Powertools warns after a batch whose hundredth value it has published already. */
const QUIET = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };

type Sending = (
  name: QueueName,
  service: 'ec2' | 'dynamodb' | 'kms' | 'eventbridge' | 'sqs',
) => (command: object) => Promise<unknown>;

/** The exported, middy-wrapped handlers, each with clients of its own that send to the cloud process. */
function handlersOn(sending: Sending): Readonly<Record<QueueName, () => QueueHandler>> {
  const now = () => new Date();
  const common = (name: QueueName) => {
    const dynamodb = new DynamoDBClient({ region: REGION });
    const eventbridge = new EventBridgeClient({ region: REGION });
    const sqs = new SQSClient({ region: REGION });
    dynamodb.send = sending(name, 'dynamodb') as typeof dynamodb.send;
    eventbridge.send = sending(name, 'eventbridge') as typeof eventbridge.send;
    sqs.send = sending(name, 'sqs') as typeof sqs.send;
    return {
      logger: new Logger({ serviceName: name, logLevel: 'SILENT' }),
      metrics: new Metrics({ namespace: 'Casemate', serviceName: name, logger: QUIET }),
      sqs,
      rejectedQueueUrl: `https://sqs.${REGION}.amazonaws.com/${ACCOUNT}/rejected`,
      table: { client: dynamodb, name: 'state' },
      announce: createAnnouncer(eventbridge, 'casemate'),
      policy: projectPolicies(),
      now,
    };
  };
  const ec2Of = (name: QueueName) => {
    const ec2 = new EC2Client({ region: REGION });
    ec2.send = sending(name, 'ec2') as typeof ec2.send;
    return ec2;
  };
  const kmsClient = () => {
    const kms = new KMSClient({ region: REGION });
    kms.send = sending('issue-disk-keys', 'kms') as typeof kms.send;
    return kms;
  };
  return {
    'observe-vm': () => observeVm({ ...common('observe-vm'), ec2: ec2Of('observe-vm'), region: REGION }),
    'issue-disk-keys': () =>
      issueDiskKeys({
        ...common('issue-disk-keys'),
        kms: kmsClient(),
        diskKeyId: `arn:aws:kms:${REGION}:${ACCOUNT}:key/disk-keys`,
        randomUuid: randomUUID,
      }),
    'ingest-report': () =>
      ingestReport({
        ...common('ingest-report'),
        apiOrigin: API_ORIGIN,
        reportMaxAgeSeconds: 900,
        evidenceMaxAgeSeconds: 7200,
        evidencePolicies: defaultPolicies,
        authorities: [],
      }),
    'apply-isolation': () =>
      applyIsolation({
        ...common('apply-isolation'),
        ec2: ec2Of('apply-isolation'),
        ...isolationSettings('enforce'),
      }),
  };
}

/** What a burst of `count` VMs lost; empty when nothing. */
export function lost({ fenced, opened }: Burst, count: number): readonly string[] {
  const wanted: readonly (readonly [string, number, number])[] = [
    ['VMs observed', fenced.managed, count],
    ['keys issued', opened.keys, count],
    ['fences applied', fenced.fenced, count],
    ['fences opened', opened.open, count],
    ['original groups restored', opened.restored, count],
    ['rejected', opened.rejected, 0],
  ];
  return wanted
    .filter(([, is, should]) => is !== should)
    .map(([what, is, should]) => `${what}: ${is} of ${should}`);
}
