import {
  BatchGetItemCommand,
  ConditionalCheckFailedException,
  type DynamoDBClient,
  PutItemCommand,
  paginateScan,
  TransactionCanceledException,
  TransactWriteItemsCommand,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { marshall, unmarshall } from '@aws-sdk/util-dynamodb';
import * as z from 'zod';

/** Somebody else wrote the item first. Retryable: look again, decide again. */
export class VersionConflictError extends Error {
  override readonly name = 'VersionConflictError';
  constructor(key: string, options?: ErrorOptions) {
    super(`${key} was written by somebody else meanwhile`, options);
  }
}

/** An item in the table does not have its schema. Not retryable: nothing is decided on it. */
export class CorruptItemError extends Error {
  override readonly name = 'CorruptItemError';
}

/** The table left keys unread however often it was asked: it is throttled. Retryable. */
export class UnprocessedKeysError extends Error {
  override readonly name = 'UnprocessedKeysError';
}

export interface Table {
  readonly client: DynamoDBClient;
  readonly name: string;
}

/** What every versioned item has. */
interface Versioned {
  readonly pk: string;
  readonly version: number;
}

const BATCH_GET_MAX = 100;

/** Two of these apart by doubling waits take about two seconds. */
const BATCH_GET_ATTEMPTS = 6;

/** Items by key. A corrupt one throws when it is asked for, so that it fails alone and not its batch. */
export interface Items<T> {
  /** @throws CorruptItemError */
  get(pk: string): T | undefined;
  /** Those that are not corrupt. */
  values(): readonly T[];
}

/**
 * Reads items by key, strongly consistent, as many as asked for. Absent keys are absent in the answer.
 *
 * @throws UnprocessedKeysError
 */
export async function getItems<T>(
  table: Table,
  keys: readonly string[],
  schema: z.ZodType<T>,
): Promise<Items<T>> {
  return parsed(await readRows(table, keys), schema);
}

/** Which items, and what they should be. */
export interface Wanted {
  readonly keys: readonly string[];
  readonly schema: z.ZodType;
}

/**
 * Reads items of several kinds in one go, as `getItems` does: a call takes a hundred keys of any kind.
 *
 * @throws UnprocessedKeysError
 */
export async function getTogether<All extends Readonly<Record<string, Wanted>>>(
  table: Table,
  wanted: All,
): Promise<{ readonly [Name in keyof All]: Items<z.infer<All[Name]['schema']>> }> {
  const rows = await readRows(
    table,
    Object.values(wanted).flatMap(({ keys }) => keys),
  );
  const items = Object.entries(wanted).map(([name, { keys, schema }]) => {
    const own = new Map(keys.filter((pk) => rows.has(pk)).map((pk) => [pk, rows.get(pk)]));
    return [name, parsed(own, schema)];
  });
  return Object.fromEntries(items) as { [Name in keyof All]: Items<z.infer<All[Name]['schema']>> };
}

/**
 * The keys of the items of several kinds of the same things.
 *
 * @param ids what stands behind the kind in the keys
 * @param kinds schemas by kind, which keys start with
 */
export function kindsOf<Schemas extends Readonly<Record<string, z.ZodType>>>(
  ids: readonly string[],
  kinds: Schemas,
): { readonly [Kind in keyof Schemas]: Wanted & { readonly schema: Schemas[Kind] } } {
  const wanted = Object.entries(kinds).map(([kind, schema]) => [
    kind,
    { keys: ids.map((id) => `${kind}#${id}`), schema },
  ]);
  return Object.fromEntries(wanted) as {
    [Kind in keyof Schemas]: Wanted & { readonly schema: Schemas[Kind] };
  };
}

/** The items of several kinds of the same things. @throws UnprocessedKeysError */
export function getKinds<Schemas extends Readonly<Record<string, z.ZodType>>>(
  table: Table,
  ids: readonly string[],
  kinds: Schemas,
): Promise<{ readonly [Kind in keyof Schemas]: Items<z.infer<Schemas[Kind]>> }> {
  return getTogether(table, kindsOf(ids, kinds));
}

/** The rows of these keys, strongly consistent. @throws UnprocessedKeysError */
async function readRows(table: Table, keys: readonly string[]): Promise<ReadonlyMap<string, unknown>> {
  const found = new Map<string, unknown>();
  const unique = [...new Set(keys)];
  const chunks: string[][] = [];
  for (let i = 0; i < unique.length; i += BATCH_GET_MAX) chunks.push(unique.slice(i, i + BATCH_GET_MAX));
  await Promise.all(
    chunks.map(async (chunk) => {
      let request: string[] = chunk;
      for (let attempt = 0; request.length > 0; attempt++) {
        if (attempt >= BATCH_GET_ATTEMPTS) throw new UnprocessedKeysError(`${request.length} keys left`);
        if (attempt > 0)
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 50 * 2 ** attempt));
        const answer = await table.client.send(
          new BatchGetItemCommand({
            RequestItems: {
              [table.name]: { Keys: request.map((pk) => marshall({ pk })), ConsistentRead: true },
            },
          }),
        );
        for (const row of answer.Responses?.[table.name] ?? []) {
          const item: Record<string, unknown> = unmarshall(row);
          found.set(String(item['pk']), item);
        }
        request = (answer.UnprocessedKeys?.[table.name]?.Keys ?? []).map((key) =>
          String(unmarshall(key)['pk']),
        );
      }
    }),
  );
  return found;
}

