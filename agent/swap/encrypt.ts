import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import {
  fstabWithout,
  MARK_AREA_BYTES,
  parseSwaps,
  planSwap,
  type SwapDevice,
  type SwapPlan,
  type SwapRecord,
  swapMark,
  swapRecords,
} from '../../lib/domain/swap.ts';
import type { RunTool } from '../disks/tool.ts';
import { byteProgress } from '../ingest/progress.ts';
import { nativeAddon } from '../probe.ts';
import { SecureMemory } from '../secure-memory.ts';
import { openStateDir, readIfThere, writeDurably } from '../state.ts';
import { findSwap, inspectSwap, lastingName, whereToResume } from './device.ts';
import { SwapError } from './error.ts';

export interface SwapParts {
  readonly run: RunTool;
  readonly stateDir: string;
  readonly fstab: string;
  readonly say: (line: string) => void;
  readonly out: Writable & { readonly isTTY?: boolean };
}

export interface SwapOutcome {
  readonly device: string;
  /** The encrypted swap; null where there is none. */
  readonly mapping: string | null;
  /** Null where it is in use and encrypted; else the reason code. */
  readonly reason: string | null;
}

const recordsFile = (stateDir: string) => join(stateDir, 'swap.json');

/** @throws ZodError for a file that is not ours: nothing is formatted on its word */
export function readRecords(stateDir: string): readonly SwapRecord[] {
  const text = readIfThere(recordsFile(stateDir));
  return text === undefined ? [] : swapRecords.parse(JSON.parse(text)).swaps;
}

function remember(stateDir: string, record: SwapRecord): void {
  const others = readRecords(stateDir).filter((each) => each.uuid !== record.uuid);
  const swaps = [...others, record];
  writeDurably(recordsFile(stateDir), JSON.stringify({ schema: 'casemate.swap/1', swaps }, null, 2));
}

function freeName(records: readonly SwapRecord[]): string {
  for (let i = 0; ; i++) {
    if (!records.some((record) => record.name === `casemate-swap${i}`)) return `casemate-swap${i}`;
  }
}

/** Plans for areas that a human named, or for all that are in use. */
export async function planAreas(
  parts: SwapParts,
  paths: readonly string[],
): Promise<
  readonly { readonly device: SwapDevice; readonly plan: SwapPlan; readonly record: SwapRecord | undefined }[]
> {
  const records = readRecords(parts.stateDir);
  const resume = whereToResume();
  const planned = [];
  for (const path of paths) {
    const device = await inspectSwap(parts.run, path);
    const record = records.find((each) => each.device === lastingName(device));
    planned.push({ device, record, plan: planSwap(device, record, resume) });
  }
  return planned;
}

/** Encrypts one area that was planned so; remembers it first, so that the next boot goes on where a kill ended it. */
export async function encryptArea(
  parts: SwapParts,
  device: SwapDevice,
  known: SwapRecord | undefined,
): Promise<SwapOutcome> {
  openStateDir(parts.stateDir);
  const record = known ?? {
    device: lastingName(device),
    uuid: randomUUID(),
    name: freeName(readRecords(parts.stateDir)),
    marked: false,
    wiped: false,
  };
  if (!known) remember(parts.stateDir, record);
  return openArea(parts, device, record);
}

/** What the unit does at every boot: opens every area that is remembered, each on its own. */
export async function openAreas(parts: SwapParts): Promise<readonly SwapOutcome[]> {
  const outcomes: SwapOutcome[] = [];
  for (const record of readRecords(parts.stateDir)) {
    const path = await findSwap(parts.run, record.device);
    if (path === undefined) {
      parts.say(`${record.device}: SWAP_NOT_OURS: it is not there`);
      outcomes.push({ device: record.device, mapping: null, reason: 'SWAP_NOT_OURS' });
      continue;
    }
    const device = await inspectSwap(parts.run, path);
    const plan = planSwap(device, record, whereToResume());
    if (plan.kind === 'encrypt') outcomes.push(await openArea(parts, device, record));
    else {
      parts.say(`${device.path}: ${plan.reason}${plan.kind === 'refuse' ? `: ${plan.detail}` : ''}`);
      outcomes.push({ device: device.path, mapping: null, reason: plan.reason });
    }
  }
  return outcomes;
}

