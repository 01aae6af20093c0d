import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** A command failed. The message holds the end of its log. */
export class ProcessError extends Error {
  override readonly name = 'ProcessError';
}

export interface ProcessOptions {
  /** File that gets stdout and stderr. */
  readonly log: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly signal?: AbortSignal;
}

const WATCHDOG = fileURLToPath(new URL('./watchdog.ts', import.meta.url));
const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

/** Settings of whoever starts this that must not reach the embedded cloud: a profile, an endpoint, a path. */
const NOT_INHERITED =
  /^(AWS_|CDK_|MOTO_|MINISTACK_|PYTHONPATH$|PYTHONHOME$|NODE_OPTIONS$|NODE_USE_ENV_PROXY$)/;

/**
 * What every process of the embedded cloud starts from. The Node that runs this comes first, so that
 * functions, agents and the CDK run on the same; nothing of a real AWS account comes along; loopback is not
 * asked of a proxy.
 */
export function baseEnvironment(): Record<string, string> {
  const inherited = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !NOT_INHERITED.test(entry[0]),
  );
  const path = `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`;
  const noProxy = [process.env['NO_PROXY'] ?? process.env['no_proxy'], '127.0.0.1', 'localhost']
    .filter(Boolean)
    .join();
  return { ...Object.fromEntries(inherited), PATH: path, NO_PROXY: noProxy, no_proxy: noProxy };
}

/** npm and the CDK keep compiled code anyway; here rather than in the system's temporary folder. */
const COMPILE_CACHE = join(PROJECT, 'node_modules', '.cache', 'casemate');

/** Runs a command to its end, in a process group of its own. @throws ProcessError */
export async function runToEnd(
  command: readonly [string, ...string[]],
  options: ProcessOptions,
): Promise<void> {
  const env = { ...(options.env ?? baseEnvironment()), NODE_COMPILE_CACHE: COMPILE_CACHE };
  const child = start(command, { ...options, env });
  const abort = () => stopGroup(child, 'SIGKILL'); // with whatever it started: none of it has anything to save
  if (options.signal?.aborted) abort();
  options.signal?.addEventListener('abort', abort, { once: true });
  const code = await ending(child);
  options.signal?.removeEventListener('abort', abort);
  watch('stopped', child.pid);
  if (code !== 0)
    throw new ProcessError(`${command.slice(0, 3).join(' ')} … ended with ${code}\n${tail(options.log)}`);
}

/** How a process ends: its exit status, the signal that ended it, or why it did not start. */
function ending(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) => resolve(status ?? signal ?? 'unknown'));
  });
}

/** A command that runs until it is stopped. */
export interface Service {
  readonly pid: number;
  /** Rejects when the service ends by itself. */
  readonly died: Promise<never>;
  stop(): Promise<void>;
}

/** Starts a service in a process group of its own. It ends with this process, however that ends. */
export function startService(command: readonly [string, ...string[]], options: ProcessOptions): Service {
  const child = start(command, options);
  let stopping = false;
  const ended = ending(child);
  const died = ended.then((how): never => {
    if (stopping) return undefined as never;
    const name = command.slice(0, 2).join(' ');
    throw new ProcessError(`${name} ended by itself with ${how}\n${tail(options.log)}`);
  });
  died.catch(() => undefined); // seen by whoever awaits it
  return {
    pid: child.pid ?? 0,
    died,
    async stop() {
      stopping = true;
      stopGroup(child, 'SIGTERM');
      await Promise.race([ended, sleep(5000, undefined, { ref: false })]);
      stopGroup(child, 'SIGKILL'); // and whatever it started and did not end
      watch('stopped', child.pid);
    },
  };
}

function start(command: readonly [string, ...string[]], options: ProcessOptions): ChildProcess {
  const fd = openSync(options.log, 'a', 0o600);
  try {
    const [file, ...args] = command;
    const child = spawn(file, args, {
      stdio: ['ignore', fd, fd],
      env: options.env ?? baseEnvironment(),
      cwd: options.cwd ?? PROJECT,
      detached: true, // it leads a group, which can be stopped as a whole
    });
    watch('group', child.pid);
    return child;
  } finally {
    closeSync(fd);
  }
}

let watchdog: Writable | undefined;

/** Tells the watchdog, which is started with the first process or file there is to watch. */
function watch(word: 'group' | 'stopped' | 'remove', value: number | string | undefined): void {
  if (value === undefined) return; // it could not be started
  if (!watchdog) {
    const child = spawn(process.execPath, [WATCHDOG], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    child.unref(); // it must not keep this process alive: it waits for its end
    child.on('error', () => undefined);
    child.stdin.on('error', () => undefined); // somebody killed it: all that is lost is the help after a crash
    (child.stdin as Socket).unref();
    watchdog = child.stdin;
  }
  watchdog.write(`${word} ${value}\n`);
}

/** Has a file or folder removed when this process ends, however that ends. */
export function removeAtEnd(path: string): void {
  watch('remove', path);
}

function stopGroup(child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // all of the group ended already
  }
}

/** The last lines of a log, for an error message. */
export function tail(log: string, lines = 25): string {
  try {
    return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    return '';
  }
}

/** A port that was free a moment ago on loopback. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** Asks until an HTTP server answers, or the service behind it died, or time is over. */
export async function untilAnswering(url: string, service: Service, seconds: number): Promise<void> {
  const over = AbortSignal.timeout(seconds * 1000);
  const asked = new AbortController();
  const answering = async () => {
    while (!asked.signal.aborted && !over.aborted) {
      const signal = AbortSignal.any([AbortSignal.timeout(2000), asked.signal]);
      const ok = await fetch(url, { signal }).then(
        (answer) => answer.status < 500,
        () => false,
      );
      if (ok) return;
      await sleep(100);
    }
    throw new ProcessError(`${url} does not answer after ${seconds} s`);
  };
  await Promise.race([answering(), service.died]).finally(() => asked.abort());
}
