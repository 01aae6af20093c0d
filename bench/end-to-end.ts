/**
 * On the embedded cloud, with the real deploy, the deployed functions and the real agents: how long after its
 * launch a VM is fenced, has its key, and is let out of its fence. VMs start one after the other, as a quiet
 * fleet does; each has an agent whose start is part of the last figure.
 *
 *   node bench/end-to-end.ts [VMs]
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { readFleet } from '../bin/cli/fleet.ts';
import { startAgents } from '../bin/local/agents.ts';
import { bootstrap, deploy } from '../bin/local/deploy.ts';
import { startFeed } from '../bin/local/ec2-feed.ts';
import { CREDENTIALS, REGION, startEmulators } from '../bin/local/emulators.ts';
import { startEventLog } from '../bin/local/event-log.ts';
import { createIdentityIssuer } from '../bin/local/identity-issuer.ts';
import { startMetadata } from '../bin/local/metadata.ts';
import { ensurePython } from '../bin/local/python.ts';
import { createNetwork, findInstance, launch } from '../bin/local/vms.ts';
import { waitingFor } from '../bin/local/waiting.ts';
import { type Item, item, median, type PartResult, quantile, say } from './measuring.ts';

const VMS = Number(process.argv[2] ?? 20);
const EVERY_MS = 1_500;
const GIVE_UP_MS = 180_000;

type Moment = 'fence-applied' | 'key-issued' | 'fence-opened';

interface BusEvent {
  readonly 'detail-type'?: string;
  readonly detail?: {
    readonly instanceId?: string;
    readonly at?: string;
    readonly profile?: string;
    readonly applied?: boolean;
  };
}

/** Which of the moments an event of the Casemate bus tells. */
function momentOf({ 'detail-type': type, detail }: BusEvent): Moment | undefined {
  if (type === 'Disk Key Issued') return 'key-issued';
  if (type !== 'Isolation Changed' || !detail?.applied) return undefined;
  return detail.profile === 'workload'
    ? 'fence-opened'
    : detail.profile === 'probation'
      ? 'fence-applied'
      : undefined;
}

const folder = mkdtempSync(join(tmpdir(), 'casemate-bench-'));
const cleanups: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 })];
let result: PartResult;
try {
  result = await measure();
} finally {
  for (const cleanup of cleanups.reverse()) await cleanup();
}
// Sockets that are kept alive for nobody would hold the process.
process.stdout.write(`${JSON.stringify(result, null, 2)}\n`, () => process.exit(0));

async function measure(): Promise<PartResult> {
  let python: string;
  try {
    python = await ensurePython(join(folder, 'python.log'));
  } catch (error) {
    return { skipped: `no Python environment: ${error instanceof Error ? error.message : String(error)}` };
  }
  const emulators = await startEmulators(python, folder);
  cleanups.push(() => emulators.stop());
  const never = new AbortController().signal;
  say('cdk bootstrap, cdk deploy');
  await bootstrap(emulators, folder, never);
  const issuer = await createIdentityIssuer(REGION);
  const outputs = await deploy(emulators, folder, issuer.certificatePem, never);
  const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
  const ec2 = new EC2Client({ ...options, endpoint: emulators.ec2 });
  const eventsFile = join(folder, 'events.jsonl');
  const events = await startEventLog(emulators, outputs, eventsFile);
  cleanups.push(() => events.stop());
  const feed = startFeed(ec2, new EventBridgeClient(options), (error) => events.note(error));
  cleanups.push(() => feed.stop());
  const metadata = await startMetadata(issuer, (id) => findInstance(ec2, id));
  cleanups.push(() => metadata.stop());
  const agents = startAgents({ emulators, outputs, metadata, folder, ec2 });
  cleanups.push(() => agents.stop());
  const network = await createNetwork(ec2);
  const table = { dynamodb: new DynamoDBClient(options), tableName: outputs['TableName'] ?? '' };

  const plan = { name: 'bench', inScope: true, interfaces: 1, dataVolumes: 1, sevSnp: false };
  const converged = async (ids: readonly string[]) => {
    for (const deadline = Date.now() + GIVE_UP_MS; ; await sleep(500)) {
      const waiting = waitingFor(ids, await readFleet(table), new Date());
      if (waiting.length === 0) return;
      if (Date.now() > deadline) throw new Error(`not converged:\n${waiting.join('\n')}`);
    }
  };
  await converged([await launch(ec2, network, plan)]); // every function is warm after it
  const launchedAt = new Map<string, number>();
  for (let i = 0; i < VMS; i++) {
    launchedAt.set(await launch(ec2, network, plan), Date.now());
    await sleep(EVERY_MS);
  }
  say(`${VMS} VMs launched`);
  await converged([...launchedAt.keys()]);
  await sleep(2_000); // the last announcements reach the log

  const delays: Record<Moment, number[]> = { 'fence-applied': [], 'key-issued': [], 'fence-opened': [] };
  const seen = new Set<string>();
  for (const line of readFileSync(eventsFile, 'utf8').trim().split('\n')) {
    const event = JSON.parse(line) as BusEvent;
    const moment = momentOf(event);
    const id = event.detail?.instanceId ?? '';
    const launched = launchedAt.get(id);
    if (!moment || launched === undefined || seen.has(`${id} ${moment}`)) continue;
    seen.add(`${id} ${moment}`);
    delays[moment].push(Date.parse(event.detail?.at ?? '') - launched);
  }
  const items: Item[] = [];
  // Who proves itself before apply-isolation comes to it is never fenced.
  const fenced = delays['fence-applied'].length;
  items.push(item('end-to-end.fenced', fenced, `VMs of ${VMS}`));
  for (const [moment, values] of Object.entries(delays)) {
    if (moment === 'fence-applied' && fenced === 0) continue;
    if (moment !== 'fence-applied' && values.length !== VMS)
      throw new Error(`${moment}: told of ${values.length} VMs of ${VMS}`);
    items.push(
      item(`end-to-end.${moment}.p50`, median(values), 'ms'),
      item(`end-to-end.${moment}.p99`, quantile(values, 0.99), 'ms'),
    );
    say(`${moment}: p50 ${median(values)} ms, p99 ${quantile(values, 0.99)} ms`);
  }
  return { items, vms: VMS, launchedEveryMs: EVERY_MS, batchWindowSeconds: 1, feedLooksEveryMs: 300 };
}
