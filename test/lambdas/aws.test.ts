import {
  BatchGetItemCommand,
  ConditionalCheckFailedException,
  DynamoDBClient,
  PutItemCommand,
  ScanCommand,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient, type PutEventsCommand } from '@aws-sdk/client-eventbridge';
import { GenerateDataKeyWithoutPlaintextCommand, KMSClient } from '@aws-sdk/client-kms';
import { SQSClient } from '@aws-sdk/client-sqs';
import { marshall } from '@aws-sdk/util-dynamodb';
import { describe, expect, test } from '@jest/globals';
import * as z from 'zod';
import {
  CorruptItemError,
  consumeChallenge,
  getItems,
  getKinds,
  putVersioned,
  readTogether,
  scanItems,
  UnprocessedKeysError,
  VersionConflictError,
} from '../../lambdas/aws/dynamodb.ts';
import { interfacesOf, listLiveInstanceIds, observeVms } from '../../lambdas/aws/ec2.ts';
import { AnnounceError, createAnnouncer } from '../../lambdas/aws/eventbridge.ts';
import { generateWrappedKey, KmsShapeError } from '../../lambdas/aws/kms.ts';
import { SendError, sendAll } from '../../lambdas/aws/sqs.ts';
import type { CasemateEvent } from '../../lib/domain/events.ts';
import { AT, NOW } from '../world/items.ts';

/** A client whose every command is answered by `answer`. */
function answering<C extends { send: unknown }>(
  client: C,
  answer: (command: never, n: number) => unknown,
): C {
  let n = 0;
  client.send = async (command: never) => answer(command, n++);
  return client;
}
const dynamodb = (answer: (command: never, n: number) => unknown) => ({
  client: answering(new DynamoDBClient({ region: 'eu-west-1' }), answer),
  name: 'state',
});
const item = z.strictObject({ pk: z.string(), n: z.number() });

describe('items that are read together', () => {
  const versioned = z.strictObject({ pk: z.string(), version: z.number() });
  const keys = ['operator#1', 'posture#1', 'posture#2'];

  /** A table in which somebody writes after some of the reads: the nth read finds the nth state, the last goes on. */
  function writtenMeanwhile(...states: Record<string, number>[]) {
    let reads = 0;
    return dynamodb((command: BatchGetItemCommand) => {
      const state = states[Math.min(reads++, states.length - 1)] ?? {};
      const asked = (command.input.RequestItems?.['state']?.Keys ?? []).map((key) => key['pk']?.S ?? '');
      const rows = asked.flatMap((pk) =>
        state[pk] === undefined ? [] : [marshall({ pk, version: state[pk] })],
      );
      return { Responses: { state: rows } };
    });
  }
  const together = (table: ReturnType<typeof dynamodb>) =>
    readTogether(table, keys, async () => ({
      operator: await getItems(table, ['operator#1'], versioned),
      posture: await getItems(table, ['posture#1', 'posture#2'], versioned),
    }));

  test('are given when nobody wrote in between', async () => {
    const { items, moved } = await together(writtenMeanwhile({ 'operator#1': 1, 'posture#1': 4 }));
    expect([...moved]).toEqual([]);
    expect(items.posture.get('posture#1')).toEqual({ pk: 'posture#1', version: 4 });
    expect(items.posture.get('posture#2')).toBeUndefined();
  });

  test('are read again when one came, changed or went, and never mixed', async () => {
    const old = { 'operator#1': 1, 'posture#1': 4 };
    for (const now of [{ ...old, 'posture#1': 5 }, { 'posture#1': 4 }, { ...old, 'posture#2': 1 }]) {
      // The operator's item is read before somebody writes, and the postures after.
      const { items, moved } = await together(writtenMeanwhile(old, now));
      expect([...moved]).toEqual([]);
      const read = [items.operator, items.posture].flatMap((kind) =>
        kind.values().map(({ pk, version }) => [pk, version]),
      );
      expect(Object.fromEntries(read)).toEqual(now);
    }
  });

  test('are named when somebody keeps writing them', async () => {
    let version = 0;
    const table = dynamodb((command: BatchGetItemCommand) => {
      const asked = (command.input.RequestItems?.['state']?.Keys ?? []).map((key) => key['pk']?.S ?? '');
      version++;
      const rows = asked.map((pk) => marshall({ pk, version: pk === 'posture#2' ? version : 1 }));
      return { Responses: { state: rows } };
    });
    expect([...(await together(table)).moved]).toEqual(['posture#2']);
  });
});

