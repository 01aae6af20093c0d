import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CloudFormationClient, paginateListStackResources } from '@aws-sdk/client-cloudformation';
import { DynamoDBClient, paginateScan } from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import {
  DisableRuleCommand,
  EventBridgeClient,
  ListRulesCommand,
  PutEventsCommand,
} from '@aws-sdk/client-eventbridge';
import {
  DeleteMessageBatchCommand,
  GetQueueAttributesCommand,
  type Message,
  PurgeQueueCommand,
  ReceiveMessageCommand,
  SetQueueAttributesCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import { unmarshall } from '@aws-sdk/util-dynamodb';
import { readFleet } from '../../bin/cli/fleet.ts';
import { bootstrap, deploy, type Outputs, STACK } from '../../bin/local/deploy.ts';
import { type Feed, startFeed } from '../../bin/local/ec2-feed.ts';
import { ACCOUNT, CREDENTIALS, type Emulators, REGION, startEmulators } from '../../bin/local/emulators.ts';
import { startEventLog } from '../../bin/local/event-log.ts';
import { createIdentityIssuer } from '../../bin/local/identity-issuer.ts';
import { type MetadataServer, metadataEndpoint, startMetadata } from '../../bin/local/metadata.ts';
import { runToEnd } from '../../bin/local/process.ts';
import { ensurePython } from '../../bin/local/python.ts';
import { findInstance } from '../../bin/local/vms.ts';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { type AwsProxy, startProxy } from './proxy.ts';

export const QUEUE_FUNCTIONS = ['observe-vm', 'issue-disk-keys', 'ingest-report', 'apply-isolation'] as const;
export type QueueFunction = (typeof QUEUE_FUNCTIONS)[number];

/** A queue-driven function as it was deployed. */
export interface Deployed {
  readonly queueUrl: string;
  readonly deadLettersUrl: string;
  readonly mappingId: string;
}

/** Where a cloud is, for whatever process looks at it. */
export interface CloudAddress {
  readonly folder: string;
  readonly emulators: Pick<Emulators, 'aws' | 'ec2' | 'tpms'>;
  readonly outputs: Outputs;
  readonly metadata: Pick<MetadataServer, 'origin'>;
}

/** The embedded cloud with the deployed stack, as it looks from beside it. */
export interface CloudView extends CloudAddress {
  readonly metadata: Omit<MetadataServer, 'stop'>;
  readonly ec2: EC2Client;
  readonly apiUrl: string;
  fleet(): Promise<ReadonlyMap<string, VmRecord>>;
  /** Every item of the table. */
  items(): Promise<readonly Record<string, unknown>[]>;
  /** Every event of both buses so far. */
  announced(): readonly Announced[];
  /**
   * Waits for a condition.
   *
   * @param missing says what is still missing, or undefined when nothing is
   * @param everyMs how often to ask: reading the table costs the emulator what the functions need too
   */
  until(
    seconds: number,
    missing: () => Promise<string | undefined> | string | undefined,
    everyMs?: number,
  ): Promise<void>;
  /** Ends what looks, and leaves the cloud as it is. */
  close(): void;
}

/** The embedded cloud of this process, and the proxy between the functions and AWS. */
export interface Cloud extends CloudView {
  readonly python: string;
  /** The emulators themselves: what tests and agents talk to. */
  readonly emulators: Emulators;
  readonly metadata: MetadataServer;
  readonly proxy: AwsProxy;
  readonly dynamodb: DynamoDBClient;
  readonly sqs: SQSClient;
  readonly events: EventBridgeClient;
  readonly functions: Readonly<Record<QueueFunction, Deployed>>;
  readonly rejectedUrl: string;
  readonly seconds: Readonly<Record<string, number>>;
  /** Starts EC2's own events; none flow before. */
  feed(everyMs?: number): Feed;
  /** EC2's own event, put by hand where a test wants exactly one. */
  stateChange(instanceIds: readonly string[], state: string): Promise<void>;
  stopListening(): Promise<void>;
  /** From here on the scheduled functions run when a test says so, and at no time of their own. */
  endSchedules(): Promise<void>;
  sweep(): Promise<{ hinted: number; diverged: number }>;
  /** Has refresh-quotas run, as its schedule does every hour. */
  readQuotas(): Promise<unknown>;
  /** Changes settings of event-source mappings. */
  mapping(settings: Record<string, unknown>, only?: readonly QueueFunction[]): Promise<void>;
  queueAttributes(attributes: Record<string, string>, only?: readonly QueueFunction[]): Promise<void>;
  /** Messages waiting and in flight. */
  depth(url: string): Promise<{ visible: number; inFlight: number }>;
  /** Takes every message out of a queue. */
  take(url: string): Promise<readonly Message[]>;
  purge(url: string): Promise<void>;
  stop(): Promise<void>;
}

export interface Announced {
  readonly source: string;
  readonly 'detail-type': string;
  readonly detail: Record<string, unknown>;
}

/** Why these tests cannot run on this machine; undefined when they can. */
export async function missingPrerequisite(): Promise<string | undefined> {
  if (!existsSync('/proc/net/tcp')) return 'needs /proc to find the worker that made a call';
  const folder = mkdtempSync(join(tmpdir(), 'casemate-python-'));
  try {
    await ensurePython(join(folder, 'python.log'));
    return undefined;
  } catch (error) {
    return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @param died rejects when the cloud ends by itself, where that can be told */
export function viewCloud(
  address: CloudAddress,
  died: Promise<never> = new Promise(() => undefined),
): CloudView {
  const { folder, emulators, outputs, metadata } = address;
  const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
  const ec2 = new EC2Client({ ...options, endpoint: emulators.ec2 });
  const dynamodb = new DynamoDBClient(options);
  const tableName = outputs['TableName'] ?? '';
  const log = eventLogOf(folder);
  return {
    folder,
    emulators,
    outputs,
    metadata: { ...metadata, endpointOf: (instanceId) => metadataEndpoint(metadata.origin, instanceId) },
    ec2,
    apiUrl: `${emulators.aws}/restapis/${outputs['ApiId']}/v1/_user_request_`,
    fleet: () => readFleet({ dynamodb, tableName }),
    async items() {
      const found: Record<string, unknown>[] = [];
      const scan = { TableName: tableName, ConsistentRead: true };
      for await (const page of paginateScan({ client: dynamodb }, scan)) {
        for (const row of page.Items ?? []) found.push(unmarshall(row));
      }
      return found;
    },
    announced: () =>
      existsSync(log)
        ? readFileSync(log, 'utf8')
            .split('\n')
            .filter((line) => line !== '')
            .map((line) => JSON.parse(line) as Announced)
        : [],
    async until(most, missing, everyMs = 400) {
      const deadline = Date.now() + most * 1000;
      for (;;) {
        const open = await missing();
        if (open === undefined) return;
        if (Date.now() > deadline) throw new Error(`after ${most} s still: ${open}`);
        await Promise.race([sleep(everyMs), died]);
      }
    },
    close() {
      for (const client of [ec2, dynamodb]) client.destroy();
    },
  };
}

const eventLogOf = (folder: string) => join(folder, 'events.jsonl');

/** @param settings of the deployment, as docs/deploy.md names them */
export async function startCloud(settings: Readonly<Record<string, string>> = {}): Promise<Cloud> {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-integration-'));
  const cleanups: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 })];
  const stop = async () => {
    while (cleanups.length > 0) await cleanups.pop()?.();
  };
  const seconds: Record<string, number> = {};
  const timed = async <T>(name: string, run: () => Promise<T>): Promise<T> => {
    const began = Date.now();
    const result = await run();
    seconds[name] = (Date.now() - began) / 1000;
    return result;
  };
  try {
    const python = await ensurePython(join(folder, 'python.log'));
    await runToEnd(['npm', 'run', '--silent', 'build:native'], { log: join(folder, 'native.log') });
    let proxy: AwsProxy | undefined;
    const emulators = await timed('emulators', () =>
      startEmulators(python, folder, async (real) => {
        proxy = await startProxy(real, folder);
        return proxy;
      }),
    );
    if (!proxy) throw new Error('the emulators were started without the proxy');
    const between = proxy;
    cleanups.push(() => between.stop());
    cleanups.push(() => emulators.stop());
    const never = new AbortController().signal;
    await timed('bootstrap', () => bootstrap(emulators, folder, never));
    const issuer = await createIdentityIssuer(REGION);
    const outputs = await timed('deploy', () =>
      deploy(emulators, folder, issuer.certificatePem, never, settings),
    );

    const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
    const dynamodb = new DynamoDBClient(options);
    const sqs = new SQSClient(options);
    const events = new EventBridgeClient(options);
    const metadata = await startMetadata(issuer, (id) => findInstance(view.ec2, id));
    cleanups.push(() => metadata.stop());
    const view = viewCloud({ folder, emulators, outputs, metadata }, emulators.died);
    cleanups.push(() => {
      for (const client of [dynamodb, sqs, events]) client.destroy();
      view.close();
    });
    const listening = await startEventLog(emulators, outputs, eventLogOf(folder));
    let listens = true;
    const stopListening = async () => {
      if (listens) await listening.stop();
      listens = false;
    };
    cleanups.push(stopListening);
    const { functions, sweep, quotas } = await deployed(emulators, options);
    const of = (only: readonly QueueFunction[]) => only.map((name) => functions[name]);

    const lambda = async (method: string, path: string, body: object): Promise<unknown> => {
      const answer = await fetch(`${emulators.aws}/2015-03-31/${path}`, {
        method,
        headers: {
          'content-type': 'application/json',
          authorization: `AWS4-HMAC-SHA256 Credential=test/20260101/${REGION}/lambda/aws4_request, SignedHeaders=host, Signature=0`,
        },
        body: JSON.stringify(body),
      });
      const text = await answer.text();
      if (!answer.ok || answer.headers.has('x-amz-function-error')) throw new Error(`${path}: ${text}`);
      return text === '' ? undefined : JSON.parse(text);
    };

    const cloud: Cloud = {
      ...view,
      python,
      emulators,
      metadata,
      proxy: between,
      dynamodb,
      sqs,
      events,
      functions,
      rejectedUrl: outputs['RejectedQueueUrl'] ?? '',
      seconds,
      feed(everyMs) {
        const feed = startFeed(view.ec2, events, (error) => listening.note(error), everyMs);
        let running = true;
        const stopFeed = async () => {
          if (running) await feed.stop();
          running = false;
        };
        cleanups.push(stopFeed);
        return { stop: stopFeed };
      },
      async stateChange(instanceIds, state) {
        for (let i = 0; i < instanceIds.length; i += 10) {
          const Entries = instanceIds.slice(i, i + 10).map((id) => ({
            Source: 'aws.ec2',
            DetailType: 'EC2 Instance State-change Notification',
            Resources: [`arn:aws:ec2:${REGION}:${ACCOUNT}:instance/${id}`],
            Detail: JSON.stringify({ 'instance-id': id, state }),
            Time: new Date(),
          }));
          const answer = await events.send(new PutEventsCommand({ Entries }));
          if (answer.FailedEntryCount) throw new Error('the bus did not take an event');
        }
      },
      stopListening,
      async endSchedules() {
        const { Rules = [] } = await events.send(new ListRulesCommand({}));
        const scheduled = Rules.filter((rule) => Boolean(rule.ScheduleExpression));
        if (scheduled.length === 0) throw new Error('nothing was deployed with a schedule');
        for (const { Name } of scheduled) await events.send(new DisableRuleCommand({ Name }));
      },
      sweep: async () =>
        (await lambda('POST', `functions/${sweep}/invocations`, {})) as { hinted: number; diverged: number },
      readQuotas: () => lambda('POST', `functions/${quotas}/invocations`, {}),
      async mapping(settings, only = QUEUE_FUNCTIONS) {
        for (const { mappingId } of of(only))
          await lambda('PUT', `event-source-mappings/${mappingId}`, settings);
      },
      async queueAttributes(Attributes, only = QUEUE_FUNCTIONS) {
        for (const { queueUrl } of of(only))
          await sqs.send(new SetQueueAttributesCommand({ QueueUrl: queueUrl, Attributes }));
      },
      async depth(url) {
        const { Attributes = {} } = await sqs.send(
          new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ['All'] }),
        );
        return {
          visible: Number(Attributes['ApproximateNumberOfMessages']),
          inFlight: Number(Attributes['ApproximateNumberOfMessagesNotVisible']),
        };
      },
      async take(url) {
        const taken: Message[] = [];
        for (;;) {
          const { Messages = [] } = await sqs.send(
            new ReceiveMessageCommand({
              QueueUrl: url,
              MaxNumberOfMessages: 10,
              MessageAttributeNames: ['All'],
              MessageSystemAttributeNames: ['All'],
            }),
          );
          if (Messages.length === 0) return taken;
          taken.push(...Messages);
          const Entries = Messages.map((m, i) => ({ Id: String(i), ReceiptHandle: m.ReceiptHandle }));
          await sqs.send(new DeleteMessageBatchCommand({ QueueUrl: url, Entries }));
        }
      },
      purge: async (url) => void (await sqs.send(new PurgeQueueCommand({ QueueUrl: url }))),
      stop,
    };
    // Six minutes on AWS, where nobody waits for a test: what lost a race of two workers comes back sooner.
    await cloud.queueAttributes({ VisibilityTimeout: '10' });
    return cloud;
  } catch (error) {
    await stop();
    throw error;
  }
}

