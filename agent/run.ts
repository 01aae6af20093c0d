import { setTimeout as sleep } from 'node:timers/promises';
import type { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { type Api, RefusedError } from './api.ts';
import type { AgentConfig } from './config.ts';
import { enrol, isEnrolled } from './enrol.ts';
import { canAttest, collectEvidence, SOURCES } from './evidence.ts';
import type { AgentKey } from './key.ts';
import { explain, log } from './log.ts';
import type { Identity } from './metadata.ts';
import { drain, measure, readBootId } from './report.ts';
import { openSpool } from './spool.ts';

export interface AgentParts {
  readonly config: AgentConfig;
  readonly identity: Identity;
  readonly key: AgentKey;
  readonly api: Api;
  readonly bus: EventBridgeClient;
}

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 60_000;
/** A refusal is an operator's to lift: asked again now and then, not hammered. */
const REFUSED_WAIT_MS = 5 * 60_000;

/** Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 20));
}

/** Enrols once, then measures and reports at every interval until stopped. */
export async function run(parts: AgentParts, stop: AbortSignal): Promise<void> {
  const { config, identity, key } = parts;
  try {
    if (!isEnrolled(config, identity, key)) await enrolUntilDone(parts, stop);
    const bootId = readBootId();
    const spool = openSpool(config.stateDir, config.spoolMax);
    let failures = 0;
    let dueAt = 0;
    let evidenceDueAt = 0;
    while (!stop.aborted) {
      if (Date.now() >= dueAt) {
        let signed: Awaited<ReturnType<typeof collectEvidence>> | undefined;
        if (Date.now() >= evidenceDueAt && canAttest(SOURCES)) {
          try {
            signed = await collectEvidence(parts.api, config, identity, key, SOURCES);
            evidenceDueAt = Date.now() + config.evidenceIntervalSeconds * 1000;
          } catch (error) {
            // The report goes out without; the next one tries again.
            log(`no evidence: ${explain(error)}`);
          }
        }
        const dropped = spool.add(measure(config, identity, bootId, new Date(), signed));
        if (dropped > 0) log(`spool full: ${dropped} oldest reports dropped`);
        // A fleet that booted together must not report together for ever.
        dueAt = Date.now() + config.reportIntervalSeconds * 1000 * (0.9 + 0.2 * Math.random());
      }
      try {
        const sent = await drain(parts.bus, config, identity, key, spool, stop);
        if (failures > 0 || sent > 1) log(`bus is back: ${sent} reports sent`);
        failures = 0;
        await sleep(Math.max(0, dueAt - Date.now()), undefined, { signal: stop });
      } catch (error) {
        if (stop.aborted) break;
        if (failures === 0) log(`report waits in the spool: ${explain(error)}`);
        await sleep(Math.min(backoffMs(failures++), Math.max(100, dueAt - Date.now())), undefined, {
          signal: stop,
        });
      }
    }
  } catch (error) {
    if (!stop.aborted) throw error;
  }
}

async function enrolUntilDone(parts: AgentParts, stop: AbortSignal): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      const status = await enrol(parts.api, parts.config, parts.identity, parts.key, stop);
      log(`${parts.identity.instanceId}: ${status}`);
      return;
    } catch (error) {
      if (stop.aborted) throw error;
      const refused = error instanceof RefusedError;
      if (attempt === 0 || refused) log(`not enrolled yet: ${explain(error)}`);
      await sleep(refused ? REFUSED_WAIT_MS : backoffMs(attempt), undefined, { signal: stop });
    }
  }
}
