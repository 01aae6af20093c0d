import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import { type Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { logMetrics } from '@aws-lambda-powertools/metrics/middleware';
import type { EC2Client } from '@aws-sdk/client-ec2';
import type { SQSClient } from '@aws-sdk/client-sqs';
import middy from '@middy/core';
import { assembleFleet } from '../../lib/domain/fleet.ts';
import type { Enforcement } from '../../lib/domain/guard.ts';
import { SWEEP_DETAIL_TYPE, SWEEP_SOURCE } from '../../lib/domain/hints.ts';
import type { Profiles } from '../../lib/domain/profiles.ts';
import { limitsInForce } from '../../lib/domain/quotas.ts';
import { planSweep } from '../../lib/domain/sweep.ts';
import { scanItems, type Table } from '../aws/dynamodb.ts';
import { listLiveInstanceIds } from '../aws/ec2.ts';
import { sendAll } from '../aws/sqs.ts';

export interface Deps {
  readonly ec2: EC2Client;
  readonly sqs: SQSClient;
  readonly table: Table;
  readonly observeQueueUrl: string;
  readonly enforcement: Enforcement;
  /** As apply-isolation has them: a VM that was fenced by another of them is driven again. */
  readonly profiles: Profiles;
  /** Credentials of contained VMs are denied. */
  readonly deniesCredentials: boolean;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

/** Looks at everything, and has every VM looked at again; what diverged is driven through every function. */
export function createHandler(deps: Deps) {
  const handle = async (): Promise<{ hinted: number; diverged: number }> => {
    // The table first: a VM that comes between the two looks is then new, not missing.
    const { fleet, corrupt, denials, quotas } = await assembleFleet(scanItems(deps.table));
    const live = await listLiveInstanceIds(deps.ec2);
    const now = deps.now();
    const { profiles } = deps;
    const plan = planSweep(
      fleet,
      live,
      deps.enforcement,
      now,
      { profiles, limits: limitsInForce(profiles.limits, quotas, now) },
      deps.deniesCredentials ? { denials } : undefined,
    );
    await sendAll(
      deps.sqs,
      deps.observeQueueUrl,
      plan.hints.map((detail) =>
        JSON.stringify({ source: SWEEP_SOURCE, 'detail-type': SWEEP_DETAIL_TYPE, detail }),
      ),
    );
    for (const { pk, fault } of corrupt) deps.logger.error('corrupt item', { pk, fault });
    for (const [instanceId, divergences] of plan.diverged)
      deps.logger.info('diverged', { instanceId, divergences });
    deps.metrics.addMetric('CorruptItems', MetricUnit.Count, corrupt.length);
    deps.metrics.addMetric('DivergedVms', MetricUnit.Count, plan.diverged.size);
    deps.metrics.addMetric('DisksWithoutKey', MetricUnit.Count, plan.overdueVolumes.length);
    return { hinted: plan.hinted, diverged: plan.diverged.size };
  };
  return middy().use(injectLambdaContext(deps.logger)).use(logMetrics(deps.metrics)).handler(handle);
}
