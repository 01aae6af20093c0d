import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import { type Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { logMetrics } from '@aws-lambda-powertools/metrics/middleware';
import type { EC2Client } from '@aws-sdk/client-ec2';
import type { S3Client } from '@aws-sdk/client-s3';
import middy from '@middy/core';
import type * as z from 'zod';
import { type DiskItem, diskItem } from '../../lib/domain/disk-key.ts';
import { type GenerationChange, planRetirement, wantsSighting } from '../../lib/domain/key-retirement.ts';
import { type OperatorItem, operatorItem } from '../../lib/domain/operator.ts';
import { putVersioned, scanKinds, type Table, VersionConflictError } from '../aws/dynamodb.ts';
import { snapshotsOf, volumesThatExist } from '../aws/ec2.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { deleteAllVersions } from '../aws/s3.ts';

export interface Deps {
  readonly table: Table;
  readonly ec2: EC2Client;
  readonly s3: S3Client;
  readonly bucket: string;
  readonly announce: Announce;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

/** Begins, takes back and completes the retirement of keys, as operators and their delays say. */
export function createHandler(deps: Deps) {
  const handle = async (): Promise<{ changed: number; failed: number }> => {
    const { disks, operators } = await readAll(deps);
    const now = deps.now();
    const asked = disks.filter((disk) => wantsSighting(disk, operators.get(disk.instanceId), now));
    const ids = asked.map((disk) => disk.volumeId);
    const [volumes, snapshots] = await Promise.all([
      volumesThatExist(deps.ec2, ids),
      snapshotsOf(deps.ec2, ids),
    ]);
    let changed = 0;
    let failed = 0;
    for (const disk of disks) {
      const { volumeId } = disk;
      const sighting = asked.includes(disk)
        ? { volume: volumes.has(volumeId), snapshots: snapshots.get(volumeId) ?? 0 }
        : undefined;
      const plan = planRetirement(disk, operators.get(disk.instanceId), sighting, now);
      if (!plan.disk) continue;
      try {
        await apply(deps, disk, plan.disk, plan.changes);
        changed += 1;
      } catch (error) {
        // One that failed is looked at again in an hour; the others do not wait for it.
        failed += 1;
        if (!(error instanceof VersionConflictError))
          deps.logger.error('retirement failed', { pk: disk.pk, error: error as Error });
      }
    }
    deps.metrics.addMetric('DisksRetiring', MetricUnit.Count, asked.length);
    deps.metrics.addMetric('RetirementsFailed', MetricUnit.Count, failed);
    return { changed, failed };
  };
  return middy().use(injectLambdaContext(deps.logger)).use(logMetrics(deps.metrics)).handler(handle);
}

async function readAll(
  deps: Deps,
): Promise<{ disks: readonly DiskItem[]; operators: ReadonlyMap<string, OperatorItem> }> {
  const disks: DiskItem[] = [];
  const operators = new Map<string, OperatorItem>();
  const read = <T>(item: Record<string, unknown>, schema: z.ZodType<T>, keep: (value: T) => void) => {
    const parsed = schema.safeParse(item);
    if (parsed.success) keep(parsed.data);
    else deps.logger.error('corrupt item', { pk: item['pk'] });
  };
  for await (const item of scanKinds(deps.table, ['disk', 'operator'])) {
    const pk = String(item['pk']);
    if (pk.startsWith('operator#'))
      read(item, operatorItem, (operator) => operators.set(operator.instanceId, operator));
    else if (!pk.startsWith('disk#vol-')) read(item, diskItem, (disk) => disks.push(disk));
  }
  return { disks, operators };
}

async function apply(
  deps: Deps,
  before: DiskItem,
  after: Omit<DiskItem, 'pk' | 'version'>,
  changes: readonly GenerationChange[],
): Promise<void> {
  const name = before.pk.slice('disk#'.length);
  // The headers first: while the item says `retiring`, a run that died in between is done again.
  for (const { generation } of changes.filter((change) => change.state === 'retired'))
    await deleteAllVersions(deps.s3, deps.bucket, `headers/${name}/${generation}/`);
  // Said before it is done: a key that is gone cannot be announced a second time.
  for (const change of changes) {
    await deps.announce({
      detailType: 'Disk Key Retired',
      detail: {
        schemaVersion: 1,
        instanceId: before.instanceId,
        at: deps.now().toISOString(),
        disk: before.disk,
        volumeId: before.volumeId,
        ...change,
        reasons: [...change.reasons],
      },
    });
  }
  const { pk: _pk, version: _version, ...item } = after as DiskItem;
  await putVersioned(deps.table, before.pk, before.version, item);
}
