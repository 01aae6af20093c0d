import { partition } from '@aws-sdk/core/client';
import * as z from 'zod';
import { AGENT_SOURCE } from '../lib/domain/events.ts';
import type { CapabilityReportDetail } from '../lib/domain/report.ts';
import { type Credentials, createSignedHttp } from './credentials.ts';
import { isOk } from './http.ts';

/** The bus did not take a report. Retryable. */
export class BusError extends Error {
  override readonly name = 'BusError';
}

export interface Bus {
  /** @throws BusError; the report may have been taken all the same, and is known by its sequence */
  put(detail: CapabilityReportDetail, stop?: AbortSignal): Promise<void>;
}

const TIMEOUT_MS = 10_000;

/** https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html */
const putEventsResponse = z.looseObject({
  Entries: z
    .array(z.looseObject({ EventId: z.string().optional(), ErrorCode: z.string().optional() }))
    .optional(),
});
const awsFault = z.looseObject({ __type: z.string() });

/** As the AWS SDKs find it: https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html */
export function busEndpoint(region: string, environment: Readonly<Record<string, string | undefined>>): URL {
  const given = environment['AWS_ENDPOINT_URL_EVENTBRIDGE'] ?? environment['AWS_ENDPOINT_URL'];
  return new URL(given ?? `https://events.${region}.${partition(region).dnsSuffix}`);
}

/** The bus by its one call that an agent needs. */
export function createBus(busName: string, region: string, credentials: Credentials): Bus {
  const send = createSignedHttp('events', region, credentials);
  const url = busEndpoint(region, process.env);
  return {
    async put(detail, stop) {
      const body = JSON.stringify({
        Entries: [
          {
            EventBusName: busName,
            Source: AGENT_SOURCE,
            DetailType: 'Capability Report',
            Detail: JSON.stringify(detail),
          },
        ],
      });
      const headers = { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': 'AWSEvents.PutEvents' };
      let answer: Awaited<ReturnType<typeof send>>;
      try {
        answer = await send(url, { method: 'POST', headers, body, timeoutMs: TIMEOUT_MS, stop });
      } catch (error) {
        throw new BusError(`bus ${busName} does not answer`, { cause: error });
      }
      const content = jsonOf(answer.text);
      if (!isOk(answer)) {
        const type = awsFault.safeParse(content).data?.__type;
        throw new BusError(`bus ${busName}: ${type ?? `HTTP ${answer.status}`}`);
      }
      const [entry] = putEventsResponse.safeParse(content).data?.Entries ?? [];
      if (!entry?.EventId) {
        throw new BusError(`bus ${busName}: ${entry?.ErrorCode ?? 'no answer for the entry'}`);
      }
    },
  };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // not an answer of the bus, as the schemas will say
  }
}
