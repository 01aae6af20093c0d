/**
 * The real agent with the real probe, idle between two reports: resident memory and CPU over four minutes, beside
 * a Node process that waits for a timer; and the CPU of one report, which is what an idle agent still does
 * every five minutes. Its API, bus and metadata service are a loopback stand-in in this process; API and bus by TLS, as
 * on AWS.
 *
 *   node bench/agent.ts [seconds]
 */
import 'reflect-metadata'; // @peculiar/x509 refuses to load without it
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as x509 from '@peculiar/x509';
import { bundleAgent } from '../bin/package/bundle.ts';
import { PROJECT, REGION } from './deployed.ts';
import { type Item, item, type PartResult, print, say } from './measuring.ts';

/** Once in the first minutes after its start it takes 40 to 80 ms, as its memory shrinks: that is no rate of a minute. */
const SECONDS = Number(process.argv[2] ?? 240);
const BAR_RSS = { of: 'value', max: 70 } as const;
const BAR_CPU = { of: 'value', max: 0.1 } as const;
const INTERVAL_SECONDS = 300; // agent/config.ts
const INSTANCE = 'i-0123456789abcdef0';
/** The kernel's clock ticks a second, for /proc/PID/stat; 100 on every Linux that Node runs on. */
const TICKS = 100;

const folder = mkdtempSync(join(tmpdir(), 'casemate-bench-'));
let reports = 0;

const answer: RequestListener = (request, response) => {
  let body = '';
  request.setEncoding('utf8').on('data', (text: string) => {
    body += text;
  });
  request.on('end', () => {
    const json = (value: object) =>
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    const path = request.url ?? '';
    if (path.endsWith('/latest/api/token')) return void response.end('token');
    if (path.endsWith('/document')) {
      return json({ instanceId: INSTANCE, accountId: '123456789012', region: REGION });
    }
    if (path.endsWith('/rsa2048')) return void response.end('signed');
    if (path.endsWith('/challenges')) {
      return json({
        nonce: randomBytes(32).toString('base64'),
        expiresAt: new Date(Date.now() + 60_000).toISOString(),
      });
    }
    if (path.endsWith('/enrolments')) return json({ status: 'enrolled', instanceId: INSTANCE });
    if (path.endsWith('/disks')) return json({ mode: 'observe', recoveryPublicKey: null, volumes: [] });
    if (body.includes('Capability Report')) reports++;
    return json({ FailedEntryCount: 0, Entries: [{ EventId: 'e-1' }] });
  });
};

/** A certificate for loopback: itself the authority that the agent is told to trust. */
async function certificate(): Promise<{ readonly cert: string; readonly key: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=127.0.0.1',
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.SubjectAlternativeNameExtension([{ type: 'ip', value: '127.0.0.1' }]),
    ],
  });
  const key = x509.PemConverter.encode(
    await crypto.subtle.exportKey('pkcs8', keys.privateKey),
    'PRIVATE KEY',
  );
  return { cert: cert.toString('pem'), key };
}

