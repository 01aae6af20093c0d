import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * A process that outlives the one that started it by as long as it takes to tidy up after it: it is told on
 * stdin what there is, and at the end of stdin, which comes however the other ended, it stops process groups and
 * removes files and folders that are still there. Lines: `group <pid>`, `stopped <pid>`, `remove <path>`.
 */
const groups = new Set<number>();
const paths = new Set<string>();
for await (const line of createInterface({ input: process.stdin })) {
  const [, word, value = ''] = /^(\w+) (.*)$/.exec(line) ?? [];
  if (word === 'group') groups.add(Number(value));
  else if (word === 'stopped') groups.delete(Number(value));
  else if (word === 'remove') paths.add(value);
}

const signal = (name: NodeJS.Signals | 0) =>
  [...groups].filter((group) => {
    try {
      return process.kill(-group, name);
    } catch {
      return false; // all of it ended
    }
  });
signal('SIGTERM');
for (const until = Date.now() + 3000; Date.now() < until && signal(0).length > 0; ) await sleep(50);
signal('SIGKILL');
for (const path of paths) rmSync(path, { recursive: true, force: true, maxRetries: 5 });
