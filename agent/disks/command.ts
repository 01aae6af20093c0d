import { createInterface } from 'node:readline/promises';
import { Argument, type Command, InvalidArgumentError } from 'commander';
import type { DiskListResponse, ListedVolume } from '../../lib/domain/disk-api.ts';
import { volumeId as volumeIdSchema } from '../../lib/domain/ids.ts';
import { UnreachableError } from '../api.ts';
import { assemble } from '../assemble.ts';
import { type AgentConfig, readConfig } from '../config.ts';
import { addIngestCommand } from '../ingest/command.ts';
import { explain, log } from '../log.ts';
import { openStateDir } from '../state.ts';
import { convergeVolume, lookAt, type VolumeOutcome } from './converge.ts';
import { deviceAt } from './device.ts';
import { alone, isDone, outcomeLine, passOverDisks, waitForDisks } from './drive.ts';
import { DiskError } from './error.ts';
import { mountedAt, unmount } from './filesystem.ts';
import { mappingName, mappingUuid } from './mapping.ts';
import { createDiskParts, type DiskParts } from './parts.ts';
import { listDisks } from './pipeline.ts';
import { createProgress } from './progress.ts';
import { escrowSecret, growDisk, openWithRecoveryKey, reenrol } from './recover.ts';
import { reencrypt, rotateKey } from './rotate.ts';
import { readSecretFile, readSecretLine } from './secret-input.ts';
import { statusOf, statusTable } from './status.ts';
import { runTool } from './tool.ts';

/** sysexits.h EX_TEMPFAIL: the pipeline was not reached, and trying again may help. */
const EX_TEMPFAIL = 75;
const WAIT_SECONDS = 300;

interface Common {
  readonly config: string;
  readonly json?: boolean;
}

const volumeArgument = () =>
  new Argument('<volume>', 'EBS volume id').argParser((text) => {
    if (volumeIdSchema.safeParse(text).success) return text;
    throw new InvalidArgumentError('A volume id looks like vol-0123456789abcdef0.');
  });

async function partsOf(config: AgentConfig, say = log): Promise<DiskParts> {
  return createDiskParts(await assemble(config), runTool, say);
}

function print(json: boolean | undefined, value: unknown, text: string): void {
  process.stdout.write(json ? `${JSON.stringify(value, null, 2)}\n` : `${text}\n`);
}

function listed(list: DiskListResponse, volumeId: string): ListedVolume {
  const volume = list.volumes.find((each) => each.volumeId === volumeId);
  if (!volume)
    throw new DiskError('DEVICE_MISSING', `${volumeId} is not attached to this VM, as EC2 sees it`);
  return volume;
}

