import type { CapabilityReportDetail } from '../../lib/domain/report.ts';
import { createApi, identityOf, issuer } from '../world/api.ts';
import { VM_ID } from '../world/items.ts';
import { apiRequest } from '../world/recorded.ts';
import type { World } from '../world/world.ts';
import { serve } from './harness.ts';

/**
 * Everything that an agent on a VM talks to, on loopback: metadata, the API’s real functions, the bus.
 *
 * @param worldAt the world whose functions answer, by the origin that they answer at
 * @param took called with each report that the bus took
 */
export async function surroundings(
  worldAt: (origin: string) => World | Promise<World>,
  took: (detail: CapabilityReportDetail) => Promise<void> = async () => undefined,
) {
  const state = { busUp: true, apiHangs: false, busHangs: false, hanging: 0, apiDown: false, enrolments: 0 };
  const reports: { readonly detail: CapabilityReportDetail; readonly receivedAt: Date }[] = [];
  const { issue } = await issuer();
  let api: Awaited<ReturnType<typeof createApi>> | undefined;
  const server = await serve(async (request, body, response) => {
    const path = request.url ?? '';
    const send = (status: number, text: string) => response.writeHead(status).end(text);
    if (path === '/latest/api/token') send(200, 'token');
    else if (path === '/latest/dynamic/instance-identity/document')
      send(200, JSON.stringify(identityOf({ instanceId: VM_ID }, new Date())));
    else if (path === '/latest/dynamic/instance-identity/rsa2048')
      send(200, await issue(identityOf({ instanceId: VM_ID }, new Date())));
    else if (path.startsWith('/v1/')) {
      if (state.apiHangs) return void state.hanging++;
      if (state.apiDown) return void send(503, '{"message":"Service Unavailable"}');
      const route = path.slice('/v1'.length) as '/challenges' | '/enrolments';
      if (route === '/enrolments') state.enrolments += 1;
      const answer = await api?.send(apiRequest('instance', route, body));
      send(answer?.status ?? 500, JSON.stringify(answer?.body));
    } else if (request.headers['x-amz-target'] === 'AWSEvents.PutEvents') {
      if (state.busHangs) return void state.hanging++;
      if (!state.busUp) return void send(400, '{"__type":"AccessDeniedException","message":"away"}');
      const { Entries } = JSON.parse(body) as { Entries: { Detail: string }[] };
      for (const entry of Entries) {
        const detail = JSON.parse(entry.Detail) as CapabilityReportDetail;
        reports.push({ detail, receivedAt: new Date() });
        await took(detail);
      }
      send(200, JSON.stringify({ FailedEntryCount: 0, Entries: Entries.map(() => ({ EventId: 'e' })) }));
    } else send(404, '');
  });
  api = await createApi(await worldAt(server.url), 'iam', server.url);
  return { ...server, state, reports };
}