const identity = await certificate();
const authority = join(folder, 'authority.pem');
writeFileSync(authority, identity.cert);
const servers = { http: createServer(answer), https: createTlsServer(identity, answer) };
const origins: Record<string, string> = {};
for (const [scheme, server] of Object.entries(servers)) {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origins[scheme] = `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

interface Usage {
  readonly rssMb: number;
  readonly anonMb: number;
  readonly cpuMs: number;
}

/** Of a process, from /proc: its CPU in ticks of 10 ms, a 24th of the bar over four minutes. */
function usageOf(pid: number): Usage {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kb = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  const [, , , ...fields] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(/ (?=\S)/);
  const ticks = Number(fields[10]) + Number(fields[11]); // utime, stime: proc(5)
  return { rssMb: kb('VmRSS') / 1024, anonMb: kb('RssAnon') / 1024, cpuMs: (ticks * 1000) / TICKS };
}

const started: ChildProcess[] = [];

function start(command: readonly string[], more: Readonly<Record<string, string>> = {}): ChildProcess {
  const child = spawn(process.execPath, command, {
    cwd: PROJECT,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: {
      PATH: process.env['PATH'],
      AWS_REGION: REGION,
      AWS_ENDPOINT_URL: origins['https'],
      NODE_EXTRA_CA_CERTS: authority,
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
      ...more,
    },
  });
  started.push(child);
  return child;
}

function startAgent(name: string, how: Start, reportIntervalSeconds: number): ChildProcess {
  const config = join(folder, `${name}.json`);
  writeFileSync(
    config,
    JSON.stringify({
      region: REGION,
      apiUrl: `${origins['https']}/v1`,
      busName: 'casemate',
      stateDir: join(folder, name),
      metadataEndpoint: origins['http'],
      reportIntervalSeconds,
      tpm: false,
    }),
  );
  return start([...how.flags, how.entry, 'run', '--config', config], how.environment);
}

interface Start {
  readonly entry: string;
  readonly flags: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

async function untilReported(count: number): Promise<void> {
  for (const deadline = Date.now() + 60_000; reports < count; await sleep(50)) {
    if (Date.now() > deadline) throw new Error('the agent does not report');
  }
}

/** One file, as an agent is shipped; the addon stays where it is. */
async function bundled(): Promise<string> {
  const folder = join(PROJECT, 'node_modules', '.cache', 'casemate-bench', 'agent');
  const outfile = join(folder, 'agent', 'main.mjs');
  const addon = join(folder, 'native', 'build', 'casemate.node');
  for (const file of [outfile, addon]) mkdirSync(dirname(file), { recursive: true });
  copyFileSync(join(PROJECT, 'native/build/casemate.node'), addon);
  writeFileSync(outfile, (await bundleAgent(PROJECT)).code);
  return outfile;
}

/** What the package's launcher gives to Node. */
const launcher = readFileSync(join(PROJECT, 'packaging/casemate-agent.sh'), 'utf8');
const FLAGS: readonly string[] = launcher.match(/--[-a-z0-9]+(?:=\d+)?(?= )/g) ?? [];
const ENVIRONMENT = Object.fromEntries(
  [...launcher.matchAll(/^export (\w+)=(\w+)$/gm)].map(([, k, v]) => [k, v]),
);

async function measure(): Promise<PartResult> {
  if (process.platform !== 'linux') return { skipped: 'memory and CPU of a process are read from /proc' };
  if (!existsSync(join(PROJECT, 'native/build/casemate.node'))) {
    return { skipped: 'the native probe is not built: npm run build:native' };
  }
  const entries: Readonly<Record<string, Start>> = {
    source: { entry: 'agent/main.ts', flags: [], environment: {} },
    bundled: { entry: await bundled(), flags: FLAGS, environment: ENVIRONMENT },
  };
  const items: Item[] = [];
  // All idle at the same time: a busy machine is as busy for each.
  const idle = new Map<string, ChildProcess>();
  for (const [name, entry] of Object.entries(entries)) {
    const before = reports;
    idle.set(name, startAgent(name, entry, INTERVAL_SECONDS));
    await untilReported(before + 1);
  }
  const node = start(['-e', 'setInterval(() => {}, 60_000)']);
  await sleep(5_000);
  const usage = (child: ChildProcess) => usageOf(child.pid ?? 0);
  const before = new Map([...idle].map(([name, child]) => [name, usage(child)]));
  say(`idle for ${SECONDS} s`);
  await sleep(SECONDS * 1000);
  const bare = usage(node);
  const idleMs = new Map<string, number>();
  for (const [name, child] of idle) {
    const now = usage(child);
    idleMs.set(name, now.cpuMs - (before.get(name)?.cpuMs ?? 0));
    const suffix = name === 'bundled' ? '' : '.from-source';
    items.push(
      item(`agent.rss${suffix}`, now.rssMb, 'MB', {
        other: { name: 'node that waits for a timer', value: bare.rssMb },
        bar: BAR_RSS,
      }),
      item(`agent.rss-anonymous${suffix}`, now.anonMb, 'MB', {
        other: { name: 'node that waits for a timer', value: bare.anonMb },
      }),
    );
    child.kill();
  }
  node.kill();
  for (const [name, entry] of Object.entries(entries)) {
    const first = reports;
    const child = startAgent(`${name}-busy`, entry, 1);
    await untilReported(first + 5);
    const [from, began] = [usage(child), reports];
    await untilReported(began + 20);
    const perReport = (usage(child).cpuMs - from.cpuMs) / (reports - began);
    child.kill();
    const suffix = name === 'bundled' ? '' : '.from-source';
    const idleShare = (idleMs.get(name) ?? 0) / (SECONDS * 10);
    items.push(
      item(`agent.cpu-idle${suffix}`, idleShare, '% of a core', { bar: BAR_CPU }),
      item(`agent.cpu-report${suffix}`, perReport, 'ms CPU'),
      item(
        `agent.cpu${suffix}`,
        idleShare + perReport / (INTERVAL_SECONDS * 10),
        '% of a core, with a report every 300 s',
        {
          bar: BAR_CPU,
        },
      ),
    );
  }
  return { items, idleSeconds: SECONDS };
}

let result: PartResult;
try {
  result = await measure();
} finally {
  for (const child of started) child.kill();
  for (const server of Object.values(servers)) {
    server.close();
    server.closeAllConnections();
  }
  rmSync(folder, { recursive: true, force: true });
}
print(result);