function parsed<T>(rows: ReadonlyMap<string, unknown>, schema: z.ZodType<T>): Items<T> {
  const results = new Map([...rows].map(([pk, row]) => [pk, schema.safeParse(row)] as const));
  return {
    get(pk) {
      const result = results.get(pk);
      if (result?.success === false) throw new CorruptItemError(`${pk}: ${result.error.message}`);
      return result?.data;
    },
    values: () => [...results.values()].flatMap((result) => (result.success ? [result.data] : [])),
  };
}

const stamp = z.looseObject({ pk: z.string(), version: z.number() });

const READ_TOGETHER_ATTEMPTS = 3;

/**
 * Reads items of several kinds so that they stood together at one moment: what has the same version when all were read
 * and afterwards stood in between, and so did the rest. Without that, an operator's word from before somebody wrote and
 * a posture from after could decide what neither state of the table says. Read again while somebody writes.
 *
 * @param keys of the items that must have stood together
 * @returns what was read last, and the keys of what was written meanwhile
 */
export async function readTogether<T extends Readonly<Record<string, Items<Versioned>>>>(
  table: Table,
  keys: readonly string[],
  read: () => Promise<T>,
): Promise<{ readonly items: T; readonly moved: ReadonlySet<string> }> {
  for (let attempt = 1; ; attempt++) {
    const items = await read();
    const before = versionsOf(Object.values(items));
    const after = versionsOf([await getItems(table, keys, stamp)]);
    const moved = new Set(keys.filter((pk) => before.get(pk) !== after.get(pk)));
    if (moved.size === 0 || attempt === READ_TOGETHER_ATTEMPTS) return { items, moved };
  }
}

function versionsOf(items: readonly Items<Versioned>[]): ReadonlyMap<string, number> {
  return new Map(items.flatMap((kind) => kind.values().map(({ pk, version }) => [pk, version] as const)));
}

/**
 * Writes an item if its version is still the one that was read (undefined: if there is none).
 *
 * @returns the item as written, its version one higher
 * @throws VersionConflictError
 */
export async function putVersioned<T extends object>(
  table: Table,
  pk: string,
  readVersion: number | undefined,
  item: T,
): Promise<T & Versioned> {
  const written = { ...item, pk, version: (readVersion ?? 0) + 1 };
  try {
    await table.client.send(
      new PutItemCommand({ TableName: table.name, ...conditionalPut(written, readVersion) }),
    );
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException)
      throw new VersionConflictError(pk, { cause: error });
    throw error;
  }
  return written;
}

/**
 * Writes a new item.
 *
 * @throws VersionConflictError when it is there already
 */
export async function create<T extends { readonly pk: string }>(table: Table, item: T): Promise<void> {
  try {
    await table.client.send(
      new PutItemCommand({ TableName: table.name, ...conditionalPut(item, undefined) }),
    );
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException)
      throw new VersionConflictError(item.pk, { cause: error });
    throw error;
  }
}

/**
 * Writes several new items, all or none. Two transactions on the same items at once can cancel each other,
 * so that neither is stored: that is thrown as it is, to be tried again.
 *
 * @throws VersionConflictError when one of them is there already
 */
export async function createAll(
  table: Table,
  items: readonly ({ readonly pk: string } & Record<string, unknown>)[],
): Promise<void> {
  try {
    await table.client.send(
      new TransactWriteItemsCommand({
        TransactItems: items.map((item) => ({
          Put: { TableName: table.name, ...conditionalPut(item, undefined) },
        })),
      }),
    );
  } catch (error) {
    const conflict =
      error instanceof TransactionCanceledException &&
      error.CancellationReasons?.some((reason) => reason.Code === 'ConditionalCheckFailed');
    if (conflict) throw new VersionConflictError(items.map((item) => item.pk).join(', '), { cause: error });
    throw error;
  }
}

