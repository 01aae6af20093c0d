import {
  BatchGetItemCommand,
  type BatchGetItemCommandInput,
  ConditionalCheckFailedException,
  DynamoDBClient,
  PutItemCommand,
  ScanCommand,
  TransactionCanceledException,
  TransactWriteItemsCommand,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { unmarshall } from '@aws-sdk/util-dynamodb';
import type { Effects } from './effects.ts';

type Row = Record<string, unknown>;
type Marshalled = Parameters<typeof unmarshall>[0];

interface Put {
  readonly Item?: Marshalled | undefined;
  readonly ConditionExpression?: string | undefined;
  readonly ExpressionAttributeValues?: Marshalled | undefined;
}

/** A table at the edge of the client: real commands in, DynamoDB's answers and exceptions out. */
export function fakeDynamoDb(effects: Effects): { client: DynamoDBClient; rows: Map<string, Row> } {
  const rows = new Map<string, Row>();
  const client = Object.create(DynamoDBClient.prototype) as DynamoDBClient;

  const checked = (put: Put): Row => {
    const item = unmarshall(put.Item as Marshalled);
    const values = put.ExpressionAttributeValues ? unmarshall(put.ExpressionAttributeValues) : {};
    if (!holds(put.ConditionExpression, rows.get(item['pk'] as string), values)) throw conditionFailed();
    return item;
  };

  const send = async (command: unknown): Promise<unknown> => {
    if (command instanceof BatchGetItemCommand) {
      await effects.read();
      const answers: Record<string, Marshalled[]> = {};
      for (const [table, request] of Object.entries(command.input.RequestItems ?? {}) as [
        string,
        NonNullable<BatchGetItemCommandInput['RequestItems']>[string],
      ][]) {
        if ((request.Keys?.length ?? 0) > 100) throw new Error('too many items requested for BatchGetItem');
        answers[table] = (request.Keys ?? []).flatMap((key) => {
          const row = rows.get(String(unmarshall(key)['pk']));
          return row ? [toAttributes(row)] : [];
        });
      }
      return { Responses: answers, UnprocessedKeys: {} };
    }
    if (command instanceof PutItemCommand) {
      return effects.write(`put ${unmarshall(command.input.Item as Marshalled)['pk']}`, () => {
        const item = checked(command.input);
        rows.set(item['pk'] as string, item);
        return {};
      });
    }
    if (command instanceof TransactWriteItemsCommand) {
      const puts = (command.input.TransactItems ?? []).map((item) => item.Put as Put);
      return effects.write(`transact ${puts.length}`, () => {
        let items: Row[];
        try {
          items = puts.map(checked);
        } catch (error) {
          throw new TransactionCanceledException({
            message: 'cancelled',
            $metadata: {},
            CancellationReasons: [{ Code: (error as Error).name.replace(/Exception$/, '') }],
          });
        }
        for (const item of items) rows.set(item['pk'] as string, item);
        return {};
      });
    }
    if (command instanceof UpdateItemCommand) {
      const { Key, ConditionExpression, ExpressionAttributeValues } = command.input;
      const pk = String(unmarshall(Key as Marshalled)['pk']);
      const values = unmarshall(ExpressionAttributeValues as Marshalled);
      return effects.write(`update ${pk}`, () => {
        if (!holds(ConditionExpression, rows.get(pk), values)) throw conditionFailed();
        const update = /^SET (\w+ = :\w+(?:, \w+ = :\w+)*)$/.exec(command.input.UpdateExpression ?? '');
        if (!update) throw new Error('unknown update');
        const set = (update[1] as string).split(', ').map((term) => {
          const [attribute, value] = term.split(' = ') as [string, string];
          return [attribute, values[value]] as const;
        });
        rows.set(pk, { ...rows.get(pk), pk, ...Object.fromEntries(set) });
        return {};
      });
    }
    if (command instanceof ScanCommand) {
      await effects.read();
      return { Items: [...rows.values()].map(toAttributes) };
    }
    throw new Error(`the table does not know ${(command as object).constructor.name}`);
  };
  client.send = send as typeof client.send;
  return { client, rows };
}

/** Evaluates the conditions that this project writes: comparisons joined by AND. */
function holds(condition: string | undefined, row: Row | undefined, values: Row): boolean {
  if (condition === undefined) return true;
  return condition.split(' AND ').every((term) => {
    const either = /^\((.+) OR (.+)\)$/.exec(term);
    if (either) return holds(either[1], row, values) || holds(either[2], row, values);
    if (term === 'attribute_not_exists(pk)') return row === undefined;
    const match = /^(\w+) (=|>) (:\w+)$/.exec(term);
    if (!match) throw new Error(`the table does not know the condition ${term}`);
    const [, attribute, operator, value] = match as unknown as [string, string, string, string];
    if (row === undefined || !(attribute in row)) return false;
    const left = row[attribute];
    const right = values[value];
    return operator === '=' ? left === right : Number(left) > Number(right);
  });
}

function conditionFailed(): Error {
  return new ConditionalCheckFailedException({ message: 'The conditional request failed', $metadata: {} });
}

/** Plain values to attribute values, for what our items hold. */
function toAttributes(row: Row): Marshalled {
  const convert = (value: unknown): unknown => {
    if (value === null) return { NULL: true };
    if (typeof value === 'string') return { S: value };
    if (typeof value === 'number') return { N: String(value) };
    if (typeof value === 'boolean') return { BOOL: value };
    if (Array.isArray(value)) return { L: value.map(convert) };
    return { M: Object.fromEntries(Object.entries(value as Row).map(([k, v]) => [k, convert(v)])) };
  };
  return (convert(row) as { M: Marshalled }).M;
}
