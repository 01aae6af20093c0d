import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { REASONS } from '../../lib/domain/reasons.ts';
import { RefusedError, UnreachableError } from '../api.ts';
import { backoffMs } from '../backoff.ts';
import { LockedError, withLock } from '../lock.ts';
import { explain } from '../log.ts';
import { convergeAll, type VolumeOutcome } from './converge.ts';
import { DiskError } from './error.ts';
import type { DiskParts } from './parts.ts';
import { listDisks } from './pipeline.ts';

/** Formatting and opening a disk take seconds; whoever waits longer for another agent should say so. */
const LOCK_WAIT_SECONDS = 60;

/** Works on disks as the only agent of this machine. @throws DiskError DISK_BUSY */
export async function alone<T>(
  stateDir: string,
  work: () => Promise<T>,
  waitSeconds = LOCK_WAIT_SECONDS,
): Promise<T> {
  try {
    return await withLock(join(stateDir, 'disks.lock'), waitSeconds, work);
  } catch (error) {
    if (!(error instanceof LockedError)) throw error;
    throw new DiskError('DISK_BUSY', `waited ${waitSeconds} s`, { cause: error });
  }
}

/** What is not there yet and comes without anybody's doing. */
const COMING: ReadonlySet<string> = new Set(['KEY_NOT_ISSUED_YET', 'AWAITING_ADOPTION', 'DISK_MOVED']);

/** Nothing more to wait for: open, or none of ours. */
export function isDone(outcome: VolumeOutcome): boolean {
  if (outcome.state === 'left') return !COMING.has(outcome.reason ?? '');
  return outcome.state === 'open' || outcome.state === 'proven';
}

/** Looks at all volumes once and does what each needs; a second time where an adoption was asked for. */
export function passOverDisks(parts: DiskParts): Promise<VolumeOutcome[]> {
  return alone(parts.config.stateDir, async () => {
    const outcomes = await convergeAll(parts, await listDisks(parts));
    const asked = outcomes.some((each) => each.state === 'left' && each.message !== null);
    return asked ? convergeAll(parts, await listDisks(parts)) : outcomes;
  });
}

/** One line for people: what a volume is at, and what to do. */
export function outcomeLine({ volumeId, state, device, mountedAt, reason, message }: VolumeOutcome): string {
  const where = [device, mountedAt && `at ${mountedAt}`].filter(Boolean).join(' ');
  const why = message ?? (reason && `${reason}: ${REASONS[reason as keyof typeof REASONS] ?? ''}`);
  return `${volumeId}: ${[state, where, why].filter(Boolean).join(', ')}`;
}

/** Says a line when it differs from the last about the same thing. */
function saysOnce(say: (line: string) => void): (about: string, line: string) => void {
  const said = new Map<string, string>();
  return (about, line) => {
    if (said.get(about) === line) return;
    said.set(about, line);
    say(line);
  };
}

const PIPELINE = 'the pipeline';

/**
 * Keeps the disks of this VM where they should be, until stopped. A refusal is asked about again, with backoff: a
 * posture comes with the first report, and a quarantine ends.
 */
export async function keepDisksOpen(parts: DiskParts, stop: AbortSignal): Promise<void> {
  const tell = saysOnce(parts.say);
  // What is asked ends at once when the agent is to end; what cryptsetup writes is let come to its end.
  const api: DiskParts['api'] = {
    post: (path, body, schema) => parts.api.post(path, body, schema, stop),
  };
  let attempt = 0;
  while (!stop.aborted) {
    let settled = false;
    try {
      const outcomes = await passOverDisks({ ...parts, api });
      for (const outcome of outcomes) tell(outcome.volumeId, outcomeLine(outcome));
      settled = outcomes.every(isDone);
      tell(PIPELINE, 'disks: the pipeline answers');
    } catch (error) {
      if (stop.aborted) return;
      tell(PIPELINE, `disks: ${trouble(error)}`);
    }
    const interval = parts.config.reportIntervalSeconds * 1000 * (0.9 + 0.2 * Math.random());
    const wait = settled ? interval : Math.min(interval, 250 + backoffMs(attempt));
    attempt = settled ? 0 : attempt + 1;
    await sleep(wait, undefined, { signal: stop }).catch(() => undefined); // stopped: the loop ends
  }
}

/** Refused and unreachable are different troubles: one is an operator's to lift, one passes. */
function trouble(error: unknown): string {
  if (error instanceof RefusedError) return `refused: ${error.message}`;
  if (error instanceof UnreachableError) return `unreachable: ${explain(error)}`;
  return explain(error);
}

/** How a wait for disks ended: all open; something refused or failed; or the pipeline was not reached in time. */
export type WaitResult =
  | { readonly kind: 'open'; readonly outcomes: readonly VolumeOutcome[] }
  | { readonly kind: 'refused'; readonly outcomes: readonly VolumeOutcome[]; readonly message: string }
  | { readonly kind: 'unreachable'; readonly message: string };

/**
 * Opens the disks, for as long as it is worth it, and says what it waits for. `create` is called until it works: at
 * boot neither the network nor the metadata service need be there.
 */
export async function waitForDisks(
  create: () => Promise<DiskParts>,
  timeoutSeconds: number,
  say: (line: string) => void,
): Promise<WaitResult> {
  const deadline = Date.now() + timeoutSeconds * 1000;
  const tell = saysOnce(say);
  let parts: DiskParts | undefined;
  for (let attempt = 0; ; attempt++) {
    let result: WaitResult;
    try {
      parts ??= await create();
      const outcomes = await passOverDisks(parts);
      const waiting = outcomes.filter((each) => !isDone(each));
      const message = waiting.map(outcomeLine).join('; ');
      result = waiting.length === 0 ? { kind: 'open', outcomes } : { kind: 'refused', outcomes, message };
    } catch (error) {
      const message = trouble(error);
      const answered = error instanceof RefusedError || error instanceof DiskError;
      result = answered ? { kind: 'refused', outcomes: [], message } : { kind: 'unreachable', message };
    }
    if (result.kind === 'open') return result;
    const left = deadline - Date.now();
    if (left <= 0) return result;
    tell('', `casemate: waiting for disks, up to ${Math.ceil(left / 1000)} s: ${result.message}`);
    await sleep(Math.min(left, 250 + backoffMs(attempt)));
  }
}
