import { paginateScan } from '@aws-sdk/client-dynamodb';
import { unmarshall } from '@aws-sdk/util-dynamodb';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { assembleFleet } from '../../lib/domain/fleet.ts';
import type { Connection } from './connection.ts';

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
