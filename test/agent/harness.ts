import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Bus, BusError } from '../../agent/bus.ts';
import { type AgentConfig, configSchema } from '../../agent/config.ts';
import type { UnsentReport } from '../../agent/spool.ts';
import type { CapabilityReportDetail, ReportPayload } from '../../lib/domain/report.ts';
import { BOOT, GOOD_FACTS } from '../world/agent.ts';
import { ACCOUNT, REGION } from '../world/ec2.ts';
import { AT, VM_ID } from '../world/items.ts';

/** A folder of the test's own, and what takes it away again. */
export function temporaryFolder(): { readonly path: string; readonly remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'casemate-agent-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export const IDENTITY = { instanceId: VM_ID, accountId: ACCOUNT, region: REGION };

export const aConfig = (stateDir: string, overrides: Partial<AgentConfig> = {}): AgentConfig =>
  configSchema.parse({
    region: REGION,
    apiUrl: 'https://api.casemate.example/v1',
    busName: 'casemate',
    stateDir,
    ...overrides,
  });

export const aReport = (sequence: number, overrides: Partial<UnsentReport> = {}): UnsentReport => ({
  schema: 'casemate.report/1',
  ...IDENTITY,
  bootId: BOOT,
  sequence,
  observedAt: new Date(Date.parse(AT) + sequence * 1000).toISOString(),
  agentVersion: '0.1.0',
  facts: [...GOOD_FACTS],
  ...overrides,
});

/** A bus that takes the nth report, or does not. */
export function fakeBus(takes: (n: number) => boolean = () => true) {
  const taken: { readonly detail: CapabilityReportDetail; readonly payload: ReportPayload }[] = [];
  let calls = 0;
  const bus: Bus = {
    async put(detail) {
      if (!takes(calls++)) throw new BusError('away');
      taken.push({ detail, payload: JSON.parse(detail.payload) as ReportPayload });
    },
  };
  return { bus, taken };
}

/** An HTTP server on loopback. */
export async function serve(
  handle: (request: IncomingMessage, body: string, response: ServerResponse) => void | Promise<void>,
): Promise<{ readonly url: string; readonly close: () => Promise<void>; readonly server: Server }> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      void Promise.resolve(handle(request, Buffer.concat(chunks).toString('utf8'), response)).catch(() =>
        response.destroy(),
      );
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
