/**
 * One lifecycle event: CPU and wall time in the functions, beside Cloud Custodian's `ec2-instance-state` mode
 * that makes the same change (every interface of a started VM gets the one fencing group and no other) on the
 * same emulated EC2, in the same run.
 *
 * Ours are the deployed bundles of observe-vm and apply-isolation, called as Lambda calls them, with their
 * real clients on the emulators; they also keep the state and announce, which Custodian does not.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CreateTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import {
  AuthorizeSecurityGroupEgressCommand,
  CreateSecurityGroupCommand,
  DescribeInstancesCommand,
  EC2Client,
} from '@aws-sdk/client-ec2';
import { CreateEventBusCommand, EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { CreateQueueCommand, SQSClient } from '@aws-sdk/client-sqs';
import { ACCOUNT, awsEnvironment, CREDENTIALS, REGION, startEmulators } from '../bin/local/emulators.ts';
import { ensurePython } from '../bin/local/python.ts';
import { launch as launchInWorld } from '../test/world/vm.ts';
import { createWorld } from '../test/world/world.ts';
import { ENVIRONMENT, synthesize } from './deployed.ts';
import { batchOf, CONTEXT, type QueueHandler, silenceLogs, stateChange } from './function-call.ts';
import { type Item, item, median, type PartResult, print, say, timed } from './measuring.ts';
import { ensureOther, versionIn } from './others.ts';
import { decideQuarantine, vmsToContain } from './vms-to-contain.ts';

const BAR = { of: 'ratio', max: 1 / 5 } as const;
const VMS = 20;
/** V8 compiles what runs often: a function that lives has been called more often than this. */
const WARM_VMS = 100;
const ROUNDS = 3;
const HANDLE = fileURLToPath(new URL('./cloud-custodian/handle.py', import.meta.url));

/** How many messages a call of each function gets. */
const BATCHES = {
  /** A quiet fleet: one VM starts. */
  'one-a-batch': { observe: 1, isolate: 1 },
  'ten-a-batch': { observe: 10, isolate: 10 },
  /** VMs that start together, in the deployed batches (observe-vm takes up to 200, apply-isolation up to 100). */
  'launched-together': { observe: VMS, isolate: VMS },
} as const;

interface Both {
  readonly observe: readonly Cost[];
  readonly isolate: readonly Cost[];
}

interface Cost {
  readonly cpuMs: number;
  readonly wallMs: number;
}

