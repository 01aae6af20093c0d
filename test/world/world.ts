import { randomBytes, type X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics } from '@aws-lambda-powertools/metrics';
import { EventBridgeClient, PutEventsCommand } from '@aws-sdk/client-eventbridge';
import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { SendMessageBatchCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import type { Context, SQSBatchResponse, SQSEvent, SQSRecord } from 'aws-lambda';
import { createHandler as applyIsolation } from '../../lambdas/apply-isolation/handler.ts';
import { createAnnouncer } from '../../lambdas/aws/eventbridge.ts';
import { createHandler as completeLaunch } from '../../lambdas/complete-launch/handler.ts';
import { createHandler as ingestReport } from '../../lambdas/ingest-report/handler.ts';
import { createHandler as issueDiskKeys } from '../../lambdas/issue-disk-keys/handler.ts';
import { createHandler as observeVm } from '../../lambdas/observe-vm/handler.ts';
import { createHandler as sweep } from '../../lambdas/sweep/handler.ts';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { defaultPolicies, type EvidencePolicies } from '../../lib/domain/evidence/policy-file.ts';
import type { EvidenceRoots } from '../../lib/domain/evidence-judgement.ts';
import { assembleFleet } from '../../lib/domain/fleet.ts';
import type { Mode } from '../../lib/domain/isolation.ts';
import { compilePolicies, type PolicySources, readPolicySources } from '../../lib/policy/compile.ts';
import { createPolicyEngine, type PolicyEngine, type PolicySet } from '../../lib/policy/engine.ts';
import { fakeAutoScaling } from './auto-scaling.ts';
import { fakeDynamoDb } from './dynamodb.ts';
import { type Ec2State, fakeEc2, REGION } from './ec2.ts';
import { countEffects } from './effects.ts';
import { ISOLATION_QUEUE_URL, type IsolationSettings, isolationSettings } from './isolation.ts';
import { fakeKms } from './kms.ts';

export const QUEUES = [
  'observe-vm',
  'issue-disk-keys',
  'ingest-report',
  'apply-isolation',
  'complete-launch',
] as const;
export type QueueName = (typeof QUEUES)[number];

export interface Message {
  readonly id: string;
  readonly body: string;
  readonly sentAt: Date;
  receives: number;
}

interface Command {
  readonly constructor: { readonly name: string };
  readonly input: Record<string, unknown>;
}

interface Fault {
  readonly call: string;
  readonly error: Error;
  readonly when: (input: Record<string, unknown>) => boolean;
}

/** One AWS call of a function, before it has any effect. */
export interface Call {
  /** `PutItem`, `DescribeInstances`, … */
  readonly name: string;
  readonly input: Record<string, unknown>;
}

/**
 * Stands between the functions and AWS: lets a call through, now or with what EC2 looked like in the past, or fails
 * it before or after its effect.
 */
export type Between = (call: Call, go: (past?: Ec2State) => Promise<unknown>) => Promise<unknown>;

/**
 * A client whose `send` is still to be given. Made without its constructor, which resolves regions, credentials and
 * endpoints that nothing here asks for, at half a millisecond a client and world.
 */
function clientOf<T extends { send: unknown }>(kind: { readonly prototype: T }): T {
  return Object.create(kind.prototype) as T;
}

/** Who shares metrics publishes what another has published already: nobody wants to hear of it. */
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };
const silent = {
  logger: new Logger({ logLevel: 'SILENT' }),
  metrics: new Metrics({ namespace: 'Casemate', logger: quiet }),
};

let engine: PolicySet | undefined;

/** The project's own policies in Cedar itself. */
export function projectPolicies(): PolicySet {
  engine ??= policySet(readPolicySources(new URL('../../policies/', import.meta.url)));
  return engine;
}

/** Any policies in Cedar itself. @throws PolicySetError */
export function policySet(sources: PolicySources): PolicySet {
  const wasm = cedarWasm();
  return createPolicyEngine(wasm, compilePolicies(wasm, sources));
}

/** Cedar's wasm, as it lies beside each bundle. */
export function cedarWasm(): Uint8Array {
  return readFileSync(
    new URL('../../node_modules/@cedar-policy/cedar-wasm/web/cedar_wasm_bg.wasm', import.meta.url),
  );
}