async function deployed(
  emulators: Emulators,
  options: { endpoint: string; region: string; credentials: typeof CREDENTIALS },
): Promise<{ functions: Record<QueueFunction, Deployed>; sweep: string; quotas: string }> {
  const client = new CloudFormationClient(options);
  const resources: { id: string; physical: string }[] = [];
  for await (const page of paginateListStackResources({ client }, { StackName: STACK })) {
    for (const r of page.StackResourceSummaries ?? []) {
      resources.push({ id: r.LogicalResourceId ?? '', physical: r.PhysicalResourceId ?? '' });
    }
  }
  client.destroy();
  const find = (id: string) => {
    // The CDK ends a logical id with eight hexadecimal digits.
    const found = resources.filter((r) => new RegExp(`^Casemate${id}[0-9A-F]{8}$`).test(r.id));
    if (found.length !== 1 || !found[0]) throw new Error(`${found.length} resources are called ${id}`);
    return found[0].physical;
  };
  const pascal = (name: string) =>
    name.replace(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const url = (physical: string) =>
    physical.startsWith('http') ? physical : `${emulators.aws}/${ACCOUNT}/${physical}`;
  const of = (name: QueueFunction): Deployed => ({
    queueUrl: url(find(`${pascal(name)}Queue`)),
    deadLettersUrl: url(find(`${pascal(name)}QueueDeadLetters`)),
    mappingId: find(`${pascal(name)}QueueMapping`),
  });
  return {
    functions: {
      'observe-vm': of('observe-vm'),
      'issue-disk-keys': of('issue-disk-keys'),
      'ingest-report': of('ingest-report'),
      'apply-isolation': of('apply-isolation'),
    },
    sweep: find('SweepFunction'),
    quotas: find('RefreshQuotasFunction'),
  };
}

/** Processes that have this folder in their command line. */
export function processesOf(folder: string): readonly string[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
    .flatMap((entry) => {
      try {
        const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return command.includes(folder) ? [`${entry} ${command}`] : [];
      } catch {
        return []; // ended meanwhile
      }
    });
}
