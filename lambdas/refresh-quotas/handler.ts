import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import type { ServiceQuotasClient } from '@aws-sdk/client-service-quotas';
import middy from '@middy/core';
import * as z from 'zod';
import { type Limits, QUOTA_PK, quotaItemOf } from '../../lib/domain/quotas.ts';
import { getItems, putVersioned, type Table } from '../aws/dynamodb.ts';
import { GROUPS_PER_INTERFACE, RULES_PER_GROUP, vpcQuota } from '../aws/service-quotas.ts';

export interface Deps {
  readonly quotas: ServiceQuotasClient;
  readonly table: Table;
  readonly logger: Logger;
  readonly now: () => Date;
}

/** Whatever else stands there is written anew. */
const written = z.looseObject({ version: z.number().int() });

/**
 * Reads what security groups an interface and what rules a group takes in this account, so that no containment waits
 * for Service Quotas. What cannot be read is tried again by Lambda and by the schedule; until then what was read last
 * counts, for its day.
 */
export function createHandler(deps: Deps) {
  const handle = async (): Promise<Limits> => {
    const [groupsPerInterface, rulesPerGroup] = await Promise.all([
      vpcQuota(deps.quotas, GROUPS_PER_INTERFACE),
      vpcQuota(deps.quotas, RULES_PER_GROUP),
    ]);
    const read = { groupsPerInterface, rulesPerGroup };
    const kept = (await getItems(deps.table, [QUOTA_PK], written)).get(QUOTA_PK);
    await putVersioned(deps.table, QUOTA_PK, kept?.version, quotaItemOf(read, deps.now()));
    deps.logger.info('quotas', read);
    return read;
  };
  return middy().use(injectLambdaContext(deps.logger)).handler(handle);
}
