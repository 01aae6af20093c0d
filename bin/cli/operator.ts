import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { getItems, putVersioned, VersionConflictError } from '../../lambdas/aws/dynamodb.ts';
import { createAnnouncer } from '../../lambdas/aws/eventbridge.ts';
import {
  nextOperator,
  type OperatorChange,
  type OperatorDecision,
  type OperatorItem,
  operatorItem,
} from '../../lib/domain/operator.ts';
import { type Connection, ConnectionError } from './connection.ts';
import { UsageError } from './usage.ts';

/** Another operator decided about the VM at the same time, and was first. The message says who, what and why. */
export class OvertakenError extends Error {
  override readonly name = 'OvertakenError';
}

/** An operator's decision takes at most so long a reason. */
const REASON_MAX = 1024;

/** What operators decided about a VM. */
export async function readOperator(
  connection: Pick<Connection, 'dynamodb' | 'tableName'>,
  instanceId: string,
): Promise<OperatorItem | undefined> {
  const pk = `operator#${instanceId}`;
  const table = { client: connection.dynamodb, name: connection.tableName };
  return (await getItems(table, [pk], operatorItem)).get(pk);
}

/**
 * Who decides, when and why. Who is what STS says of the caller, so that nobody decides in another's name.
 *
 * @throws UsageError without a reason
 */
export async function decisionOf(
  connection: Pick<Connection, 'client'>,
  reason: string,
): Promise<OperatorDecision> {
  const why = reason.trim();
  if (why === '' || why.length > REASON_MAX)
    throw new UsageError(`--reason takes a text of at most ${REASON_MAX} characters`);
  const { Arn } = await new STSClient(connection.client).send(new GetCallerIdentityCommand({}));
  if (!Arn) throw new ConnectionError('STS does not say who you are');
  return { at: new Date().toISOString(), by: Arn, reason: why };
}

/**
 * Writes a decision over what was read, and says so on the bus, so that it is acted upon at once. Store before
 * announce: what is stored is found by the sweep, however the announcement ends.
 *
 * @throws OvertakenError when somebody else decided since `before` was read
 */
export async function decide(
  connection: Pick<Connection, 'dynamodb' | 'tableName' | 'client' | 'outputs' | 'where'>,
  before: OperatorItem | undefined,
  change: OperatorChange,
): Promise<OperatorItem> {
  const { instanceId, what, decision } = change;
  const busName = connection.outputs['BusName'];
  if (!busName)
    throw new ConnectionError(`${connection.where} has no output BusName: is it a Casemate stack?`);
  const table = { client: connection.dynamodb, name: connection.tableName };
  const next = nextOperator(before, change);
  let item: OperatorItem;
  try {
    item = await putVersioned(table, `operator#${instanceId}`, before?.version, next);
  } catch (error) {
    if (!(error instanceof VersionConflictError)) throw error;
    const other = (await readOperator(connection, instanceId))?.history[0];
    const who = other ? `${other.by} decided "${other.what}" at ${other.at}, because: ${other.reason}` : '';
    throw new OvertakenError(`${instanceId}: somebody else was first. ${who}\nNothing of yours was stored.`, {
      cause: error,
    });
  }
  const announce = createAnnouncer(new EventBridgeClient(connection.client), busName);
  await announce({
    detailType: 'Operator Decided',
    detail: { schemaVersion: 1, instanceId, what, ...decision },
  });
  return item;
}