function conditionalPut(item: object, readVersion: number | undefined) {
  return {
    Item: marshall(item, { removeUndefinedValues: true }),
    ...(readVersion === undefined
      ? { ConditionExpression: 'attribute_not_exists(pk)' }
      : {
          ConditionExpression: 'version = :read',
          ExpressionAttributeValues: { ':read': { N: String(readVersion) } },
        }),
  };
}

/**
 * Marks a challenge as used by one conditional write. Where a message is delivered again after a crash,
 * `usedBy`, a digest of what answers the challenge, lets that very same answer use it again.
 *
 * @returns false when it is unknown, used, expired, or another VM's or purpose's
 */
export async function consumeChallenge(
  table: Table,
  pk: string,
  want: {
    readonly instanceId: string;
    readonly purpose: string;
    readonly usedBy?: string;
    readonly now: Date;
  },
): Promise<boolean> {
  try {
    await table.client.send(
      new UpdateItemCommand({
        TableName: table.name,
        Key: marshall({ pk }),
        UpdateExpression: want.usedBy === undefined ? 'SET used = :true' : 'SET used = :true, usedBy = :by',
        ConditionExpression: `${want.usedBy === undefined ? 'used = :false' : '(used = :false OR usedBy = :by)'} AND expiresAtMs > :now AND instanceId = :instance AND purpose = :purpose`,
        ExpressionAttributeValues: marshall({
          ':true': true,
          ':false': false,
          ...(want.usedBy === undefined ? {} : { ':by': want.usedBy }),
          ':now': want.now.getTime(),
          ':instance': want.instanceId,
          ':purpose': want.purpose,
        }),
      }),
    );
    return true;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return false;
    throw error;
  }
}

/** What a sweep decides by: all but facts, evidence and past decisions, which are most of a posture's bytes. */
const SWEPT = [
  'pk version instanceId observation firstSeenAt managed leavingScope decision missingSince gone',
  'disk copy volumeId generations standing contradicted refusals verdict reasons policies validUntil decidedAt',
  'profile applied mode interfaces changedAt evidenceRefusal',
  'quarantine hold leaveScope enrol workloadGroups tenant drift steps definition',
  'denied left faults',
  'limits groupsPerInterface rulesPerGroup expiresAt',
].flatMap((line) => line.split(' '));

/**
 * The items that a sweep decides by, page by page, eventually consistent. What was left out is given back
 * empty, so that the items keep their shape.
 */
export async function* scanItems(table: Table): AsyncGenerator<Record<string, unknown>> {
  const scan = {
    TableName: table.name,
    ProjectionExpression: SWEPT.map((_, i) => `#a${i}`).join(', '),
    ExpressionAttributeNames: Object.fromEntries(SWEPT.map((name, i) => [`#a${i}`, name])),
    FilterExpression: 'NOT begins_with(#a0, :nonce) AND NOT begins_with(#a0, :collateral)',
    ExpressionAttributeValues: { ':nonce': { S: 'nonce#' }, ':collateral': { S: 'collateral#' } },
  };
  for await (const page of paginateScan({ client: table.client }, scan)) {
    for (const row of page.Items ?? []) {
      const item: Record<string, unknown> = unmarshall(row);
      const pk = String(item['pk']);
      if (pk.startsWith('posture#')) yield { ...item, facts: [], attestations: [], decisions: [] };
      else if (pk.startsWith('isolation#')) yield { ...item, decisions: [] };
      else if (pk.startsWith('operator#')) yield { ...item, history: [] };
      else yield item;
    }
  }
}

/** Whole items of some kinds, page by page, eventually consistent. */
export async function* scanKinds(
  table: Table,
  kinds: readonly string[],
): AsyncGenerator<Record<string, unknown>> {
  const scan = {
    TableName: table.name,
    FilterExpression: kinds.map((_, i) => `begins_with(pk, :kind${i})`).join(' OR '),
    ExpressionAttributeValues: Object.fromEntries(kinds.map((kind, i) => [`:kind${i}`, { S: `${kind}#` }])),
  };
  for await (const page of paginateScan({ client: table.client }, scan)) {
    for (const row of page.Items ?? []) yield unmarshall(row);
  }
}
