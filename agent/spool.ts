import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type * as z from 'zod';
import { reportPayload } from '../lib/domain/report.ts';
import { readIfThere, removeIfThere, writeDurably } from './state.ts';

/** A report before it is signed: it gets `sentAt` and its signature at the moment of sending. */
export const unsentReport = reportPayload.omit({ sentAt: true });
export type UnsentReport = z.infer<typeof unsentReport>;

export interface Spool {
  /** Stores a report. @returns how many of the oldest were dropped to make room. */
  add(report: UnsentReport): number;
  /** Oldest first. */
  list(): readonly string[];
  /** Undefined when it is not there, or no report: one such file must not keep the others waiting. */
  read(name: string): UnsentReport | undefined;
  remove(name: string): void;
}

/** Reports on disk until the bus has them, in order, at most `max`. */
export function openSpool(stateDir: string, max: number): Spool {
  const folder = join(stateDir, 'spool');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const list = () =>
    readdirSync(folder)
      .filter((name) => name.endsWith('.json'))
      .sort();
  return {
    list,
    add(report) {
      const name = `${report.observedAt}-${String(report.sequence).padStart(12, '0')}.json`;
      writeDurably(join(folder, name), JSON.stringify(report));
      const excess = list().slice(0, -max);
      for (const old of excess) removeIfThere(join(folder, old));
      return excess.length;
    },
    read(name) {
      const text = readIfThere(join(folder, name));
      if (text === undefined) return undefined;
      const parsed = unsentReport.safeParse(parseJson(text));
      return parsed.success ? parsed.data : undefined;
    },
    remove: (name) => removeIfThere(join(folder, name)),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // no report, as the schema will say
  }
}
