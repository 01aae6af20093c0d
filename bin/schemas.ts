/** Writes the JSON Schemas of the probe's output and of every event into docs/, for other languages. */
import { readFileSync, writeFileSync } from 'node:fs';
import * as z from 'zod';
import { EVENTS } from '../lib/domain/events.ts';
import { probeResult } from '../lib/domain/fact.ts';

const docs = new URL('../docs/', import.meta.url);
const schemas: (readonly [file: string, title: string, schema: z.ZodType])[] = [
  ['probe.schema.json', 'casemate-probe --json', probeResult],
  ...Object.entries(EVENTS).map(
    ([type, schema]) => [`schemas/${type.toLowerCase().replaceAll(' ', '-')}.json`, type, schema] as const,
  ),
];
const check = process.argv.includes('--check');
let stale = 0;
for (const [name, title, schema] of schemas) {
  const file = new URL(name, docs);
  const text = `${JSON.stringify({ title, ...z.toJSONSchema(schema) }, null, 2)}\n`;
  if (!check) writeFileSync(file, text);
  else if (readIfThere(file) !== text) {
    process.stderr.write(`${file.pathname.split('/').at(-1)} is not what the code says: npm run schemas\n`);
    stale = 1;
  }
}
process.exitCode = stale;

function readIfThere(file: URL): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined; // not written yet: stale
  }
}
