import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { Command } from 'commander';
import { Listr, ListrLogger, ProcessOutput } from 'listr2';
import type { VmRecord } from '../lib/domain/convergence.ts';
import { LOCAL_ENVIRONMENT, type LocalEnvironment, runningLocally } from './cli/connection.ts';
import { readFleet } from './cli/fleet.ts';
import { fleetTable } from './cli/table.ts';
import { viewOf } from './cli/view.ts';
import { OPENS_DISKS, startAgents } from './local/agents.ts';
import { bootstrap, deploy, type Outputs } from './local/deploy.ts';
import { startFeed } from './local/ec2-feed.ts';
import { CREDENTIALS, type Emulators, REGION, startEmulators } from './local/emulators.ts';
import { startEventLog } from './local/event-log.ts';
import { createIdentityIssuer } from './local/identity-issuer.ts';
import { startMetadata } from './local/metadata.ts';
import { removeAtEnd, runToEnd } from './local/process.ts';
import { ensurePython } from './local/python.ts';
import { FAILURE, keepLogs, makeScratch } from './local/scratch.ts';
import { type BreakIn, breakInText, playBreakIn } from './local/story.ts';
import { createNetwork, findInstance, launch, type Network, PLANS } from './local/vms.ts';
import { waitingFor } from './local/waiting.ts';

const options = new Command('npm start --')
  .description('Runs Casemate on this machine: AWS emulators, the real deploy, real functions, real agents')
  .option('--once', 'stop when all VMs converged: exit 0, or 1 with the reason')
  .option('--json', 'print one JSON document on stdout, and nothing else there')
  .option('--timeout <seconds>', 'how long the VMs may take to converge', Number, 180)
  .option('--no-break-in', 'do not play a break-in once all converged')
  .addHelpText('after', '\nWithout --once it stays up until Ctrl-C, and leaves nothing behind.')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .parse()
  .opts<{ once?: boolean; json?: boolean; timeout: number; breakIn: boolean }>();
if (!Number.isFinite(options.timeout) || options.timeout <= 0) {
  process.stderr.write('npm start: --timeout takes a number of seconds\n');
  process.exit(2);
}

const other = options.once ? undefined : runningLocally();
if (other) {
  process.stderr.write(
    `npm start: an embedded cloud runs in this project already (process ${other.pid}): stop it first\n`,
  );
  process.exit(1);
}

/** Everything that must be undone at the end, last first. */
const cleanups: (() => unknown)[] = [];
const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupted.abort());
// A terminal that went away must not keep anything from being undone.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

rmSync(FAILURE, { recursive: true, force: true });
const folder = makeScratch();
let failed = false;
cleanups.push(() => {
  if (failed) {
    keepLogs(folder);
    process.stderr.write(`The logs are kept in ${relative(process.cwd(), FAILURE)} until the next start.\n`);
  }
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
});

const timings: Record<string, number> = {};
const views = (fleet: ReadonlyMap<string, VmRecord>) => {
  const now = new Date();
  return [...fleet.values()].map((record) => viewOf(record, now)).sort((a, b) => (a.id < b.id ? -1 : 1));
};

/** A step failed; its line in the progress says how. */
class StepError extends Error {
  override readonly name = 'StepError';
}

interface State {
  python: string;
  emulators: Emulators;
  outputs: Outputs;
  network: Network;
  ids: string[];
  fleet: ReadonlyMap<string, VmRecord>;
  breakIn: BreakIn;
  issuer: Awaited<ReturnType<typeof createIdentityIssuer>>;
}

/** Rejects when somebody interrupts. */
function interruption(): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(new Error('interrupted'));
    if (interrupted.signal.aborted) abort();
    interrupted.signal.addEventListener('abort', abort, { once: true });
  });
}

/**
 * A step of the start, timed. When somebody interrupts, it still gets a moment to end by itself, so that what
 * it started is known to the clean-up.
 */
