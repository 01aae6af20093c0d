import type { Logger } from '@aws-lambda-powertools/logger';
import { injectLambdaContext } from '@aws-lambda-powertools/logger/middleware';
import { type Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { logMetrics } from '@aws-lambda-powertools/metrics/middleware';
import middy from '@middy/core';
import type { APIGatewayProxyEvent, APIGatewayProxyResult } from 'aws-lambda';
import type * as z from 'zod';
import { type CallerIdentity, callerRefusal } from '../lib/domain/caller.ts';
import { REASONS, type Reason } from '../lib/domain/reasons.ts';

export interface ApiDeps {
  readonly callerIdentity: CallerIdentity;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

export type Answer =
  | { readonly kind: 'ok'; readonly status: 200 | 201; readonly body: object }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly retryable: boolean };

/** The largest body that most of our requests can have, with room. */
const MAX_BODY_CHARS = 32 * 1024;

export interface ApiOptions<T> {
  readonly maxBodyChars?: number;
  /** Every refusal looks like this to the caller, whatever its reason; the log knows better. */
  readonly alike?: Reason;
  /** Told of a caller that IAM says is somebody else, before the answer is given. */
  readonly foreign?: (request: T, reason: Reason) => Promise<void>;
}

/**
 * The handler of an API function: reads the body by its schema, makes sure that the caller is the instance
 * that the body names, and answers. A refusal is 403, or 409 when trying again later can help.
 */
export function createApiHandler<T extends { readonly instanceId: string }>(
  deps: ApiDeps,
  schema: z.ZodType<T>,
  answer: (request: T) => Promise<Answer>,
  options: ApiOptions<T> = {},
) {
  const { logger, metrics } = deps;
  const { maxBodyChars = MAX_BODY_CHARS, alike } = options;

  const handle = async (event: APIGatewayProxyEvent): Promise<APIGatewayProxyResult> => {
    metrics.addMetric('RequestReceived', MetricUnit.Count, 1);
    const request = parseBody(event, schema, maxBodyChars);
    if (!request) return refuse(400, 'REQUEST_MALFORMED');
    const { instanceId } = request;
    const foreign = callerRefusal(deps.callerIdentity, event.requestContext.identity ?? {}, instanceId);
    if (foreign) {
      await options.foreign?.(request, foreign);
      return refuse(403, foreign, instanceId);
    }
    const answered = await answer(request);
    if (answered.kind === 'ok') return json(answered.status, answered.body);
    return refuse(answered.retryable && !alike ? 409 : 403, answered.reason, instanceId);
  };

  const refuse = (status: number, reason: Reason, instanceId?: string): APIGatewayProxyResult => {
    logger.warn('request refused', { instanceId, reason });
    metrics.addMetric('RequestRefused', MetricUnit.Count, 1);
    // A body that no schema knows tells nothing about a VM, so its sender may hear that.
    const told = status === 403 ? (alike ?? reason) : reason;
    return json(status, { reason: told, message: REASONS[told] });
  };

  return middy<APIGatewayProxyEvent, APIGatewayProxyResult>()
    .use(injectLambdaContext(logger))
    .use(logMetrics(metrics))
    .handler(handle);
}

function parseBody<T>(event: APIGatewayProxyEvent, schema: z.ZodType<T>, maxChars: number): T | undefined {
  const text = event.isBase64Encoded
    ? Buffer.from(event.body ?? '', 'base64').toString('utf8')
    : (event.body ?? '');
  if (text.length > maxChars) return undefined;
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return undefined; // answered as malformed
  }
  const parsed = schema.safeParse(body);
  return parsed.success ? parsed.data : undefined;
}

function json(statusCode: number, body: object): APIGatewayProxyResult {
  return {
    statusCode,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store' },
    body: JSON.stringify(body),
  };
}
