import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { ConfigError, readConfig } from '../../agent/config.ts';
import { isEnrolled } from '../../agent/enrol.ts';
import { loadOrCreateKey } from '../../agent/key.ts';
import { openSpool } from '../../agent/spool.ts';
import { nextSequence, openStateDir, readIfThere, writeDurably } from '../../agent/state.ts';
import { parseAgentPublicKey } from '../../lib/domain/signature.ts';
import { BOOT } from '../world/agent.ts';
import { VM_ID } from '../world/items.ts';
import { aConfig, aReport, IDENTITY, temporaryFolder } from './harness.ts';

let folder: ReturnType<typeof temporaryFolder>;
let dir: string;
beforeEach(() => {
  folder = temporaryFolder();
  dir = folder.path;
});
afterEach(() => folder.remove());
const mode = (path: string) => statSync(path).mode & 0o777;

describe('the agent’s key', () => {
  test('is P-256, made once, and readable by its owner alone', () => {
    const first = loadOrCreateKey(dir, VM_ID);
    expect(parseAgentPublicKey(first.publicKey)).toBeDefined();
    expect(mode(join(dir, 'agent-key.json'))).toBe(0o600);
    expect(loadOrCreateKey(dir, VM_ID).publicKey).toEqual(first.publicKey);
  });

  test('is readable by its owner alone under any umask', () => {
    const before = process.umask(0);
    try {
      loadOrCreateKey(dir, VM_ID);
    } finally {
      process.umask(before);
    }
    expect(mode(join(dir, 'agent-key.json'))).toBe(0o600);
  });

  test('of another instance came with a cloned image: it is discarded, and never comes back', () => {
    const cloned = loadOrCreateKey(dir, 'i-00000002');
    const own = loadOrCreateKey(dir, VM_ID);
    expect(own.publicKey).not.toEqual(cloned.publicKey);
    expect(readFileSync(join(dir, 'agent-key.json'), 'utf8')).not.toContain('i-00000002');
    expect(loadOrCreateKey(dir, VM_ID).publicKey).toEqual(own.publicKey);
    expect(loadOrCreateKey(dir, 'i-00000002').publicKey).not.toEqual(cloned.publicKey);
  });

  test.each(['', '{', '{"instanceId":"i-1"}'])(
    'that cannot be read is not replaced in silence: %j',
    (content) => {
      writeFileSync(join(dir, 'agent-key.json'), content);
      expect(() => loadOrCreateKey(dir, VM_ID)).toThrow();
      expect(readFileSync(join(dir, 'agent-key.json'), 'utf8')).toBe(content);
    },
  );

  test('enrolled for another instance, or another key, is not enrolled', () => {
    const config = aConfig(dir);
    const key = loadOrCreateKey(dir, VM_ID);
    expect(isEnrolled(config, IDENTITY, key)).toBe(false);
    writeDurably(join(dir, 'enrolled'), `${VM_ID} ${key.publicKey.toString('base64')}\n`);
    expect(isEnrolled(config, IDENTITY, key)).toBe(true);
    expect(isEnrolled(config, { ...IDENTITY, instanceId: 'i-00000002' }, key)).toBe(false);
    const other = loadOrCreateKey(dir, 'i-00000002');
    expect(isEnrolled(config, IDENTITY, other)).toBe(false);
  });
});

describe('state on disk', () => {
  test('lives in a folder for its owner alone', () => {
    const path = join(dir, 'a/b');
    openStateDir(path);
    expect(mode(path)).toBe(0o700);
    expect(openStateDir(path)).toBe(path);
  });

  test('is replaced as a whole, through a file that is private from its first byte', () => {
    const path = join(dir, 'file');
    writeDurably(path, 'old');
    writeDurably(path, 'new');
    expect([readIfThere(path), mode(path), readdirSync(dir)]).toEqual(['new', 0o600, ['file']]);
    expect(readIfThere(join(dir, 'none'))).toBeUndefined();
  });

  test('does not take over what a crash left of an earlier write, nor its mode', () => {
    const path = join(dir, 'file');
    writeFileSync(`${path}.new`, 'half of something much longer', { mode: 0o644 });
    writeDurably(path, 'whole');
    expect([readIfThere(path), mode(path)]).toEqual(['whole', 0o600]);
  });

  test('is the old one when the disk takes only a part of the new', () => {
    const path = join(dir, 'file');
    writeDurably(path, 'old');
    const script = `
      import { writeDurably } from ${JSON.stringify(new URL('../../agent/state.ts', import.meta.url).href)};
      try { writeDurably(${JSON.stringify(path)}, 'x'.repeat(100_000)); } catch (e) { process.stdout.write(e.code); }`;
    // A limit on the size of files makes write(2) take a part and fail on the rest, as a full disk does.
    const { stdout, stderr } = spawnSync(
      'sh',
      ['-c', 'ulimit -f 16; exec "$0" --no-warnings --input-type=module -e "$1"', process.execPath, script],
      { encoding: 'utf8' },
    );
    expect([stdout, stderr]).toEqual(['EFBIG', '']);
    expect(readIfThere(path)).toBe('old');
  });
});

describe('the sequence', () => {
  test('counts from one in each boot', () => {
    expect([1, 2, 3].map(() => nextSequence(dir, BOOT))).toEqual([1, 2, 3]);
    expect(nextSequence(dir, '22222222-2222-4333-8444-555555555555')).toBe(1);
  });

  test('never gives a number twice, however often the process dies right after it', () => {
    const state = fileURLToPath(new URL('../../agent/state.ts', import.meta.url));
    const script = `
      import { nextSequence } from ${JSON.stringify(state)};
      process.stdout.write(String(nextSequence(${JSON.stringify(dir)}, ${JSON.stringify(BOOT)})));
      process.kill(process.pid, 'SIGKILL');`;
    const given = Array.from(
      { length: 3 },
      () =>
        spawnSync(process.execPath, ['--no-warnings', '--input-type=module', '-e', script], {
          encoding: 'utf8',
        }).stdout,
    );
    expect(given).toEqual(['1', '2', '3']);
  });
});

