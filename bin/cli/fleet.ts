import { paginateScan } from '@aws-sdk/client-dynamodb';
import { unmarshall } from '@aws-sdk/util-dynamodb';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { assembleFleet } from '../../lib/domain/fleet.ts';
import { instanceId } from '../../lib/domain/ids.ts';
import { type Connection, ConnectionError } from './connection.ts';
import { UsageError } from './usage.ts';

/** Everything that the table holds, by VM. */
export async function readFleet(
  connection: Pick<Connection, 'dynamodb' | 'tableName'>,
): Promise<ReadonlyMap<string, VmRecord>> {
  const pages = async function* () {
    const scan = { TableName: connection.tableName, ConsistentRead: true };
    for await (const page of paginateScan({ client: connection.dynamodb }, scan)) {
      for (const row of page.Items ?? []) yield unmarshall(row);
    }
  };
  const { fleet, corrupt } = await assembleFleet(pages());
  for (const { pk, fault } of corrupt) process.stderr.write(`corrupt item ${pk}: ${fault}\n`);
  return fleet;
}

/**
 * One VM.
 *
 * @throws UsageError when that is no instance id, ConnectionError when nobody observed it
 */
export async function findVm(connection: Connection, id: string): Promise<VmRecord> {
  requireInstanceId(id);
  const record = (await readFleet(connection)).get(id);
  if (!record) throw new ConnectionError(`${id} was not observed in ${connection.where}; see: casemate vms`);
  return record;
}

/** @throws UsageError */
export function requireInstanceId(id: string): void {
  if (!instanceId.safeParse(id).success) throw new UsageError(`${id} is not an instance id (i-…)`);
}
