import { readFileSync } from 'node:fs';
import type { CapabilityReportDetail, ReportPayload } from '../lib/domain/report.ts';
import { signedBytes } from '../lib/domain/transcript.ts';
import type { Bus } from './bus.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import type { Identity } from './metadata.ts';
import { probe } from './probe.ts';
import type { Spool, UnsentReport } from './spool.ts';
import { nextSequence } from './state.ts';

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
  bus: Bus,
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
      await bus.put(detail, stop);
      sent++;
    }
    spool.remove(name);
  }
  return sent;
}
