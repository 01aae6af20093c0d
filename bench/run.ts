/**
 * `npm run bench -- [part …]`: runs the parts one after the other, each in a process of its own, and prints one
 * JSON document on standard output; progress goes to standard error. All but the long ones when none is named.
 *
 * Exits 0 whatever was measured, 1 when a part could not run, 2 for a part that there is not.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { itemsOfEvidence, itemsOfProbe } from './items-of-others.ts';
import type { Item } from './measuring.ts';

const PARTS = [
  'bundles',
  'init',
  'event',
  'calls',
  'burst',
  'policy',
  'evidence',
  'probe',
  'end-to-end',
  'containment',
  'agent',
  'histories',
  'soak',
  'ingest',
  'system',
] as const;
/** They take the better part of an hour, or VMs, so somebody has to name them. */
const LONG: readonly Part[] = ['histories', 'soak', 'system'];
type Part = (typeof PARTS)[number];

interface Outcome {
  readonly seconds: number;
  /** One-minute load of the machine before and after: what else ran there. */
  readonly load: readonly [number, number];
  readonly items?: readonly Item[];
  readonly skipped?: string;
  readonly failed?: string;
  readonly [more: string]: unknown;
}

const folder = fileURLToPath(new URL('.', import.meta.url));
const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !PARTS.includes(name as Part));
if (unknown.length > 0) {
  process.stderr.write(`npm run bench: no such part: ${unknown.join(', ')}; there are ${PARTS.join(', ')}\n`);
  process.exit(2);
}

const parts: Partial<Record<Part, Outcome>> = {};
for (const part of PARTS) {
  if (asked.length > 0 ? !asked.includes(part) : LONG.includes(part)) continue;
  process.stderr.write(`${part}\n`);
  parts[part] = await run(part);
}
const { version } = JSON.parse(readFileSync(join(folder, '..', 'package.json'), 'utf8')) as {
  version: string;
};
const items = Object.values(parts).flatMap((outcome) => outcome.items ?? []);
const document = {
  benchmark: 'casemate',
  version,
  at: new Date().toISOString(),
  machine: { cpu: cpus()[0]?.model ?? 'unknown', cpus: cpus().length, node: process.version },
  missed: items.filter((item) => item.met === false).map((item) => item.name),
  parts,
};
process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
process.exitCode = Object.values(parts).some((outcome) => outcome.failed !== undefined) ? 1 : 0;

/** Runs one part; what it prints on standard output is its result. */
async function run(part: Part): Promise<Outcome> {
  const file = join(folder, `${part}.ts`);
  const began = Date.now();
  const [before] = loadavg();
  const about = () => ({
    seconds: Math.round((Date.now() - began) / 100) / 10,
    load: [before ?? 0, loadavg()[0] ?? 0] as const,
  });
  if (!existsSync(file)) return { ...about(), skipped: `bench/${part}.ts is not there` };
  const child = spawn(process.execPath, [file], {
    cwd: join(folder, '..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const code = await new Promise<number | string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (status, signal) => resolve(status ?? signal ?? 'unknown'));
  });
  let result: Record<string, unknown>;
  try {
    result = JSON.parse(output) as Record<string, unknown>;
  } catch {
    return { ...about(), failed: `ended with ${code} and printed no result` };
  }
  // A part of its own making may end with 1 for a bar that it missed: it ran.
  if (part === 'evidence') return { ...about(), items: itemsOfEvidence(result), result };
  if (part === 'probe') return { ...about(), items: itemsOfProbe(result), result };
  return { ...about(), ...result };
}