const logs = silenceLogs();
const folder = mkdtempSync(join(tmpdir(), 'casemate-bench-'));
let result: PartResult;
try {
  result = await measureAll();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
logs.restore();
process.stdout.write('', () => print(result));

async function measureAll(): Promise<PartResult> {
  let python: string;
  let custodian: string;
  try {
    python = await ensurePython(join(folder, 'python.log'));
    custodian = await ensureOther('cloud-custodian', join(folder, 'python.log'));
  } catch (error) {
    return { skipped: `no Python environment: ${error instanceof Error ? error.message : String(error)}` };
  }
  const emulators = await startEmulators(python, folder);
  const { functions, remove } = await synthesize();
  try {
    const options = { region: REGION, credentials: CREDENTIALS, endpoint: emulators.aws };
    const ec2 = new EC2Client({ ...options, endpoint: emulators.ec2 });
    const dynamodb = new DynamoDBClient(options);
    await dynamodb.send(
      new CreateTableCommand({
        TableName: ENVIRONMENT['TABLE_NAME'],
        BillingMode: 'PAY_PER_REQUEST',
        AttributeDefinitions: [{ AttributeName: 'pk', AttributeType: 'S' }],
        KeySchema: [{ AttributeName: 'pk', KeyType: 'HASH' }],
      }),
    );
    await new EventBridgeClient(options).send(new CreateEventBusCommand({ Name: ENVIRONMENT['BUS_NAME'] }));
    const queue = await new SQSClient(options).send(new CreateQueueCommand({ QueueName: 'rejected' }));
    const environment = { ...ENVIRONMENT, ...awsEnvironment(emulators), REJECTED_QUEUE_URL: queue.QueueUrl };
    for (const [name, value] of Object.entries(environment)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    const load = async (name: string): Promise<QueueHandler> => {
      const fn = functions.find((f) => f.name === name);
      if (!fn) throw new Error(`${name} is not deployed`);
      return ((await import(fn.bundle.href)) as { handler: QueueHandler }).handler;
    };
    const [observe, isolate] = [await load('observe-vm'), await load('apply-isolation')];
    const { network, vpcId: VpcId, launch: launchAll } = await vmsToContain(ec2);
    const groupsOf = async (ids: readonly string[]) => {
      const found = await ec2.send(new DescribeInstancesCommand({ InstanceIds: [...ids] }));
      const instances = found.Reservations?.flatMap((r) => r.Instances ?? []) ?? [];
      return new Set(
        instances.flatMap((i) =>
          (i.NetworkInterfaces ?? []).map((eni) => (eni.Groups ?? []).map((g) => g.GroupName).join()),
        ),
      );
    };
    const fenced = async (ids: readonly string[], group: string) => {
      const groups = [...(await groupsOf(ids))];
      if (groups.length !== 1 || groups[0] !== group) throw new Error(`not ${group} everywhere: ${groups}`);
    };

    const call = async (handler: QueueHandler, bodies: readonly string[]): Promise<Cost> => {
      const { result: answer, ...cost } = await timed(() => handler(batchOf(bodies), CONTEXT));
      if (answer.batchItemFailures.length > 0) throw new Error('messages came back');
      return cost;
    };
    const event = (id: string) => JSON.stringify(stateChange(id, 'running', ACCOUNT, REGION));
    const changed = (id: string) =>
      JSON.stringify({
        source: 'casemate',
        'detail-type': 'VM Changed',
        detail: {
          schemaVersion: 1,
          instanceId: id,
          at: new Date().toISOString(),
          state: 'running',
          managed: true,
          leavingScope: false,
          gone: false,
        },
      });
    /** The cost of an event in each function, in batches of so many. */
    const ours = async (
      ids: readonly string[],
      sizes: { readonly observe: number; readonly isolate: number },
    ): Promise<Both> => {
      const each = async (handler: QueueHandler, body: (id: string) => string, size: number) => {
        const costs: Cost[] = [];
        for (let i = 0; i < ids.length; i += size) {
          const batch = ids.slice(i, i + size).map(body);
          const { cpuMs, wallMs } = await call(handler, batch);
          costs.push({ cpuMs: cpuMs / batch.length, wallMs: wallMs / batch.length });
        }
        return costs;
      };
      const costs = {
        observe: await each(observe, event, sizes.observe),
        isolate: await each(isolate, changed, sizes.isolate),
      };
      await fenced(ids, 'casemate-probation');
      return costs;
    };

    /** The cost of containing a VM that an operator condemned, until it is read back: from probation to quarantine. */
    const contain = async (ids: readonly string[], size: number): Promise<readonly Cost[]> => {
      const decision = await decideQuarantine(dynamodb, ENVIRONMENT['TABLE_NAME'], ids);
      const body = (instanceId: string) =>
        JSON.stringify({
          source: 'casemate',
          'detail-type': 'Operator Decided',
          detail: { schemaVersion: 1, instanceId, what: 'quarantine', ...decision },
        });
      const costs: Cost[] = [];
      for (let i = 0; i < ids.length; i += size) {
        const batch = ids.slice(i, i + size).map(body);
        const { cpuMs, wallMs } = await call(isolate, batch);
        costs.push({ cpuMs: cpuMs / batch.length, wallMs: wallMs / batch.length });
      }
      await fenced(ids, 'casemate-quarantine');
      return costs;
    };

    const fence = await ec2.send(
      new CreateSecurityGroupCommand({ GroupName: 'custodian-fence', Description: 'fence', VpcId }),
    );
    await ec2.send(
      new AuthorizeSecurityGroupEgressCommand({
        GroupId: fence.GroupId,
        IpPermissions: [
          { IpProtocol: 'tcp', FromPort: 443, ToPort: 443, IpRanges: [{ CidrIp: '10.0.0.0/8' }] },
        ],
      }),
    );
    const policy = {
      name: 'fence',
      resource: 'aws.ec2',
      mode: {
        type: 'ec2-instance-state',
        role: `arn:aws:iam::${ACCOUNT}:role/custodian`,
        events: ['running'],
      },
      filters: [{ 'tag:casemate:protect': 'true' }],
      // By name of each group: c7n 0.9.53 shortens the list that it walks along, so that `remove: all` leaves
      // every second group of an interface in place.
      actions: [{ type: 'modify-security-groups', add: fence.GroupId, remove: [network.web, network.admin] }],
    };
    /** Custodian's warm process; the first list of events is to warm it. */
    const theirs = async (warm: readonly string[], ids: readonly string[]) => {
      const events = [warm, ids].map((list) => list.map((id) => stateChange(id, 'running', ACCOUNT, REGION)));
      const answer = (await pythonJson(custodian, { policy, account: ACCOUNT, events })) as {
        readonly importCpuMs: number;
        readonly importWallMs: number;
        readonly dispatches: readonly (readonly Cost[])[];
      };
      await fenced(ids, 'custodian-fence');
      return answer;
    };

    await ours(await launchAll(WARM_VMS), BATCHES['one-a-batch']);
    const our = new Map<string, Both[]>();
    const contained = new Map<string, readonly Cost[]>();
    const custodianCosts: Cost[] = [];
    const cold: Cost[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      say(`round ${round + 1} of ${ROUNDS}`);
      for (const [name, sizes] of Object.entries(BATCHES)) {
        const ids = await launchAll(VMS);
        our.set(name, [...(our.get(name) ?? []), await ours(ids, sizes)]);
        if (name === 'launched-together') continue;
        contained.set(name, [...(contained.get(name) ?? []), ...(await contain(ids, sizes.isolate))]);
      }
      const their = await theirs(await launchAll(VMS), await launchAll(VMS));
      custodianCosts.push(...(their.dispatches[1] ?? []));
      const [first] = their.dispatches[0] ?? [];
      if (first)
        cold.push({ cpuMs: their.importCpuMs + first.cpuMs, wallMs: their.importWallMs + first.wallMs });
    }
    const world = await inProcess();

    const items: Item[] = [];
    const name = `c7n ${versionIn('cloud-custodian', 'c7n')}: handler.dispatch_event, ec2-instance-state, modify-security-groups, warm`;
    for (const [key, unit, suffix] of [
      ['cpuMs', 'ms CPU', ''],
      ['wallMs', 'ms', '.wall'],
    ] as const) {
      const other = { name, value: median(custodianCosts.map((c) => c[key])) };
      for (const [batch, runs] of our) {
        const of = (fn: keyof Both) => median(runs.flatMap((run) => run[fn].map((c) => c[key])));
        items.push(
          item(`event.${batch}${suffix}`, of('observe') + of('isolate'), unit, {
            other,
            ...(key === 'cpuMs' ? { bar: BAR } : {}),
          }),
          item(`event.${batch}.observe-vm${suffix}`, of('observe'), unit, { other }),
          item(`event.${batch}.apply-isolation${suffix}`, of('isolate'), unit, { other }),
        );
      }
      for (const [batch, costs] of contained) {
        const value = median(costs.map((c) => c[key]));
        items.push(item(`event.containment.${batch}${suffix}`, value, unit, { other }));
      }
      items.push(item(`event.in-process.observe-vm${suffix}`, world[key], unit));
    }
    items.push(item('event.c7n-cold', median(cold.map((c) => c.cpuMs)), 'ms CPU'));
    return {
      items,
      compared:
        'ours: deployed bundles of observe-vm and apply-isolation, warm, real clients on ministack and moto. Theirs: Custodian’s Lambda entry point c7n.handler.dispatch_event in a warm Python process with real boto3 on the same moto, metrics and event log off. Both swap the groups of the one interface of a tagged running VM; checked in EC2 afterwards.',
      vms: VMS * ROUNDS,
    };
  } finally {
    remove();
    await emulators.stop();
  }
}

function pythonJson(python: string, input: object): Promise<unknown> {
  copyFileSync(HANDLE, join(folder, 'handle.py'));
  return new Promise((resolve, reject) => {
    const child = spawn(python, ['handle.py'], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: process.env,
    });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(JSON.parse(output));
      else
        reject(
          new Error(`Cloud Custodian ended with ${code}: ${errors.trim().split('\n').slice(-5).join('\n')}`),
        );
    });
    child.stdin.end(JSON.stringify(input));
  });
}

/** observe-vm with clients in this process: what is ours alone, without HTTP. */
async function inProcess(): Promise<Cost> {
  const world = createWorld();
  const costs: Cost[] = [];
  for (let n = 1; n <= 500; n++) {
    const vm = launchInWorld(world, n);
    const event = batchOf([JSON.stringify(stateChange(vm.id, 'running', '123456789012', 'eu-west-1'))]);
    costs.push(await timed(() => world.handlers['observe-vm'](event, CONTEXT)));
    world.vms.clear();
  }
  const warm = costs.slice(200);
  return { cpuMs: median(warm.map((c) => c.cpuMs)), wallMs: median(warm.map((c) => c.wallMs)) };
}
