import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { parseSwaps } from '../../lib/domain/swap.ts';
import { ask } from '../ask.ts';
import { runTool } from '../disks/tool.ts';
import { withLock } from '../lock.ts';
import { log } from '../log.ts';
import { openStateDir } from '../state.ts';
import { encryptArea, openAreas, planAreas, type SwapOutcome, type SwapParts } from './encrypt.ts';
import { SwapError } from './error.ts';

interface Options {
  readonly yes?: true;
  readonly json?: true;
  readonly stateDir: string;
}

const partsOf = ({ stateDir }: Options): SwapParts => ({
  run: runTool,
  stateDir,
  fstab: '/etc/fstab',
  say: log,
  out: process.stderr,
});

/** `casemate-agent swap …` */
export function addSwapCommands(program: Command): void {
  const swap = program
    .command('swap')
    .description('swap that is encrypted with a new random key at every boot');
  const command = (name: string, description: string) =>
    swap
      .command(name)
      .description(description)
      .option('--json', 'print one JSON document')
      .option('--state-dir <dir>', 'where it is kept which areas are ours', '/var/lib/casemate');

  command('encrypt', 'turn plain swap into encrypted swap, now and at every boot')
    .argument('[device...]', 'swap partitions or files; without any, all that are in use')
    .option('--yes', 'do not ask')
    .addHelpText('after', '\nzram and what is encrypted already are left alone; hibernation is refused.')
    .action(async (devices: string[], options: Options) => {
      const parts = partsOf(options);
      const paths =
        devices.length > 0
          ? devices
          : parseSwaps(readFileSync('/proc/swaps', 'utf8')).map((each) => each.path);
      await withLock(lockFile(options), 0, async () => {
        const planned = await planAreas(parts, paths);
        // All or none: half of the swap in clear is what nobody asked for.
        for (const { plan } of planned) {
          if (plan.kind === 'refuse') throw new SwapError(plan.reason, plan.detail);
        }
        const wanted = planned.filter(({ plan }) => plan.kind === 'encrypt');
        const names = wanted.map(({ device }) => device.path).join(', ');
        if (wanted.length > 0 && !options.yes) await ask(`Overwrite ${names}, and encrypt it from now on?`);
        const outcomes: SwapOutcome[] = [];
        for (const { device, record, plan } of planned) {
          outcomes.push(
            plan.kind === 'leave'
              ? { device: device.path, mapping: null, reason: plan.reason }
              : await encryptArea(parts, device, record),
          );
        }
        tell(options, outcomes);
      });
    });

  command('open', 'open the encrypted swap of this machine: what casemate-swap.service does at boot').action(
    async (options: Options) => {
      const outcomes = await withLock(lockFile(options), 60, () => openAreas(partsOf(options)));
      tell(options, outcomes);
      if (outcomes.some((outcome) => outcome.mapping === null)) process.exitCode = 1;
    },
  );
}

const lockFile = ({ stateDir }: Options) => join(openStateDir(stateDir), 'swap.lock');

function tell({ json }: Options, outcomes: readonly SwapOutcome[]): void {
  if (json) {
    process.stdout.write(`${JSON.stringify(outcomes, null, 2)}\n`);
    return;
  }
  if (outcomes.length === 0) log('there is no swap');
  for (const { device, mapping, reason } of outcomes)
    log(`${device}: ${reason ?? `encrypted, in use as ${mapping}`}`);
}
