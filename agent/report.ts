import { readFileSync } from 'node:fs';
import { type EventBridgeClient, PutEventsCommand } from '@aws-sdk/client-eventbridge';
import { AGENT_SOURCE } from '../lib/domain/events.ts';
import type { CapabilityReportDetail, ReportPayload } from '../lib/domain/report.ts';
import { signedBytes } from '../lib/domain/transcript.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import type { Identity } from './metadata.ts';
import { probe } from './probe.ts';
import type { Spool, UnsentReport } from './spool.ts';
import { nextSequence } from './state.ts';

/** The bus did not take a report. Retryable. */
export class BusError extends Error {
  override readonly name = 'BusError';
}

const AGENT_VERSION = '0.1.0';

export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Measures this machine and makes the next report of this boot out of it. */
export function measure(
  config: AgentConfig,
  identity: Identity,
  bootId: string,
  now: Date,
  signed: Pick<UnsentReport, 'nonce' | 'evidence'> = {},
): UnsentReport {
  return {
    schema: 'casemate.report/1',
    accountId: identity.accountId,
    region: identity.region,
    instanceId: identity.instanceId,
    bootId,
    sequence: nextSequence(config.stateDir, bootId),
    observedAt: now.toISOString(),
    agentVersion: AGENT_VERSION,
    facts: probe(config.machine).facts,
    ...signed,
  };
}

/** Signs a report for sending now. */
export async function seal(
  config: AgentConfig,
  identity: Identity,
  key: AgentKey,
  report: UnsentReport,
  now: Date,
): Promise<CapabilityReportDetail> {
  const payload = JSON.stringify({ ...report, sentAt: now.toISOString() } satisfies ReportPayload);
  const bytes = signedBytes(
    {
      purpose: 'report',
      apiOrigin: new URL(config.apiUrl).origin,
      accountId: identity.accountId,
      region: identity.region,
      instanceId: identity.instanceId,
      agentPublicKey: key.publicKey,
    },
    payload,
  );
  return {
    schemaVersion: 1,
    instanceId: identity.instanceId,
    payload,
    signature: (await key.sign(bytes)).toString('base64'),
  };
}

/**
 * Sends what waits in the spool, oldest first, and removes what the bus took.
 *
 * @returns how many were sent
 * @throws BusError; what was not taken stays in the spool
 */
export async function drain(
  bus: EventBridgeClient,
  config: AgentConfig,
  identity: Identity,
  key: AgentKey,
  spool: Spool,
  stop?: AbortSignal,
): Promise<number> {
  let sent = 0;
  for (const name of spool.list()) {
    const report = spool.read(name);
    // A report of the image that this VM was cloned from, or one that no version of ours wrote.
    if (report?.instanceId === identity.instanceId) {
      const detail = await seal(config, identity, key, report, new Date());
      await put(bus, config.busName, detail, stop);
      sent++;
    }
    spool.remove(name);
  }
  return sent;
}

async function put(
  bus: EventBridgeClient,
  busName: string,
  detail: CapabilityReportDetail,
  stop: AbortSignal | undefined,
): Promise<void> {
  let fault: string | undefined;
  try {
    const answer = await bus.send(
      new PutEventsCommand({
        Entries: [
          {
            EventBusName: busName,
            Source: AGENT_SOURCE,
            DetailType: 'Capability Report',
            Detail: JSON.stringify(detail),
          },
        ],
      }),
      stop ? { abortSignal: stop } : {},
    );
    const entry = answer.Entries?.[0];
    fault = entry?.EventId ? undefined : (entry?.ErrorCode ?? 'no answer for the entry');
  } catch (error) {
    throw new BusError(`bus ${busName} does not answer`, { cause: error });
  }
  if (fault !== undefined) throw new BusError(`bus ${busName}: ${fault}`);
}