/** What the rules of the deployed buses do: which queue gets which event. */
function queuesFor(source: string, detailType: string, launches: boolean): readonly QueueName[] {
  if (launches && detailType === 'Isolation Changed') return ['complete-launch'];
  if (source === 'aws.autoscaling') return ['complete-launch'];
  if (source === 'aws.ec2' || source === 'casemate.sweep') return ['observe-vm'];
  if (source === 'casemate.agent') return ['ingest-report'];
  if (detailType === 'VM Changed') return ['issue-disk-keys', 'ingest-report', 'apply-isolation'];
  if (detailType === 'Posture Changed' || detailType === 'Operator Decided') return ['apply-isolation'];
  return [];
}

/**
 * The whole pipeline in one process: the exported, middy-wrapped handlers, with EC2, DynamoDB, KMS,
 * EventBridge and SQS faked at the edge of their clients. Nothing is delivered until a test delivers it.
 */
export function createWorld(
  options: {
    /** What reports are bound to; an agent in a process of its own signs where it is really sent. */
    readonly apiOrigin?: string;
    readonly mode?: Mode;
    readonly policy?: PolicyEngine;
    readonly shadowPolicy?: PolicyEngine;
    readonly evidencePolicies?: EvidencePolicies;
    readonly evidenceRoots?: EvidenceRoots;
    readonly authorities?: readonly X509Certificate[];
    readonly logLevel?: 'SILENT' | 'DEBUG';
    /** Of apply-isolation. */
    readonly isolation?: Partial<IsolationSettings>;
    /** A message that came back so often goes to the dead letters; never, unless told. */
    readonly maxReceives?: number;
    /** Whether launches are held until they are proven. */
    readonly launches?: boolean;
  } = {},
) {
  const effects = countEffects();
  const ec2 = fakeEc2(effects);
  const dynamodb = fakeDynamoDb(effects);
  const autoScaling = fakeAutoScaling(effects);
  const { client: kms, ...keys } = fakeKms(effects);
  const queues = new Map<QueueName, Message[]>(QUEUES.map((name) => [name, []]));
  const deadLetters: Message[] = [];
  const rejected: { readonly body: string; readonly reason: string }[] = [];
  const announced: { readonly detailType: string; readonly detail: Record<string, unknown> }[] = [];
  const faults = new Set<Fault>();
  let between: Between = (_call, go) => go();
  const failing = <T extends { send: unknown }>(client: T): T => {
    const send = (client.send as (command: Command, past?: Ec2State) => Promise<unknown>).bind(client);
    client.send = async (command: Command) => {
      const name = command.constructor.name.replace(/Command$/, '');
      for (const fault of faults) {
        if (fault.call === name && fault.when(command.input)) throw fault.error;
      }
      return between({ name, input: command.input }, (past) => send(command, past));
    };
    return client;
  };
  let clock = Date.parse('2026-11-24T08:00:00Z');
  let sequence = 0;
  const now = () => new Date(clock);

  const enqueue = (queue: QueueName, body: string) => {
    queues.get(queue)?.push({ id: `m-${++sequence}`, body, sentAt: now(), receives: 0 });
  };
  const emit = (source: string, detailType: string, detail: unknown) => {
    const body = JSON.stringify({ id: `e-${++sequence}`, source, 'detail-type': detailType, detail });
    for (const queue of queuesFor(source, detailType, options.launches ?? false)) enqueue(queue, body);
  };

  const eventbridge = clientOf(EventBridgeClient);
  eventbridge.send = (async (command: unknown) => {
    if (!(command instanceof PutEventsCommand)) throw new Error('EventBridge here does not know it');
    return effects.write('put events', () => ({
      Entries: (command.input.Entries ?? []).map((entry) => {
        const detail = JSON.parse(entry.Detail ?? '') as Record<string, unknown>;
        announced.push({ detailType: entry.DetailType ?? '', detail });
        emit(entry.Source ?? '', entry.DetailType ?? '', detail);
        return { EventId: `e-${sequence}` };
      }),
    }));
  }) as typeof eventbridge.send;

  const sqs = clientOf(SQSClient);
  sqs.send = (async (command: unknown) => {
    if (command instanceof SendMessageCommand) {
      const { MessageBody = '', MessageAttributes, QueueUrl } = command.input;
      if (QueueUrl === ISOLATION_QUEUE_URL) {
        return effects.write('look again later', () => {
          enqueue('apply-isolation', MessageBody);
          return {};
        });
      }
      return effects.write('reject', () => {
        for (const text of [
          MessageBody,
          ...Object.values(MessageAttributes ?? {}).map((a) => a.StringValue),
        ]) {
          if (!isSqsText(text ?? ''))
            throw Object.assign(new Error('characters'), { name: 'InvalidMessageContents' });
        }
        rejected.push({ body: MessageBody, reason: MessageAttributes?.['reason']?.StringValue ?? '' });
        return {};
      });
    }
    if (command instanceof SendMessageBatchCommand) {
      return effects.write('send hints', () => {
        for (const entry of command.input.Entries ?? []) enqueue('observe-vm', entry.MessageBody ?? '');
        return { Successful: [] };
      });
    }
    throw new Error('SQS here does not know it');
  }) as typeof sqs.send;

  const objects = new Map<string, Uint8Array>();
  const s3 = clientOf(S3Client);
  s3.send = (async (command: unknown) => {
    if (command instanceof ListObjectVersionsCommand) {
      const { Bucket, Prefix } = command.input;
      const found = [...objects.keys()].filter((name) => name.startsWith(`${Bucket}/${Prefix}`));
      return { Versions: found.map((name) => ({ Key: name.slice(`${Bucket}/`.length), VersionId: '1' })) };
    }
    if (command instanceof DeleteObjectCommand) {
      return effects.write('delete object', () => {
        objects.delete(`${command.input.Bucket}/${command.input.Key}`);
        return {};
      });
    }
    if (!(command instanceof PutObjectCommand)) throw new Error('S3 here does not know it');
    const { Bucket, Key, Body } = command.input;
    return effects.write('put object', () => {
      objects.set(`${Bucket}/${Key}`, Body as Uint8Array);
      return {};
    });
  }) as typeof s3.send;

  for (const client of [ec2.client, dynamodb.client, autoScaling.client, kms, eventbridge, sqs, s3])
    failing(client);

  const telemetry = () =>
    options.logLevel === undefined || options.logLevel === 'SILENT'
      ? silent
      : {
          logger: new Logger({ logLevel: options.logLevel }),
          metrics: new Metrics({ namespace: 'Casemate' }),
        };
  const common = () => ({
    ...telemetry(),
    sqs,
    rejectedQueueUrl: 'https://sqs.eu-west-1.amazonaws.com/123456789012/rejected',
    table: { client: dynamodb.client, name: 'state' },
    announce: createAnnouncer(eventbridge, 'casemate'),
    policy: options.policy ?? projectPolicies(),
    now,
  });
  /** The functions as one execution environment has them: what runs at once shares none of it. */
  const functionsIn = (mode: Mode, isolation: Partial<IsolationSettings> = options.isolation ?? {}) => ({
    'observe-vm': observeVm({ ...common(), ec2: ec2.client, region: REGION }),
    'issue-disk-keys': issueDiskKeys({
      ...common(),
      kms,
      diskKeyId: DISK_KEY_ID,
      randomUuid: () => {
        const hex = randomBytes(16).toString('hex');
        return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
      },
    }),
    'ingest-report': ingestReport({
      ...common(),
      shadowPolicy: options.shadowPolicy,
      apiOrigin: options.apiOrigin ?? API_ORIGIN,
      reportMaxAgeSeconds: 900,
      evidenceMaxAgeSeconds: 7200,
      evidencePolicies: options.evidencePolicies ?? defaultPolicies,
      authorities: options.authorities ?? [],
      ...(options.evidenceRoots ? { evidenceRoots: options.evidenceRoots } : {}),
    }),
    'apply-isolation': applyIsolation({
      ...common(),
      ec2: ec2.client,
      ...isolationSettings(mode, isolation),
    }),
    'complete-launch': completeLaunch({ ...common(), autoScaling: autoScaling.client }),
    sweep: sweep({
      ...common(),
      ec2: ec2.client,
      observeQueueUrl: 'https://sqs.eu-west-1.amazonaws.com/123456789012/observe',
      enforcement: isolationSettings(mode, isolation).enforcement,
      profiles: isolationSettings(mode, isolation).profiles,
      deniesCredentials: false,
    }),
  });
  const handlers = functionsIn(options.mode ?? 'enforce');

  /** Hands messages to a worker as Lambda would. What it returns, or dies over, goes back to the queue. */
  const deliver = async (
    queue: QueueName,
    messages: readonly Message[],
    functions: Pick<typeof handlers, QueueName> = handlers,
  ): Promise<SQSBatchResponse | 'died'> => {
    const waiting = queues.get(queue) ?? [];
    queues.set(
      queue,
      waiting.filter((m) => !messages.includes(m)),
    );
    for (const message of messages) message.receives += 1;
    const event: SQSEvent = { Records: messages.map((m) => toRecord(queue, m)) };
    const back = (failed: readonly Message[]) => {
      const parked = (message: Message) =>
        message.receives >= (options.maxReceives ?? Number.POSITIVE_INFINITY);
      deadLetters.push(...failed.filter(parked));
      queues.get(queue)?.push(...failed.filter((message) => !parked(message)));
    };
    try {
      const answer = await functions[queue](event, CONTEXT as Context);
      const failed = new Set(answer.batchItemFailures.map((f) => f.itemIdentifier));
      back(messages.filter((m) => failed.has(m.id)));
      return answer;
    } catch {
      back(messages);
      return 'died';
    }
  };

  /** Delivers until every queue is empty. `pick` chooses the next batch. */
  const drain = async (
    pick: (waiting: readonly Message[]) => readonly Message[] = (waiting) => waiting.slice(0, 10),
  ): Promise<void> => {
    for (let turns = 0; ; turns++) {
      if (turns > 2000)
        throw new Error(`the queues do not empty: ${[...queues].map(([n, q]) => `${n} ${q.length}`)}`);
      const queue = QUEUES.find((name) => (queues.get(name)?.length ?? 0) > 0);
      if (!queue) return;
      await deliver(queue, pick(queues.get(queue) ?? []));
    }
  };

  return {
    ...ec2,
    rows: dynamodb.rows,
    effects,
    queues,
    deadLetters,
    rejected,
    announced,
    ...keys,
    /** What lies in buckets, by bucket and key. */
    objects,
    s3,
    kms,
    autoScaling,
    handlers,
    functionsIn,
    /** Puts something between the functions and AWS, in place of what stood there before. */
    stand(next: Between) {
      between = next;
    },
    /** What the functions are made with; tests make their own with other settings. */
    common,
    /** Has every call of this name fail that `when` picks, until the answer is called. */
    fail(call: string, error: Error, when: Fault['when'] = () => true): () => void {
      const fault = { call, error, when };
      faults.add(fault);
      return () => {
        faults.delete(fault);
      };
    },
    mode: options.mode ?? ('enforce' as const),
    emit,
    enqueue,
    deliver,
    drain,
    now,
    advance(seconds: number) {
      clock += seconds * 1000;
    },
    sweep: () => handlers.sweep({}, CONTEXT as Context),
    stateChange(vm: { readonly id: string; readonly state: string }) {
      emit('aws.ec2', 'EC2 Instance State-change Notification', { 'instance-id': vm.id, state: vm.state });
    },
    async record(id: string): Promise<VmRecord | undefined> {
      const rows = async function* () {
        yield* dynamodb.rows.values();
      };
      const { fleet, corrupt } = await assembleFleet(rows());
      if (corrupt.length > 0) throw new Error(`corrupt: ${JSON.stringify(corrupt)}`);
      return fleet.get(id);
    },
  };
}

