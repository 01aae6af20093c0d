import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { requireLocal } from './local.ts';

interface LoggedEvent {
  readonly time?: string;
  readonly source?: string;
  readonly 'detail-type'?: string;
  readonly detail?: Record<string, unknown>;
  readonly fault?: string;
}

/** `casemate events`: what went over the buses of the embedded cloud. */
export function eventsCommand(): Command {
  return new Command('events')
    .description('show the events of both buses of the embedded cloud')
    .option('--follow', 'go on with new ones until Ctrl-C')
    .option('--json', 'one JSON document a line')
    .action(async (options: { follow?: boolean; json?: boolean }) => {
      const local = requireLocal();
      const fd = openSync(join(local.folder, 'events.jsonl'), 'r');
      const buffer = Buffer.alloc(64 * 1024);
      let rest = '';
      try {
        for (;;) {
          const length = readSync(fd, buffer);
          if (length > 0) {
            const lines = (rest + buffer.toString('utf8', 0, length)).split('\n');
            rest = lines.pop() ?? '';
            for (const line of lines) process.stdout.write(`${options.json ? line : brief(line)}\n`);
          } else if (!options.follow) return;
          else await sleep(300);
        }
      } finally {
        closeSync(fd);
      }
    });
}

/** One line of an event: when, what, of which VM, and the rest of it shortened. */
function brief(line: string): string {
  const event = JSON.parse(line) as LoggedEvent;
  if (event.fault !== undefined) return `embedded cloud: ${event.fault}`;
  const { detail = {} } = event;
  const { schemaVersion: _v, at: _at, instanceId, payload, signature: _s, ...other } = detail;
  const id = instanceId ?? detail['instance-id'] ?? '';
  const rest = payload === undefined ? JSON.stringify(other) : `${String(payload).length} characters, signed`;
  const call = detail['eventName'] === undefined ? '' : ` ${detail['eventName']}`;
  const shown = call ? JSON.stringify(detail['requestParameters']) : rest;
  // Tags and the like are somebody's text: no control character of theirs reaches the terminal.
  return `${event.time ?? ''} ${event['detail-type']}${call} ${id} ${shown.slice(0, 120)}`
    .replace(/\p{Cc}/gu, ' ')
    .trimEnd();
}