test('items of several kinds are read in one call, each by its own schema, and a corrupt one fails alone', async () => {
  let calls = 0;
  const table = dynamodb((command: BatchGetItemCommand) => {
    calls++;
    const keys = (command.input.RequestItems?.['state']?.Keys ?? []).map((key) => key['pk']?.S ?? '');
    expect(keys).toEqual(['a#1', 'a#2', 'b#1', 'b#2']);
    return { Responses: { state: [marshall({ pk: 'a#1', n: 1 }), marshall({ pk: 'b#2', m: 'x' })] } };
  });
  const b = z.strictObject({ pk: z.string(), m: z.number() });
  const items = await getKinds(table, ['1', '2'], { a: item, b });
  expect(calls).toBe(1);
  expect(items.a.get('a#1')).toEqual({ pk: 'a#1', n: 1 });
  expect(items.a.get('a#2')).toBeUndefined();
  expect(() => items.b.get('b#2')).toThrow(CorruptItemError);
  expect(items.b.values()).toEqual([]);
});

describe('reading items', () => {
  test('asks for each key once, a hundred at a time, and consistently', async () => {
    const asked: number[] = [];
    const table = dynamodb((command: BatchGetItemCommand) => {
      expect(command).toBeInstanceOf(BatchGetItemCommand);
      const request = command.input.RequestItems?.['state'];
      expect(request?.ConsistentRead).toBe(true);
      asked.push(request?.Keys?.length ?? 0);
      return { Responses: { state: (request?.Keys ?? []).map((k) => ({ ...k, n: { N: '1' } })) } };
    });
    const keys = Array.from({ length: 250 }, (_, i) => `a#${i}`);
    const items = await getItems(table, [...keys, ...keys], item);
    expect(asked.toSorted((a, b) => b - a)).toEqual([100, 100, 50]);
    expect(items.values()).toHaveLength(250);
    expect(items.get('a#249')).toEqual({ pk: 'a#249', n: 1 });
    expect(items.get('a#250')).toBeUndefined();
  });

  test('asks again for what the table left, and gives up in the end', async () => {
    const left = (keys: string[]) => ({
      UnprocessedKeys: { state: { Keys: keys.map((pk) => marshall({ pk })) } },
    });
    const patient = dynamodb((_: never, n) =>
      n < 2 ? left(['a#1']) : { Responses: { state: [marshall({ pk: 'a#1', n: 1 })] } },
    );
    expect((await getItems(patient, ['a#1'], item)).get('a#1')).toEqual({ pk: 'a#1', n: 1 });
    await expect(
      getItems(
        dynamodb(() => left(['a#1'])),
        ['a#1'],
        item,
      ),
    ).rejects.toThrow(UnprocessedKeysError);
  }, 20_000);

  test('takes nothing for an item that is not one', async () => {
    const rows = [marshall({ pk: 'a#1', n: 'one' }), marshall({ pk: 'a#2', n: 2 })];
    const items = await getItems(
      dynamodb(() => ({ Responses: { state: rows } })),
      ['a#1', 'a#2'],
      item,
    );
    expect(items.get('a#2')).toEqual({ pk: 'a#2', n: 2 });
    expect(items.values()).toEqual([{ pk: 'a#2', n: 2 }]);
    expect(() => items.get('a#1')).toThrow(CorruptItemError);
    expect(() => items.get('a#1')).toThrow(/^a#1: /);
  });

  test('goes through every page of the table', async () => {
    const table = dynamodb((command: ScanCommand, n) => {
      expect(command).toBeInstanceOf(ScanCommand);
      const Items = [marshall({ pk: `a#${n}` })];
      return n < 3 ? { Items, LastEvaluatedKey: marshall({ pk: `a#${n}` }) } : { Items };
    });
    const all: unknown[] = [];
    for await (const row of scanItems(table)) all.push(row['pk']);
    expect(all).toEqual(['a#0', 'a#1', 'a#2', 'a#3']);
  });
});

describe('writing an item', () => {
  test('that is new wants none to be there; one that was read wants its version', async () => {
    const conditions: unknown[] = [];
    const table = dynamodb((command: PutItemCommand) => {
      conditions.push([command.input.ConditionExpression, command.input.ExpressionAttributeValues]);
      return {};
    });
    await expect(putVersioned(table, 'a#1', undefined, { n: 1 })).resolves.toEqual({
      pk: 'a#1',
      version: 1,
      n: 1,
    });
    await expect(putVersioned(table, 'a#1', 7, { n: 2 })).resolves.toEqual({ pk: 'a#1', version: 8, n: 2 });
    expect(conditions).toEqual([
      ['attribute_not_exists(pk)', undefined],
      ['version = :read', { ':read': { N: '7' } }],
    ]);
  });

  test('that somebody else wrote first is a conflict, which keeps its cause', async () => {
    const cause = new ConditionalCheckFailedException({ message: 'no', $metadata: {} });
    const table = dynamodb((command: never) => {
      expect(command).toBeInstanceOf(PutItemCommand);
      throw cause;
    });
    const outcome = await putVersioned(table, 'a#1', 1, {}).catch((error: unknown) => error);
    expect(outcome).toBeInstanceOf(VersionConflictError);
    expect(outcome).toMatchObject({ cause, message: expect.stringContaining('a#1') });
  });

  test('that the table does not take for another reason fails with that reason', async () => {
    const table = dynamodb(() => {
      throw new Error('slow down');
    });
    await expect(putVersioned(table, 'a#1', 1, {})).rejects.toThrow('slow down');
  });
});

test('a challenge is consumed by one write, which wants all four of its conditions', async () => {
  const commands: UpdateItemCommand[] = [];
  const table = dynamodb((command: UpdateItemCommand) => {
    commands.push(command);
    return {};
  });
  await consumeChallenge(table, 'nonce#x', { instanceId: 'i-00000001', purpose: 'enrol', now: NOW });
  expect(commands).toHaveLength(1);
  expect(commands[0]).toBeInstanceOf(UpdateItemCommand);
  expect(commands[0]?.input.ConditionExpression?.split(' AND ').sort()).toEqual([
    'expiresAtMs > :now',
    'instanceId = :instance',
    'purpose = :purpose',
    'used = :false',
  ]);
  expect(commands[0]?.input.ExpressionAttributeValues).toMatchObject({
    ':now': { N: String(NOW.getTime()) },
  });
});

describe('announcing', () => {
  const event = (n: number): CasemateEvent => ({
    detailType: 'Report Refused',
    detail: { schemaVersion: 1, instanceId: `i-0000000${n}`, at: AT, reason: 'REPORT_TIME_SKEW' },
  });
  const bus = (answer: (command: PutEventsCommand, n: number) => unknown) =>
    createAnnouncer(answering(new EventBridgeClient({ region: 'eu-west-1' }), answer as never), 'casemate');

  test('shares calls of ten, and names source and bus', async () => {
    const sizes: number[] = [];
    const announce = bus((command) => {
      const entries = command.input.Entries ?? [];
      sizes.push(entries.length);
      for (const entry of entries)
        expect(entry).toMatchObject({ Source: 'casemate', EventBusName: 'casemate' });
      return { Entries: entries.map(() => ({ EventId: 'e' })) };
    });
    await Promise.all(Array.from({ length: 23 }, (_, i) => announce(event(i % 10))));
    expect(sizes).toEqual([10, 10, 3]);
  });

  test('fails for exactly the entries that the bus did not take', async () => {
    const announce = bus((command) => ({
      FailedEntryCount: 1,
      Entries: (command.input.Entries ?? []).map((_, i) =>
        i === 1 ? { ErrorCode: 'ThrottlingException', ErrorMessage: 'slow down' } : { EventId: 'e' },
      ),
    }));
    const outcomes = await Promise.allSettled([0, 1, 2].map((n) => announce(event(n))));
    expect(outcomes.map((o) => o.status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(outcomes[1]).toMatchObject({ reason: expect.any(AnnounceError) });
    expect(outcomes[1]).toMatchObject({ reason: { message: 'Report Refused: ThrottlingException' } });
  });

  test('fails for an entry that got no answer, and for all when the call failed', async () => {
    await expect(bus(() => ({ Entries: [] }))(event(1))).rejects.toThrow(AnnounceError);
    const failing = bus(() => {
      throw new Error('slow down');
    });
    const outcomes = await Promise.allSettled([failing(event(1)), failing(event(2))]);
    expect(outcomes.map((o) => o.status)).toEqual(['rejected', 'rejected']);
  });
});

describe('sending hints', () => {
  test('goes ten a call, each with its own id, and fails when one was not taken', async () => {
    const calls: string[][] = [];
    const sqs = (fail: boolean) =>
      answering(
        new SQSClient({ region: 'eu-west-1' }),
        (command: { input: { Entries: { Id: string }[] } }) => {
          calls.push(command.input.Entries.map((e) => e.Id));
          return fail ? { Failed: [{ Id: '1', Code: 'InternalError' }] } : { Successful: [] };
        },
      );
    await sendAll(sqs(false), 'https://q', Array(12).fill('{}'));
    expect(calls.map((c) => [c.length, new Set(c).size])).toEqual([
      [10, 10],
      [2, 2],
    ]);
    await expect(sendAll(sqs(true), 'https://q', ['{}', '{}'])).rejects.toThrow(SendError);
  });
});

describe('a disk key', () => {
  const context = { 'casemate:vm': 'i-00000001' };
  test('is 64 bytes, bound to its context, and its plaintext is not even asked for', async () => {
    const kms = answering(
      new KMSClient({ region: 'eu-west-1' }),
      (command: GenerateDataKeyWithoutPlaintextCommand) => {
        expect(command).toBeInstanceOf(GenerateDataKeyWithoutPlaintextCommand);
        expect(command.input).toEqual({ KeyId: 'arn:k', NumberOfBytes: 64, EncryptionContext: context });
        return { CiphertextBlob: Buffer.from('wrapped') };
      },
    );
    await expect(generateWrappedKey(kms, 'arn:k', context)).resolves.toBe('d3JhcHBlZA==');
  });

  test('without ciphertext is an error, not an empty key', async () => {
    const kms = answering(new KMSClient({ region: 'eu-west-1' }), () => ({}));
    await expect(generateWrappedKey(kms, 'arn:k', context)).rejects.toThrow(KmsShapeError);
  });
});

describe('EC2', () => {
  const paged = (pages: object[]) =>
    answering(new EC2Client({ region: 'eu-west-1' }), (command: { constructor: { name: string } }, n) => {
      if (command.constructor.name === 'DescribeVolumesCommand') return { Volumes: [] };
      return { ...pages[n], ...(n < pages.length - 1 ? { NextToken: `t${n}` } : {}) };
    });
  const instance = (id: string, more: object = {}) => ({
    InstanceId: id,
    State: { Name: 'running' },
    LaunchTime: NOW,
    InstanceType: 'm6a.large',
    ...more,
  });
  const reservation = (...instances: object[]) => ({
    Reservations: [{ OwnerId: '123456789012', Instances: instances }],
  });

  test('is read to its last page', async () => {
    const ec2 = paged([reservation(instance('i-00000001')), {}, reservation(instance('i-00000002'))]);
    await expect(listLiveInstanceIds(ec2)).resolves.toEqual(['i-00000001', 'i-00000002']);
    const enis = [1, 2].map((n) => ({
      NetworkInterfaces: [
        { NetworkInterfaceId: `eni-0000000${n}`, VpcId: 'vpc-1', Attachment: { InstanceId: 'i-00000001' } },
      ],
    }));
    const found = await interfacesOf(paged(enis), ['i-00000001']);
    expect(found.get('i-00000001')?.map((eni) => eni.id)).toEqual(['eni-00000001', 'eni-00000002']);
  });

  test.each([
    [undefined, null],
    [{}, 'disabled'],
    [{ AmdSevSnp: 'enabled' }, 'enabled'],
    [{ AmdSevSnp: 'disabled' }, 'disabled'],
  ])('that says CpuOptions %j says SEV-SNP %s', async (CpuOptions, amdSevSnp) => {
    const seen = await observeVms(paged([reservation(instance('i-00000001', { CpuOptions }))]), 'eu-west-1', [
      'i-00000001',
    ]);
    expect(seen.get('i-00000001')).toMatchObject({ amdSevSnp, nestedVirtualization: null });
  });

  test.each([
    [{ InterfaceType: 'interface' }, 'customer'],
    [{ InterfaceType: 'branch' }, 'requester'],
    [{ RequesterManaged: true }, 'requester'],
    [{ Operator: { Managed: true, Principal: 'eks.amazonaws.com' } }, 'requester'],
  ])('that shows an interface as %j shows one of the %s', async (more, managedBy) => {
    const eni = { NetworkInterfaceId: 'eni-00000001', Attachment: { InstanceId: 'i-00000001' }, ...more };
    const found = await interfacesOf(paged([{ NetworkInterfaces: [eni] }]), ['i-00000001']);
    expect(found.get('i-00000001')?.[0]?.managedBy).toBe(managedBy);
  });
});