/**
 * From whatever state an earlier attempt left it in. In this order: out of use, then the mark, then fstab (a boot
 * between them finds the mark and does not wait for the signature), then the mapping.
 */
async function openArea(parts: SwapParts, device: SwapDevice, record: SwapRecord): Promise<SwapOutcome> {
  const { run, stateDir, fstab } = parts;
  const mapping = `/dev/mapper/${record.name}`;
  if (existsSync(mapping)) {
    // Open already, since before a kill or because it was asked for twice: used under the key that it has.
    await useMapping(parts, mapping);
    return { device: device.path, mapping, reason: null };
  }
  if (device.active) {
    parts.say(`${device.path}: bringing what is swapped out back into memory`);
    await failing('swapoff', () => run('swapoff', [device.path], { timeoutSeconds: 3600 }));
  }
  let now = record;
  if (!record.marked) {
    await writeMark(device.path, record.uuid);
    now = { ...record, marked: true };
    remember(stateDir, now);
  }
  const before = readIfThere(fstab);
  if (before !== undefined) {
    const after = fstabWithout(before, device.names);
    if (after !== before) writeDurably(fstab, after, 0o644);
  }
  {
    using key = new SecureMemory(64);
    key.randomize();
    await failing('cryptsetup', () =>
      run('cryptsetup', [
        ...['open', '--batch-mode', '--type', 'plain', '--cipher', 'aes-xts-plain64', '--key-size', '512'],
        ...['--offset', String(MARK_AREA_BYTES / 512), '--keyfile-size', '64', '--key-file', key],
        ...[device.path, record.name],
      ]),
    );
  }
  if (!record.wiped) {
    await wipe(mapping, device.bytes - MARK_AREA_BYTES, parts.out);
    remember(stateDir, { ...now, wiped: true });
  }
  await useMapping(parts, mapping);
  return { device: device.path, mapping, reason: null };
}

async function useMapping({ run }: SwapParts, mapping: string): Promise<void> {
  const real = realpathSync(mapping); // the kernel says /dev/dm-N
  if (parseSwaps(readFileSync('/proc/swaps', 'utf8')).some((swap) => swap.path === real)) return;
  await failing('mkswap', () => run('mkswap', [mapping]));
  await failing('swapon', () => run('swapon', [mapping]));
}

async function writeMark(path: string, uuid: string): Promise<void> {
  await failing('mark', async () => {
    const file = await open(path, 'r+');
    try {
      const mark = swapMark(uuid);
      await file.write(mark, 0, mark.length, 0);
      await file.sync();
    } finally {
      await file.close();
    }
  });
}

const WIPE_BYTES = 4 * 1024 * 1024;

/** Zeros through the mapping: noise on the device, where pages were in clear. */
async function wipe(mapping: string, bytes: number, out: SwapParts['out']): Promise<void> {
  const progress = byteProgress(`${mapping}: overwriting what was swapped in clear`, out, bytes);
  await failing('wipe', async () => {
    const file: FileHandle = await open(mapping, 'r+');
    try {
      const zeros = nativeAddon().blockBuffer(WIPE_BYTES);
      for (let at = 0; at < bytes; ) {
        const { bytesWritten } = await file.write(zeros, 0, Math.min(WIPE_BYTES, bytes - at), at);
        at += bytesWritten;
        progress.tell(bytesWritten);
      }
      await file.sync();
    } finally {
      await file.close();
      progress.end();
    }
  });
}

async function failing<T>(step: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new SwapError('SWAP_FAILED', step, { cause });
  }
}
