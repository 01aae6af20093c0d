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
  DescribeSubnetsCommand,
  EC2Client,
} from '@aws-sdk/client-ec2';
import { CreateEventBusCommand, EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { CreateQueueCommand, SQSClient } from '@aws-sdk/client-sqs';
import { ACCOUNT, awsEnvironment, CREDENTIALS, REGION, startEmulators } from '../bin/local/emulators.ts';
import { ensurePython } from '../bin/local/python.ts';
import { createNetwork, launch } from '../bin/local/vms.ts';
import { launch as launchInWorld } from '../test/world/vm.ts';
import { createWorld } from '../test/world/world.ts';
import { C7N, ensureCloudCustodian } from './cloud-custodian/venv.ts';
import { ENVIRONMENT, synthesize } from './deployed.ts';
import { batchOf, CONTEXT, type QueueHandler, silenceLogs, stateChange } from './function-call.ts';
import { type Item, item, median, type PartResult, print, say, timed } from './measuring.ts';

const BAR = { of: 'ratio', max: 1 / 5 } as const;
const VMS = 15;
const WARM_VMS = 5;
const ROUNDS = 4; // the network of bin/local has 251 addresses
const HANDLE = fileURLToPath(new URL('./cloud-custodian/handle.py', import.meta.url));

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
    custodian = await ensureCloudCustodian(python);
  } catch (error) {
    return { skipped: `no Python environment: ${error instanceof Error ? error.message : String(error)}` };
  }
  const emulators = await startEmulators(python, folder);
  const { functions, remove } = await synthesize();
  try {
    const options = { region: REGION, credentials: CREDENTIALS, endpoint: emulators.aws };
    const ec2 = new EC2Client({ ...options, endpoint: emulators.ec2 });
    await new DynamoDBClient(options).send(
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
    const network = await createNetwork(ec2);
    const plan = { name: 'bench', inScope: true, interfaces: 1, dataVolumes: 1, sevSnp: false };
    const launchAll = async (count = VMS) => {
      const ids: string[] = [];
      for (let i = 0; i < count; i++) ids.push(await launch(ec2, network, plan));
      return ids;
    };
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
    /** The costs of an event in both functions, in batches of `size`. */
    const ours = async (
      ids: readonly string[],
      size: number,
    ): Promise<{ observe: Cost; isolate: Cost }[]> => {
      const costs: { observe: Cost; isolate: Cost }[] = [];
      for (let i = 0; i < ids.length; i += size) {
        const batch = ids.slice(i, i + size);
        const share = ({ cpuMs, wallMs }: Cost) => ({
          cpuMs: cpuMs / batch.length,
          wallMs: wallMs / batch.length,
        });
        costs.push({
          observe: share(await call(observe, batch.map(event))),
          isolate: share(await call(isolate, batch.map(changed))),
        });
      }
      await fenced(ids, 'casemate-probation');
      return costs;
    };

    const subnets = await ec2.send(new DescribeSubnetsCommand({ SubnetIds: [network.subnetId] }));
    const VpcId = subnets.Subnets?.[0]?.VpcId;
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

    await ours(await launchAll(WARM_VMS), 1); // warm, and the groups of the VPC are there
    const single: { observe: Cost; isolate: Cost }[] = [];
    const batched: { observe: Cost; isolate: Cost }[] = [];
    const custodianCosts: Cost[] = [];
    const cold: Cost[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      say(`round ${round + 1} of ${ROUNDS}`);
      single.push(...(await ours(await launchAll(), 1)));
      const their = await theirs(await launchAll(WARM_VMS), await launchAll());
      custodianCosts.push(...(their.dispatches[1] ?? []));
      const [first] = their.dispatches[0] ?? [];
      if (first)
        cold.push({ cpuMs: their.importCpuMs + first.cpuMs, wallMs: their.importWallMs + first.wallMs });
      batched.push(...(await ours(await launchAll(), 10)));
    }
    const world = await inProcess();

    const items: Item[] = [];
    const total = (costs: typeof single, key: keyof Cost) =>
      median(costs.map((c) => c.observe[key] + c.isolate[key]));
    for (const [key, unit, bar] of [
      ['cpuMs', 'ms CPU', BAR],
      ['wallMs', 'ms', undefined],
    ] as const) {
      const other = {
        name: `c7n ${C7N}, handler.dispatch_event, ec2-instance-state, modify-security-groups, warm`,
        value: median(custodianCosts.map((c) => c[key])),
      };
      const suffix = key === 'cpuMs' ? '' : '.wall';
      const against = { other, ...(bar ? { bar } : {}) };
      items.push(
        item(`event.one-a-batch${suffix}`, total(single, key), unit, against),
        item(`event.ten-a-batch${suffix}`, total(batched, key), unit, against),
        item(`event.one-a-batch.observe-vm${suffix}`, median(single.map((c) => c.observe[key])), unit, {
          other,
        }),
        item(`event.one-a-batch.apply-isolation${suffix}`, median(single.map((c) => c.isolate[key])), unit, {
          other,
        }),
        item(`event.ten-a-batch.observe-vm${suffix}`, median(batched.map((c) => c.observe[key])), unit, {
          other,
        }),
        item(`event.ten-a-batch.apply-isolation${suffix}`, median(batched.map((c) => c.isolate[key])), unit, {
          other,
        }),
        item(`event.in-process.observe-vm${suffix}`, world[key], unit),
      );
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
