import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  baseEnvironment,
  freePort,
  ProcessError,
  runToEnd,
  type Service,
  startService,
  untilAnswering,
} from '../../../bin/local/process.ts';

const MODULE = fileURLToPath(new URL('../../../bin/local/process.ts', import.meta.url));
let folder: string;
let log: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-process-test-'));
  log = join(folder, 'log');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const isRunning = (pid: number) => {
  try {
    process.kill(pid, 0);
    // A process that ended and that nobody waited for is still there.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};
const until = async (what: string, condition: () => boolean) => {
  for (const end = Date.now() + 60_000; !condition(); await sleep(20)) {
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
  }
};
/** Pids that a script of `startTwo` wrote. */
const pidsIn = (file: string) => readFileSync(file, 'utf8').trim().split('\n').map(Number);
const startTwo = (file: string) =>
  `sleep 300 & echo $! > ${file}.new; echo $$ >> ${file}.new; mv ${file}.new ${file}; wait`;

describe('a command that runs to its end', () => {
  test('is told with its exit code and the end of its log when it fails', async () => {
    const run = runToEnd(['sh', '-c', 'echo what went wrong >&2; exit 3'], { log });
    await expect(run).rejects.toThrow(
      new ProcessError('sh -c echo what went wrong >&2; exit 3 … ended with 3\nwhat went wrong'),
    );
  });

  test('is told when there is no such command', async () => {
    await expect(runToEnd(['/nowhere/at-all'], { log })).rejects.toThrow(/spawn \/nowhere\/at-all ENOENT/);
  });

  test('is stopped with whatever it started when its signal aborts, before or while it runs', async () => {
    const file = join(folder, 'aborted');
    const abort = new AbortController();
    const run = runToEnd(['sh', '-c', startTwo(file)], { log, signal: abort.signal });
    await Promise.race([run, until('it started', () => existsSync(file))]);
    abort.abort();
    await expect(run).rejects.toThrow(/SIGKILL/);
    await until('all ended', () => !pidsIn(file).some(isRunning));
    await expect(runToEnd(['sleep', '300'], { log, signal: abort.signal })).rejects.toThrow(/SIGKILL/);
  });
});

describe('a service', () => {
  test('stops with whatever it started', async () => {
    const file = join(folder, 'stopped');
    const service = startService(['sh', '-c', startTwo(file)], { log });
    await until('it started', () => existsSync(file));
    await service.stop();
    await until('all ended', () => !pidsIn(file).some(isRunning));
  });

  test('stops when it does not listen to SIGTERM', async () => {
    const file = join(folder, 'deaf');
    const service = startService(['sh', '-c', `trap '' TERM; ${startTwo(file)}`], { log });
    await until('it started', () => existsSync(file));
    await service.stop();
    await until('all ended', () => !pidsIn(file).some(isRunning));
  }, 15_000);

  test('tells when it ends by itself', async () => {
    const service = startService(['sh', '-c', 'echo out of memory; exit 1'], { log });
    await expect(service.died).rejects.toThrow(/^sh -c ended by itself with 1\n(.*\n)*out of memory$/);
  });

  test('is not waited for when it died', async () => {
    const service = startService(['false'], { log });
    await expect(untilAnswering('http://127.0.0.1:1/', service, 60)).rejects.toThrow(
      /^false ended by itself with 1/,
    );
  });

  test('is not waited for longer than asked', async () => {
    const service: Service = { pid: 0, died: new Promise(() => undefined), stop: async () => undefined };
    await expect(untilAnswering('http://127.0.0.1:1/', service, 0.2)).rejects.toThrow(
      'http://127.0.0.1:1/ does not answer after 0.2 s',
    );
  });
});

describe('when the process that started it all ends', () => {
  let parent: ChildProcess;
  const startParent = async (name: string) => {
    const [service, command, scratch] = ['service', 'command', 'scratch'].map((what) =>
      join(folder, `${name}-${what}`),
    ) as [string, string, string];
    mkdirSync(scratch);
    writeFileSync(join(scratch, 'file'), '');
    const script = join(folder, `${name}.ts`);
    writeFileSync(
      script,
      `import { removeAtEnd, runToEnd, startService } from ${JSON.stringify(MODULE)};
       removeAtEnd(${JSON.stringify(scratch)});
       startService(['sh', '-c', ${JSON.stringify(startTwo(service))}], { log: ${JSON.stringify(log)} });
       await runToEnd(['sh', '-c', ${JSON.stringify(startTwo(command))}], { log: ${JSON.stringify(log)} });`,
    );
    parent = spawn(process.execPath, [script], { stdio: 'ignore' });
    await until('both started', () => existsSync(service) && existsSync(command));
    return { scratch, pids: [...pidsIn(service), ...pidsIn(command)] };
  };

  test.each(['SIGKILL', 'SIGTERM'] as const)(
    'by %s, no process and no folder is left',
    async (signal) => {
      const { scratch, pids } = await startParent(signal);
      expect(pids.filter(isRunning)).toHaveLength(4);
      parent.kill(signal);
      await until('all ended', () => !pids.some(isRunning));
      await until('the folder is gone', () => !existsSync(scratch));
    },
    15_000,
  );
});

describe('the environment of every process', () => {
  test('takes nothing of a real account, a Python path or a proxy along', () => {
    const before = { ...process.env };
    try {
      Object.assign(process.env, {
        AWS_PROFILE: 'production',
        AWS_ENDPOINT_URL_SQS: 'https://elsewhere.example',
        CDK_DEFAULT_ACCOUNT: '111122223333',
        PYTHONPATH: '/somewhere',
        NO_PROXY: 'intranet.example',
        KEPT: 'yes',
      });
      const environment = baseEnvironment();
      expect(Object.keys(environment).filter((name) => /^(AWS|CDK)_|^PYTHONPATH$/.test(name))).toEqual([]);
      expect(environment).toMatchObject({ KEPT: 'yes', NO_PROXY: 'intranet.example,127.0.0.1,localhost' });
    } finally {
      process.env = before;
    }
  });
});

test('a free port is free on loopback', async () => {
  const port = await freePort();
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  await new Promise((resolve) => server.close(resolve));
});
