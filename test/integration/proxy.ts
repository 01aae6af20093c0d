import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import {
  Agent,
  createServer,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** One AWS call of one worker, as it came by. */
export interface Call {
  /** Folder of the function below lambdas/. */
  readonly by: string;
  readonly pid: number;
  readonly operation: string;
  /** Decoded, so that ids can be looked for in it. */
  readonly body: string;
}

/** What becomes of a call. */
export type Fate =
  /** AWS answers in the worker's stead; the call has no effect. */
  | { readonly kind: 'answer'; readonly status: number; readonly body: string }
  /** The call has its effect, and the worker dies before it hears of it. */
  | { readonly kind: 'kill' }
  /** The call has its effect; its answer gets lost, and the worker sees this one, or a closed connection. */
  | { readonly kind: 'lose'; readonly status?: number; readonly body?: string }
  /** The call has its effect, and the worker is told something else of it. */
  | { readonly kind: 'edit'; readonly edit: (answer: string) => string }
  /** The network is slow, on the way there. */
  | { readonly kind: 'slow'; readonly milliseconds: number }
  /** A read shows what the very same read showed the last time, as EC2 may; the first time it is shown the truth. */
  | { readonly kind: 'stale' }
  /** The call arrives twice, and so has its effect twice. */
  | { readonly kind: 'twice' };

/** Asked about every call; the first that says something decides. */
export type Rule = (call: Call) => Fate | undefined;

/** AWS as the functions' workers see it: the emulators behind something that can count, fail and kill. */
export interface AwsProxy {
  readonly aws: string;
  readonly ec2: string;
  /** Every call since the last `forget`, in order of arrival. */
  readonly calls: readonly Call[];
  forget(): void;
  /** @returns what takes the rule away again */
  rule(rule: Rule): () => void;
  /** Takes every rule and listener away. */
  clearRules(): void;
  /** Told of every answer of an emulator. @returns what takes the listener away again */
  onAnswer(listener: (call: Call, answer: string) => void): () => void;
  readonly kills: readonly Call[];
  stop(): Promise<void>;
}

const READS = /^(Describe|BatchGet|Get|List|Query|Scan|Receive)/;

/** Whether a call may change something. */
export function mutates(call: Call): boolean {
  return !READS.test(call.operation);
}

export async function startProxy(
  emulators: { aws: string; ec2: string },
  workersFolder: string,
): Promise<AwsProxy> {
  const calls: Call[] = [];
  const kills: Call[] = [];
  const rules = new Set<Rule>();
  const listeners = new Set<(call: Call, answer: string) => void>();
  const dead = new Set<number>();
  const workers = new WeakMap<Socket, Worker>();
  /** What reads of EC2 were answered last, by operation and body. */
  const shown = new Map<string, { status: number; headers: IncomingMessage['headers']; body: string }>();
  const upstream = new Agent({ keepAlive: true });
  const stopping = new AbortController();

  const serve = async (target: string, asked: IncomingMessage, answer: ServerResponse): Promise<void> => {
    const body = await read(asked);
    let worker = workers.get(asked.socket);
    if (!worker) {
      worker = workerBehind(asked.socket, workersFolder);
      if (worker) workers.set(asked.socket, worker);
    }
    if (!worker || dead.has(worker.pid)) return void asked.socket.destroy(); // sent before it died, read after
    const call: Call = { ...worker, operation: operationOf(asked, body), body: decoded(asked, body) };
    calls.push(call);
    let fate: Fate | undefined;
    for (const rule of rules) fate ??= rule(call);
    if (fate?.kind === 'answer') return respond(answer, fate.status, {}, fate.body);
    const before = fate?.kind === 'stale' ? shown.get(`${call.operation} ${call.body}`) : undefined;
    if (before) return respond(answer, before.status, before.headers, before.body);
    if (fate?.kind === 'slow') await sleep(fate.milliseconds, undefined, { signal: stopping.signal });
    if (fate?.kind === 'twice') await forward(target, asked, body, upstream, stopping.signal);
    const real = await forward(target, asked, body, upstream, stopping.signal);
    if (call.operation.startsWith('Describe')) shown.set(`${call.operation} ${call.body}`, real);
    for (const listener of listeners) listener(call, real.body);
    switch (fate?.kind) {
      case 'kill':
        dead.add(worker.pid);
        kills.push(call);
        process.kill(worker.pid, 'SIGKILL');
        return void asked.socket.destroy();
      case 'lose':
        if (fate.status === undefined) return void asked.socket.destroy();
        return respond(answer, fate.status, {}, fate.body ?? '');
      case 'edit':
        return respond(answer, real.status, real.headers, fate.edit(real.body));
      default:
        return respond(answer, real.status, real.headers, real.body);
    }
  };

  const servers: Server[] = [];
  const listen = async (target: string): Promise<string> => {
    const server = createServer((asked, answer) => {
      serve(target, asked, answer).catch((error: unknown) => {
        // Nothing is hidden here: a fault of the proxy itself must not look like a fault of AWS.
        if (!stopping.signal.aborted) process.stderr.write(`proxy: ${String(error)}\n`);
        asked.socket.destroy();
      });
    });
    server.keepAliveTimeout = 60_000;
    servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };

  const taken = <T>(set: Set<T>, value: T) => {
    set.add(value);
    return () => void set.delete(value);
  };
  return {
    aws: await listen(emulators.aws),
    ec2: await listen(emulators.ec2),
    calls,
    kills,
    forget: () => void calls.splice(0),
    rule: (rule) => taken(rules, rule),
    clearRules() {
      rules.clear();
      listeners.clear();
    },
    onAnswer: (listener) => taken(listeners, listener),
    async stop() {
      stopping.abort();
      upstream.destroy();
      await Promise.all(
        servers.map((server) => {
          const closed = new Promise<void>((resolve) => server.close(() => resolve()));
          server.closeAllConnections();
          return closed;
        }),
      );
    },
  };
}

async function read(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function respond(
  answer: ServerResponse,
  status: number,
  headers: IncomingMessage['headers'],
  body: string,
): void {
  const { 'content-type': type = body.startsWith('<') ? 'text/xml' : 'application/x-amz-json-1.0' } = headers;
  answer.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body);
}

function forward(
  target: string,
  asked: IncomingMessage,
  body: Buffer,
  agent: Agent,
  signal: AbortSignal,
): Promise<{ status: number; headers: IncomingMessage['headers']; body: string }> {
  const url = new URL(asked.url ?? '/', target);
  const { 'transfer-encoding': _te, connection: _c, ...headers } = asked.headers;
  return new Promise((resolve, reject) => {
    const sent = request(
      url,
      {
        method: asked.method ?? 'POST',
        headers: { ...headers, host: url.host, 'content-length': body.length, 'accept-encoding': 'identity' },
        agent,
        signal,
      },
      (answer) => {
        read(answer).then(
          (bytes) =>
            resolve({
              status: answer.statusCode ?? 500,
              headers: answer.headers,
              body: bytes.toString('utf8'),
            }),
          reject,
        );
      },
    );
    sent.once('error', reject);
    sent.end(body);
  });
}

/** JSON protocols name the operation in a header, EC2's in the form. */
function operationOf(asked: IncomingMessage, body: Buffer): string {
  const target = asked.headers['x-amz-target'];
  if (typeof target === 'string') return target.slice(target.indexOf('.') + 1);
  return new URLSearchParams(body.toString('utf8')).get('Action') ?? `${asked.method} ${asked.url}`;
}

function decoded(asked: IncomingMessage, body: Buffer): string {
  const text = body.toString('utf8');
  const isForm = asked.headers['content-type']?.startsWith('application/x-www-form-urlencoded') === true;
  return isForm ? decodeURIComponent(text.replaceAll('+', ' ')) : text;
}

interface Worker {
  readonly pid: number;
  readonly by: string;
}

const WORKER = /ministack-lambda-\w+-Casemate([A-Za-z]+?)Function[^/]*\/_worker/;

/**
 * The worker process at the other end of a connection on loopback: the kernel tells which socket has that
 * port, and which process has that socket. Undefined when the worker has died.
 */
function workerBehind(socket: Socket, workersFolder: string): Worker | undefined {
  const loopback = (port = 0) => `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const inode = () =>
    readFileSync('/proc/net/tcp', 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .find(([, from, to]) => from === loopback(socket.remotePort) && to === loopback(socket.localPort))?.[9];
  const had = inode();
  if (had === undefined || had === '0') return undefined; // closed, and nobody has it any more
  const link = `socket:[${had}]`;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8');
      const name = command.includes(workersFolder) ? WORKER.exec(command)?.[1] : undefined;
      if (name === undefined) continue;
      const has = readdirSync(`/proc/${entry}/fd`).some((fd) => {
        try {
          return readlinkSync(`/proc/${entry}/fd/${fd}`) === link;
        } catch {
          return false; // closed meanwhile
        }
      });
      if (has) return { pid: Number(entry), by: kebab(name) };
    } catch {
      // ended meanwhile
    }
  }
  if (inode() !== had) return undefined; // died while this looked for it
  throw new Error(`no worker below ${workersFolder} has port ${socket.remotePort}`);
}

function kebab(name: string): string {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, '-').toLowerCase();
}