/** `casemate-agent disk …` */
export function addDiskCommands(program: Command, defaultConfig: string): void {
  const disk = program
    .command('disk')
    .description('the encrypted disks of this VM')
    .addHelpText(
      'after',
      `\nExit codes: 0 done, 1 refused or failed, 2 wrong usage, ${EX_TEMPFAIL} unreachable.`,
    );
  const command = (name: string, description: string) =>
    disk
      .command(name)
      .description(description)
      .option('--config <file>', 'configuration', defaultConfig)
      .option('--json', 'print one JSON document');

  command('status', 'what each volume is at, and what is wrong').action(async (options: Common) => {
    const parts = await partsOf(readConfig(options.config));
    const statuses = await statusOf(parts, await listDisks(parts));
    print(options.json, statuses, statusTable(statuses, process.stdout));
    if (statuses.some((each) => each.problem)) process.exitCode = 1;
  });

  command('open', 'format what is fresh, open, and mount where the tags say')
    .option('--all', 'all covered volumes (as without a volume)')
    .option('--wait', 'until all are open, however late the network is')
    .option('--timeout <seconds>', 'how long to wait', Number, WAIT_SECONDS)
    .argument('[volume]', 'one volume alone')
    .action(async (volume: string | undefined, options: Common & { wait?: boolean; timeout: number }) => {
      const config = readConfig(options.config);
      const say = options.json ? () => undefined : log;
      if (volume !== undefined) {
        const parts = await partsOf(config, say);
        return finish(options, [await convergeOne(parts, volume)]);
      }
      if (!options.wait) return finish(options, await passOverDisks(await partsOf(config, say)));
      const result = await waitForDisks(() => partsOf(config, say), options.timeout, log);
      if (result.kind !== 'unreachable') return finish(options, result.outcomes, result.kind === 'refused');
      log(`casemate: gave up after ${options.timeout} s: ${result.message}`);
      process.exitCode = EX_TEMPFAIL;
    });

  command('close', 'unmount and close')
    .addArgument(volumeArgument())
    .action(async (volume: string, options: Common) => {
      const config = readConfig(options.config);
      openStateDir(config.stateDir);
      const parts = createDiskParts(offline(config), runTool, log);
      const wasOpen = await alone(config.stateDir, async () => {
        if (mappingUuid(volume) === undefined) return false;
        const mounted = await mountedAt(runTool, volume);
        if (mounted) await unmount(runTool, mounted.target);
        await parts.cryptsetup.close(mappingName(volume));
        return true;
      });
      const said = wasOpen ? 'closed' : 'is not open: nothing to close';
      print(options.json, { volumeId: volume, open: false, wasOpen }, `${volume}: ${said}`);
    });

  command('format', 'format a device by hand, where the agent alone would not')
    .addArgument(volumeArgument())
    .requiredOption('--device <path>', 'the device that is to be formatted')
    .option('--yes', 'do not ask')
    .option('--replace <signature>', 'overwrite a device that carries this signature')
    .action(async (volume: string, options: Common & { device: string; yes?: boolean; replace?: string }) => {
      const parts = await partsOf(readConfig(options.config));
      const device = deviceAt(options.device, volume);
      if (!options.yes && !(await agreed(`Everything on ${options.device} will be gone. Format it?`))) {
        log('not formatted');
        process.exitCode = 1;
        return;
      }
      const outcome = await alone(parts.config.stateDir, async () => {
        const list = await listDisks(parts);
        const order = { format: true, replace: options.replace, device };
        return convergeVolume(parts, list, listed(list, volume), order);
      });
      finish(options, [outcome]);
    });

  command('rotate', 'replace the key of a disk, and remove the old one')
    .addArgument(volumeArgument())
    .option('--reencrypt', 'also replace the volume key: writes every sector anew')
    .action(async (volume: string, options: Common & { reencrypt?: boolean }) => {
      const parts = await partsOf(readConfig(options.config));
      const generation = await alone(parts.config.stateDir, async () => {
        const list = await listDisks(parts);
        const on = await diskFor(parts, listed(list, volume));
        const to = await rotateKey(parts, on, listed(list, volume).generations, list.recoveryPublicKey);
        if (options.reencrypt) {
          const progress = createProgress(`${volume}: re-encrypting`, process.stderr);
          await reencrypt(parts, on, to, list.recoveryPublicKey, progress);
        }
        return to;
      });
      const also = options.reencrypt ? ', volume key replaced' : '';
      print(options.json, { volumeId: volume, generation }, `${volume}: key ${generation} active${also}`);
    });

  command('recover', 'open a disk with its recovery key, and enrol its present key anew')
    .addArgument(volumeArgument())
    .action(async (volume: string, options: Common) => {
      using recovery = readSecretLine(`Recovery key of ${volume}`);
      const config = readConfig(options.config);
      openStateDir(config.stateDir);
      await alone(config.stateDir, async () => {
        let online: { parts: DiskParts; list: DiskListResponse } | undefined;
        let why = '';
        try {
          const parts = await partsOf(config);
          online = { parts, list: await listDisks(parts) };
        } catch (error) {
          why = explain(error); // opened without: that is what a recovery key is for
        }
        const local = online?.parts ?? createDiskParts(offline(config), runTool, log);
        const on = await openWithRecoveryKey(local, volume, recovery, online?.list);
        log(`${volume}: opened with its recovery key`);
        if (!online) {
          log(`The pipeline is away (${why}). Run this again later: the present key is not enrolled yet.`);
          process.exitCode = EX_TEMPFAIL;
          return;
        }
        const generation = await reenrol(online.parts, on, recovery, online.list);
        print(options.json, { volumeId: volume, generation }, `${volume}: key ${generation} enrolled anew`);
      });
    });

  command('escrow', 'have the secret of a BitLocker volume released like a disk key')
    .addArgument(volumeArgument())
    .option('--startup-key <file>', 'a .BEK file, in place of the recovery password')
    .action(async (volume: string, options: Common & { startupKey?: string }) => {
      using secret = options.startupKey
        ? readSecretFile(options.startupKey)
        : readSecretLine(`BitLocker recovery password of ${volume}`);
      const parts = await partsOf(readConfig(options.config));
      await alone(parts.config.stateDir, async () =>
        escrowSecret(parts, await listDisks(parts), volume, secret),
      );
      print(options.json, { volumeId: volume, escrowed: true }, `${volume}: escrowed`);
    });

  command('grow', 'let an open disk fill a volume that grew')
    .addArgument(volumeArgument())
    .action(async (volume: string, options: Common) => {
      const parts = await partsOf(readConfig(options.config));
      await alone(parts.config.stateDir, async () => growDisk(parts, await listDisks(parts), volume));
      print(options.json, { volumeId: volume, grown: true }, `${volume}: grown`);
    });

  addIngestCommand(disk);
}

function convergeOne(parts: DiskParts, volume: string): Promise<VolumeOutcome> {
  return alone(parts.config.stateDir, async () => {
    const list = await listDisks(parts);
    return convergeVolume(parts, list, listed(list, volume));
  });
}

async function diskFor(parts: DiskParts, volume: ListedVolume) {
  const seen = await lookAt(parts, volume.volumeId);
  if (!seen || volume.disk === null) throw new DiskError('DEVICE_MISSING', volume.volumeId);
  return { volumeId: volume.volumeId, disk: volume.disk, device: seen.device };
}

/** For what needs this machine alone: whatever asks the pipeline all the same is told that it is away. */
function offline(config: AgentConfig) {
  const away = () => Promise.reject(new UnreachableError('not asked'));
  return {
    config,
    identity: { instanceId: '', accountId: '', region: config.region },
    key: { publicKey: Buffer.alloc(0), sign: away },
    api: { post: away },
  };
}

function finish(options: Common, outcomes: readonly VolumeOutcome[], failed = false): void {
  print(options.json, outcomes, outcomes.map(outcomeLine).join('\n'));
  if (failed || !outcomes.every(isDone)) process.exitCode = 1;
}

async function agreed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) return false;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}