export type World = ReturnType<typeof createWorld>;

/** https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html; empty is refused too. */
function isSqsText(text: string): boolean {
  return /^[\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]+$/u.test(text);
}

export const DISK_KEY_ID = 'arn:aws:kms:eu-west-1:123456789012:key/disk-keys';

export const API_ORIGIN = 'https://api.casemate.example';

const CONTEXT: Partial<Context> = {
  functionName: 'test',
  functionVersion: '1',
  invokedFunctionArn: 'arn:aws:lambda:eu-west-1:123456789012:function:test',
  memoryLimitInMB: '256',
  awsRequestId: '00000000-0000-4000-8000-000000000000',
  getRemainingTimeInMillis: () => 30_000,
};

function toRecord(queue: string, message: Message): SQSRecord {
  return {
    messageId: message.id,
    receiptHandle: message.id,
    body: message.body,
    attributes: {
      ApproximateReceiveCount: String(message.receives),
      SentTimestamp: String(message.sentAt.getTime()),
      SenderId: 'AIDAIENQZJOLO23YVJ4VO',
      ApproximateFirstReceiveTimestamp: String(message.sentAt.getTime()),
    },
    messageAttributes: {},
    md5OfBody: '',
    eventSource: 'aws:sqs',
    eventSourceARN: `arn:aws:sqs:eu-west-1:123456789012:${queue}`,
    awsRegion: 'eu-west-1',
  };
}
