import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { keepLogs, makeScratch } from '../../../bin/local/scratch.ts';

let folder: string;
beforeEach(() => {
  folder = makeScratch();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const write = (...files: readonly string[]) => {
  for (const file of files) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), file);
  }
};

describe('the folder of a run', () => {
  test('is there, empty, and another for each run', () => {
    const other = makeScratch();
    expect(readdirSync(folder)).toEqual([]);
    expect(other).not.toBe(folder);
    rmSync(other, { recursive: true });
  });
});

describe('the logs of a run that failed', () => {
  test('are kept, and nothing that could hold a key', () => {
    write('cdk.log', 'events.jsonl', 'outputs.json', 'aws/s3/object.log', 'cdk.out/tree.json');
    write('agents/i-1/agent.log', 'agents/i-1/agent.json', 'agents/i-1/state/agent-key.pem');
    write('agents/i-1/state/spool.jsonl', 'agents/i-1/state/spool.log');
    const kept = join(folder, 'kept');
    keepLogs(folder, kept);
    expect(
      readdirSync(kept, { recursive: true, encoding: 'utf8' })
        .filter((file) => file.includes('.'))
        .sort(),
    ).toEqual(['agents/i-1/agent.log', 'cdk.log', 'events.jsonl']);
  });

  test('replace those of the run before', () => {
    const kept = join(folder, 'kept');
    write('kept/old.log', 'new.log');
    keepLogs(folder, kept);
    expect([existsSync(join(kept, 'old.log')), existsSync(join(kept, 'new.log'))]).toEqual([false, true]);
  });
});