describe('the spool', () => {
  test('keeps reports in the order of their measurement, and gives them back whole', () => {
    const spool = openSpool(dir, 10);
    for (const n of [3, 1, 2]) spool.add(aReport(n));
    expect(spool.list().map((name) => spool.read(name)?.sequence)).toEqual([1, 2, 3]);
    expect(spool.read(spool.list()[0] as string)).toEqual(aReport(1));
    spool.remove(spool.list()[0] as string);
    expect(spool.list()).toHaveLength(2);
    expect(mode(join(dir, 'spool'))).toBe(0o700);
  });

  test('orders reports of the same moment by their number', () => {
    const spool = openSpool(dir, 20);
    const observedAt = aReport(1).observedAt;
    for (const n of [10, 9, 100, 2]) spool.add(aReport(n, { observedAt }));
    expect(spool.list().map((name) => spool.read(name)?.sequence)).toEqual([2, 9, 10, 100]);
  });

  test('holds at most so many, drops the oldest, and says how many', () => {
    void fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 0, max: 12 }), (max, n) => {
        const own = temporaryFolder();
        try {
          const spool = openSpool(own.path, max);
          let dropped = 0;
          for (let i = 1; i <= n; i++) dropped += spool.add(aReport(i));
          expect(dropped).toBe(Math.max(0, n - max));
          const kept = spool.list().map((name) => spool.read(name)?.sequence);
          expect(kept).toEqual(
            Array.from({ length: Math.min(n, max) }, (_, i) => n - Math.min(n, max) + i + 1),
          );
        } finally {
          own.remove();
        }
      }),
      { numRuns: 15 },
    );
  });

  test('survives the process: what one put in another takes out', () => {
    openSpool(dir, 10).add(aReport(1));
    expect(openSpool(dir, 10).list()).toHaveLength(1);
  });

  test.each(['', '{', '[]', '{"schema":"casemate.report/0"}'])(
    'reads nothing out of what is no report: %j',
    (text) => {
      const spool = openSpool(dir, 10);
      writeFileSync(join(dir, 'spool', '2026-01-01T00:00:00.000Z-000000000001.json'), text);
      expect(spool.read(spool.list()[0] as string)).toBeUndefined();
      expect(spool.read('none.json')).toBeUndefined();
    },
  );

  test('passes over what a crash left of a write', () => {
    const spool = openSpool(dir, 10);
    writeFileSync(join(dir, 'spool', '2026-01-01T00:00:00.000Z-000000000001.json.new'), '{"half');
    spool.add(aReport(1));
    expect(spool.list()).toHaveLength(1);
  });
});

describe('the configuration', () => {
  const good = { region: 'eu-west-1', apiUrl: 'https://api.example/v1', busName: 'casemate' };
  const read = (content: unknown) => {
    const file = join(dir, 'agent.json');
    writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
    return readConfig(file);
  };

  test('has defaults for what most leave as it is, and cannot be changed', () => {
    const config = read(good);
    expect(config).toEqual({
      ...good,
      stateDir: '/var/lib/casemate',
      metadataEndpoint: 'http://169.254.169.254',
      mountPrefixes: ['/mnt', '/srv', '/data', '/var/lib'],
      reportIntervalSeconds: 300,
      devices: {},
      discards: false,
      evidenceIntervalSeconds: 1800,
      runtimeDir: '/run/casemate',
      spoolMax: 2000,
    });
    expect(Object.isFrozen(config)).toBe(true);
  });

  test('names every fault in one error, and the file', () => {
    const wrong = {
      region: 'europe',
      apiUrl: 'http://api.example',
      spoolMax: 0,
      machine: { cpu: 1 },
      typo: 1,
    };
    let message = '';
    try {
      read(wrong);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      message = (error as Error).message;
    }
    expect(message.startsWith(join(dir, 'agent.json'))).toBe(true);
    for (const name of ['region', 'apiUrl', 'busName', 'spoolMax', 'machine', 'typo']) {
      expect(message).toContain(name);
    }
  });

  test.each(['', '{', 'null', '[]'])('that is %j is refused', (text) => {
    expect(() => read(text)).toThrow(ConfigError);
  });

  test('that is not there, or not to be read, is refused by its name', () => {
    expect(() => readConfig(join(dir, 'none.json'))).toThrow(/none\.json.*ENOENT/);
    mkdirSync(join(dir, 'folder.json'));
    expect(() => readConfig(join(dir, 'folder.json'))).toThrow(ConfigError);
    expect(existsSync(join(dir, 'none.json'))).toBe(false);
    chmodSync(dir, 0o700);
  });

  test.each([
    'https://abc.execute-api.eu-west-1.amazonaws.com/v1',
    'http://127.0.0.1:4566/v1',
    'http://localhost:4566',
    'http://[::1]:4566',
  ])('lets the API be at %s', (apiUrl) => {
    expect(read({ ...good, apiUrl }).apiUrl).toBe(apiUrl);
  });

  test.each([
    'http://api.example',
    'http://127.0.0.1.example',
    'http://localhost.example',
    'http://localhost@api.example',
    'http://10.0.0.1',
    'ftp://127.0.0.1',
    'file://localhost/etc/passwd',
    'api.example',
    '',
  ])('does not let the API be at %j', (apiUrl) => {
    expect(() => read({ ...good, apiUrl })).toThrow(/apiUrl: /);
  });
});
