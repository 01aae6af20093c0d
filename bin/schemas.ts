/** Writes the JSON Schema of every event into docs/schemas, for consumers in other languages. */
import { readFileSync, writeFileSync } from 'node:fs';
import * as z from 'zod';
import { EVENTS } from '../lib/domain/events.ts';

const folder = new URL('../docs/schemas/', import.meta.url);
const check = process.argv.includes('--check');
let stale = 0;
for (const [detailType, schema] of Object.entries(EVENTS)) {
  const file = new URL(`${detailType.toLowerCase().replaceAll(' ', '-')}.json`, folder);
  const text = `${JSON.stringify({ title: detailType, ...z.toJSONSchema(schema) }, null, 2)}\n`;
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
