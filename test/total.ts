/**
 * Passes the output of several test runs on and ends it with one count of all: each run's own `Tests:` line
 * becomes a note, so that there is exactly one.
 */
import { createInterface } from 'node:readline';

const COUNT = /^Tests: (\d+) passed, (\d+) failed$/;

let [passed, failed] = [0, 0];
for await (const line of createInterface({ input: process.stdin })) {
  const [, more, fewer] = COUNT.exec(line) ?? [];
  if (more !== undefined) process.stdout.write(`(${more} passed, ${fewer} failed)\n`);
  else process.stdout.write(`${line}\n`);
  passed += Number(more ?? 0);
  failed += Number(fewer ?? 0);
}
process.stdout.write(`\nTests: ${passed} passed, ${failed} failed\n`);