function step(
  title: string,
  name: string,
  run: (state: State, say: (text: string) => void) => Promise<void>,
) {
  return {
    title,
    task: async (state: State, task: { title: string; output: string }) => {
      const began = Date.now();
      const running = run(state, (text) => {
        task.output = text;
      });
      await Promise.race([running, interruption()]).catch(async (error: unknown) => {
        await Promise.race([running.catch(() => undefined), sleep(5000)]);
        throw new StepError(error instanceof Error ? error.message : String(error), { cause: error });
      });
      timings[name] = (Date.now() - began) / 1000;
      task.title = `${title} (${timings[name].toFixed(1)} s)`;
    },
  };
}

const ec2Of = (emulators: Emulators) =>
  new EC2Client({ endpoint: emulators.ec2, region: REGION, credentials: CREDENTIALS });
const tableOf = (state: State) => ({
  dynamodb: new DynamoDBClient({ endpoint: state.emulators.aws, region: REGION, credentials: CREDENTIALS }),
  tableName: state.outputs['TableName'] ?? '',
});

const steps = new Listr<State, 'default' | 'simple', 'simple'>(
  [
    step('Python environment with the emulators', 'python', async (state) => {
      state.python = await ensurePython(join(folder, 'python.log'), interrupted.signal);
    }),
    step('Native probe', 'native', async () => {
      const { signal } = interrupted;
      await runToEnd(['npm', 'run', '--silent', 'build:native'], {
        log: join(folder, 'native.log'),
        signal,
      }).catch((cause: Error) => {
        if (signal.aborted) throw cause;
        throw new Error(
          `it does not build; it needs a C compiler and make (Debian: apt-get install build-essential)\n${cause.message}`,
          { cause },
        );
      });
    }),
    step('AWS emulators', 'emulators', async (state) => {
      state.emulators = await startEmulators(state.python, folder);
      cleanups.push(() => state.emulators.stop());
    }),
    step('cdk bootstrap', 'bootstrap', (state) => bootstrap(state.emulators, folder, interrupted.signal)),
    step('cdk deploy, mode enforce', 'deploy', async (state) => {
      state.issuer = await createIdentityIssuer(REGION);
      state.outputs = await deploy(state.emulators, folder, state.issuer.certificatePem, interrupted.signal);
    }),
    step('EC2 events, instance metadata, agents', 'services', async (state) => {
      const { emulators, outputs } = state;
      const ec2 = ec2Of(emulators);
      const bus = new EventBridgeClient({
        endpoint: emulators.aws,
        region: REGION,
        credentials: CREDENTIALS,
      });
      const events = await startEventLog(emulators, outputs, join(folder, 'events.jsonl'));
      cleanups.push(() => events.stop());
      const feed = startFeed(ec2, bus, (error) => events.note(error));
      cleanups.push(() => feed.stop());
      const metadata = await startMetadata(state.issuer, (id) => findInstance(ec2, id));
      cleanups.push(() => metadata.stop());
      const agents = startAgents({ emulators, outputs, metadata, folder, ec2 });
      cleanups.push(() => agents.stop());
      state.network = await createNetwork(ec2);
      if (options.once) return; // gone before anybody could look
      const environment: LocalEnvironment = {
        pid: process.pid,
        region: REGION,
        endpoint: emulators.aws,
        ec2Endpoint: emulators.ec2,
        outputs,
        folder,
        network: state.network,
      };
      mkdirSync(new URL('.', LOCAL_ENVIRONMENT), { recursive: true });
      removeAtEnd(fileURLToPath(LOCAL_ENVIRONMENT));
      writeFileSync(LOCAL_ENVIRONMENT, JSON.stringify(environment, null, 2));
      cleanups.push(() => rmSync(new URL('.', LOCAL_ENVIRONMENT), { recursive: true, force: true }));
    }),
    step('Four virtual machines', 'launch', async (state) => {
      const ec2 = ec2Of(state.emulators);
      state.ids = [];
      for (const plan of PLANS) state.ids.push(await launch(ec2, state.network, plan));
    }),
    step('Keys, fences, proofs: until everything converged', 'converge', async (state, say) => {
      const table = tableOf(state);
      const deadline = Date.now() + options.timeout * 1000;
      let said = '';
      while (!interrupted.signal.aborted) {
        state.fleet = await readFleet(table);
        const waiting = waitingFor(state.ids, state.fleet, new Date(), OPENS_DISKS);
        if (waiting.length === 0) return;
        const text = waiting.join(' · ');
        if (text !== said) say(text);
        said = text;
        if (Date.now() > deadline) {
          throw new Error(`not converged after ${options.timeout} s:\n  ${waiting.join('\n  ')}`);
        }
        await Promise.race([sleep(250), state.emulators.died]);
      }
    }),
    ...(options.breakIn
      ? [
          step('A break-in: contained, repaired, given back', 'breakIn', async (state, say) => {
            const table = tableOf(state);
            const instanceId = state.ids[PLANS.findIndex((plan) => plan.sevSnp)] ?? '';
            state.breakIn = await playBreakIn({
              folder,
              instanceId,
              look: async () => {
                state.fleet = await readFleet(table);
                return state.fleet.get(instanceId);
              },
              say,
              ended: Promise.race([interruption(), state.emulators.died]),
              deadline: Date.now() + options.timeout * 1000,
            });
          }),
        ]
      : []),
  ],
  {
    registerSignalListeners: false, // its own end the process at once, with everything still running
    // Progress is drawn on stderr: stdout belongs to the result.
    renderer: process.stderr.isTTY ? 'default' : 'simple',
    fallbackRenderer: 'simple',
    rendererOptions: {
      logger: new ListrLogger({ processOutput: new ProcessOutput(process.stderr, process.stderr) }),
    },
  },
);

