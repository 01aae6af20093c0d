import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { EC2Client, TerminateInstancesCommand } from '@aws-sdk/client-ec2';
import { Command } from 'commander';
import {
  BREAKS,
  type Break,
  breakMachine,
  NoRecordedMachineError,
  repairMachine,
} from '../local/break-in.ts';
import { CREDENTIALS } from '../local/emulators.ts';
import { launch, MACHINES } from '../local/vms.ts';
import { ConnectionError, type LocalEnvironment, runningLocally } from './connection.ts';
import { UsageError } from './usage.ts';

/** @throws ConnectionError when no embedded cloud runs in this project */
export function requireLocal(): LocalEnvironment {
  const local = runningLocally();
  if (!local) throw new ConnectionError('no embedded cloud runs in this project: start one with npm start');
  return local;
}

const ec2Of = (local: LocalEnvironment) =>
  new EC2Client({ endpoint: local.ec2Endpoint, region: local.region, credentials: CREDENTIALS });

/** What names no recorded machine is wrong usage. */
function onMachine<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof NoRecordedMachineError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}

/** `casemate local`: poke the embedded cloud. */
export function localCommand(): Command {
  const local = new Command('local').description('poke the embedded cloud that npm start runs');

  local
    .command('launch')
    .description('launch another VM; its agent starts by itself')
    .option('--name <name>', 'Name tag', 'another')
    .option('--interfaces <n>', 'network interfaces', Number, 1)
    .option('--volumes <n>', 'data volumes', Number, 1)
    .option('--sev-snp', 'ask for SEV-SNP')
    .option(
      '--machine <name>',
      `recorded machine: ${readdirSync(MACHINES)
        .filter((f) => !f.includes('.'))
        .join(', ')}`,
    )
    .option('--out-of-scope', 'without the tag casemate:protect')
    .action(
      async (o: {
        name: string;
        interfaces: number;
        volumes: number;
        sevSnp?: boolean;
        machine?: string;
        outOfScope?: boolean;
      }) => {
        for (const [name, n] of [
          ['--interfaces', o.interfaces],
          ['--volumes', o.volumes],
        ] as const) {
          if (!Number.isInteger(n) || n < 0 || n > 8)
            throw new UsageError(`${name} takes a number from 0 to 8`);
        }
        if (o.machine !== undefined && !existsSync(join(MACHINES, o.machine))) {
          throw new UsageError(`there is no recorded machine ${o.machine}`);
        }
        const here = requireLocal();
        const id = await launch(ec2Of(here), here.network, {
          name: o.name,
          inScope: !o.outOfScope,
          interfaces: o.interfaces,
          dataVolumes: o.volumes,
          sevSnp: o.sevSnp ?? false,
          ...(o.machine === undefined ? {} : { machine: o.machine }),
        });
        process.stdout.write(`${id}\n`);
      },
    );

  local
    .command('break')
    .description('break a VM that probes a recorded machine, and see what Casemate does')
    .argument('<instance>', 'instance id')
    .argument('<how>', 'swap: memory goes to a plain device; no-snp: SEV_STATUS says that SEV-SNP is off')
    .action((id: string, how: string) => {
      if (!(BREAKS as readonly string[]).includes(how))
        throw new UsageError(`${how}: there are ${BREAKS.join(' and ')}`);
      onMachine(() => breakMachine(requireLocal().folder, id, how as Break));
      process.stdout.write('done; its next report is at most ten seconds away: npx casemate vms --watch\n');
    });

  local
    .command('repair')
    .description('give a broken VM back what it was recorded with')
    .argument('<instance>', 'instance id')
    .action((id: string) => {
      const repaired = onMachine(() => repairMachine(requireLocal().folder, id));
      process.stdout.write(
        repaired.length > 0 ? `repaired: ${repaired.join(', ')}\n` : 'nothing of it was broken\n',
      );
    });

  local
    .command('terminate')
    .description('terminate a VM')
    .argument('<instance>', 'instance id')
    .action(async (id: string) => {
      await ec2Of(requireLocal()).send(new TerminateInstancesCommand({ InstanceIds: [id] }));
    });

  return local;
}
