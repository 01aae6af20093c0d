import { setTimeout as sleep } from 'node:timers/promises';
import { RefusedError } from './api.ts';
import { backoffMs } from './backoff.ts';
import type { Bus } from './bus.ts';
import { keepDisksOpen } from './disks/drive.ts';
import { createDiskParts } from './disks/parts.ts';
import { runTool } from './disks/tool.ts';
import { enrol, isEnrolled } from './enrol.ts';
import { collectEvidence, type EvidenceParts } from './evidence.ts';
import { explain, log } from './log.ts';
import type { NitroTpm } from './nitro-tpm.ts';
import { drain, measure, readBootId } from './report.ts';
import { openSpool } from './spool.ts';

export interface AgentParts extends EvidenceParts {
  readonly bus: Bus;
  readonly nitroTpm?: NitroTpm | undefined;
}

/** A refusal is an operator's to lift: asked again now and then, not hammered. */
const REFUSED_WAIT_MS = 5 * 60_000;

/**
 * Enrols once, then measures and reports at every interval, and keeps the disks open, until stopped. A report does not
 * wait for a disk that is being formatted, nor a disk for a bus that is away.
 */
export async function run(parts: AgentParts, stop: AbortSignal): Promise<void> {
  try {
    if (!isEnrolled(parts.config, parts.identity, parts.key)) await enrolUntilDone(parts, stop);
    // One that fails ends the other, so that the process ends and is started again.
    const failed = new AbortController();
    const ending = AbortSignal.any([stop, failed.signal]);
    const together = [
      keepReporting(parts, ending),
      keepDisksOpen(createDiskParts(parts, runTool, log), ending),
    ].map((each) => each.finally(() => failed.abort()));
    await Promise.all(together);
  } catch (error) {
    if (!stop.aborted) throw error;
  }
}

async function keepReporting(parts: AgentParts, stop: AbortSignal): Promise<void> {
  const { config, identity, key } = parts;
  try {
    const bootId = readBootId();
    const spool = openSpool(config.stateDir, config.spoolMax);
    let failures = 0;
    let dueAt = 0;
    let evidenceDueAt = 0;
    while (!stop.aborted) {
      if (Date.now() >= dueAt) {
        let signed: Awaited<ReturnType<typeof collectEvidence>> | undefined;
        if (Date.now() >= evidenceDueAt && parts.sources.length > 0) {
          try {
            signed = await collectEvidence(parts);
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