async function main(): Promise<number> {
  const state = {} as State;
  const began = Date.now();
  try {
    await steps.run(state);
  } finally {
    timings['total'] = (Date.now() - began) / 1000;
    // Also when they did not converge: it says how far they came.
    if (state.fleet && !interrupted.signal.aborted) {
      const vms = views(state.fleet);
      const breakIn = state.breakIn ?? null;
      if (options.json) process.stdout.write(`${JSON.stringify({ vms, breakIn, timings }, null, 2)}\n`);
      else {
        process.stdout.write(`${fleetTable(vms, process.stdout)}\n`);
        if (breakIn) process.stdout.write(`${breakInText(breakIn)}\n`);
      }
    }
  }
  if (options.once) return 0;
  process.stderr.write(HOW_TO_POKE);
  await Promise.race([state.emulators.died, interruption()]).catch((error: unknown) => {
    if (!interrupted.signal.aborted) throw error;
  });
  process.stderr.write('stopping…\n');
  return 0;
}

const HOW_TO_POKE = `
Casemate runs until Ctrl-C. In another terminal, in this folder:

  npx casemate vms --watch              what it knows of each VM
  npx casemate show i-…                 one VM with all its facts
  npx casemate explain i-…              why it is where it is
  npx casemate events --follow          every event of both buses
  npx casemate local launch             launch another VM (--help for more)
  npx casemate local break i-… swap     let a VM swap to plain storage
  npx casemate local repair i-…         undo that
  npx casemate local terminate i-…      terminate a VM

`;

/** Undoes everything, last first, once; a fault on the way does not keep the rest from being undone. */
let finishing: Promise<never> | undefined;
function finish(code: number): Promise<never> {
  finishing ??= (async () => {
    let exitCode = code;
    failed = code === 1;
    while (cleanups.length > 0) {
      try {
        await cleanups.pop()?.();
      } catch (error) {
        process.stderr.write(`while stopping: ${error instanceof Error ? error.message : String(error)}\n`);
        exitCode ||= 1;
      }
    }
    // Nothing is left to wait for but sockets that are kept alive for nobody.
    process.exit(exitCode);
  })();
  return finishing;
}
for (const fault of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(fault, (error) => {
    process.stderr.write(`casemate: ${error instanceof Error ? error.stack : String(error)}\n`);
    void finish(1);
  });
}

main().then(finish, (error: unknown) => {
  if (interrupted.signal.aborted) return finish(130);
  // What a step failed with stands in its line already.
  if (!(error instanceof StepError)) {
    process.stderr.write(`casemate: ${error instanceof Error ? error.message : String(error)}\n`);
  }
  return finish(1);
});
