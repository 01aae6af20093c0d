import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import { type Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { logMetrics } from '@aws-lambda-powertools/metrics/middleware';
import middy from '@middy/core';
import {
  authorityKey,
  collateralItem,
  collateralItems,
  revocationListItem,
  revocationListKey,
} from '../../lib/domain/collateral.ts';
import { maxRevocationListBytes } from '../../lib/domain/evidence/revocation-list.ts';
import { type AmdAuthority, readAmdCollateral } from '../../lib/domain/evidence/snp/collateral.ts';
import type { AmdRoots } from '../../lib/domain/evidence/snp/index.ts';
import { getItems, putVersioned, type Table } from '../aws/dynamodb.ts';

export interface Deps {
  readonly table: Table;
  /** Origin of AMD's key distribution service, or of a mirror: what it says is verified against pinned roots. */
  readonly keyServer: string;
  readonly authorities: readonly AmdAuthority[];
  /** A test hierarchy in place of AMD's roots. */
  readonly roots?: AmdRoots;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly now: () => Date;
}

/** Something could not be fetched, or was not AMD's; what is kept stays. Retryable: Lambda tries again twice. */
export class CollateralError extends Error {
  override readonly name = 'CollateralError';
}

const TIMEOUT_MS = 10_000;

/** Fetches AMD's CA certificates and revocation lists, so that no verification ever waits for AMD's server. */
export function createHandler(deps: Deps) {
  const handle = async (): Promise<{ refreshed: number }> => {
    const outcomes = await Promise.allSettled(deps.authorities.map((authority) => refresh(deps, authority)));
    const failures = outcomes.flatMap((outcome, i) => {
      if (outcome.status === 'fulfilled') return [];
      const { kind, product } = deps.authorities[i] ?? {};
      deps.logger.error('collateral was not refreshed', { kind, product, error: outcome.reason });
      return [outcome.reason as unknown];
    });
    deps.metrics.addMetric('CollateralNotRefreshed', MetricUnit.Count, failures.length);
    if (failures.length > 0) {
      throw new CollateralError(`${failures.length} of ${deps.authorities.length} not refreshed`, {
        cause: new AggregateError(failures),
      });
    }
    return { refreshed: deps.authorities.length };
  };
  return middy().use(injectLambdaContext(deps.logger)).use(logMetrics(deps.metrics)).handler(handle);
}

async function refresh(deps: Deps, authority: AmdAuthority): Promise<void> {
  const base = `${deps.keyServer}/${authority.kind.toLowerCase()}/v1/${authority.product}`;
  const [chain, crl] = await Promise.all([fetchBytes(`${base}/cert_chain`), fetchBytes(`${base}/crl`)]);
  const now = deps.now();
  const fetched = readAmdCollateral(authority, chain.toString('latin1'), crl, now, deps.roots);
  const items = collateralItems(authority, fetched, now);
  const keptList = (await getItems(deps.table, [revocationListKey(authority)], revocationListItem)).get(
    revocationListKey(authority),
  );
  // A mirror, or whoever stands in between, could hand out an older list that is still current.
  if (!keptList || keptList.thisUpdate < items.list.thisUpdate) {
    await putVersioned(deps.table, items.list.pk, keptList?.version, items.list);
  }
  const keptChain = (await getItems(deps.table, [authorityKey(authority)], collateralItem)).get(
    authorityKey(authority),
  );
  await putVersioned(deps.table, items.chain.pk, keptChain?.version, items.chain);
}

/** A whole answer, at most as large as a list may be. @throws CollateralError */
async function fetchBytes(url: string): Promise<Buffer> {
  let response: Response;
  try {
    response = await fetch(url, { redirect: 'error', signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (cause) {
    throw new CollateralError(`${url} cannot be reached`, { cause });
  }
  if (!response.ok || !response.body) {
    await response.body?.cancel();
    throw new CollateralError(`${url} answered ${response.status}`);
  }
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body) {
    size += part.length;
    if (size > maxRevocationListBytes) throw new CollateralError(`${url} answered more than any list has`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}
