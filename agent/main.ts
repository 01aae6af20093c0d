import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { RefusedError, UnreachableError } from './api.ts';
import { assemble } from './assemble.ts';
import { ConfigError, readConfig } from './config.ts';
import { addDiskCommands } from './disks/command.ts';
import { enrol } from './enrol.ts';
import { lookForSources, PLACES } from './evidence.ts';
import { explain, log } from './log.ts';
import { MetadataError } from './metadata.ts';
import { probe } from './probe.ts';
import { drain, measure, readBootId } from './report.ts';
import { run } from './run.ts';
import { openSpool } from './spool.ts';
import { addSwapCommands } from './swap/command.ts';

const DEFAULT_CONFIG = '/etc/casemate/agent.json';

const program = new Command('casemate-agent')
  .description('Measures this VM, proves who it is, and reports to Casemate')
  .version('0.1.0')
  .showHelpAfterError()
  .addHelpText(
    'after',
    '\nExit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration, 75 unreachable.',
  )
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? 0 : 2);
  });

program
  .command('probe')
  .description('print what this machine is, as one JSON object')
  .option('--cpuid <file>', 'CPUID leaves from a recording')
  .option('--root <dir>', 'another root for /proc, /sys and /dev')
  .action((options: { cpuid?: string; root?: string }) => {
    const result = probe({
      ...(options.cpuid ? { cpuidFile: options.cpuid } : {}),
      ...(options.root ? { root: options.root } : {}),
    });
    process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  });

program
  .command('evidence')
  .description('list what on this machine can sign for it, and why the others cannot')
  .option('--config <file>', 'configuration, for a TPM elsewhere than at /dev/tpmrm0', DEFAULT_CONFIG)
  .option('--json', 'print one JSON object')
  .action((options: { config: string; json?: boolean }) => {
    const config = existsSync(options.config) ? readConfig(options.config) : undefined;
    const sources = lookForSources(PLACES, config?.tpm ? config.tpm.tcti : undefined);
    if (options.json) {
      const said = sources.map((source) => ({ ...source, absent: source.absent ?? null }));
      process.stdout.write(`${JSON.stringify({ sources: said })}\n`);
    } else {
      for (const { what, absent } of sources) {
        process.stdout.write(
          `${absent === undefined ? 'there ' : 'absent'}  ${what}${absent === undefined ? '' : `: ${absent}`}\n`,
        );
      }
    }
  });

const withConfig = (name: string, description: string) =>
  program.command(name).description(description).option('--config <file>', 'configuration', DEFAULT_CONFIG);

withConfig('enrol', 'enrol the key of this agent, once').action(async (options: { config: string }) => {
  const parts = await assemble(readConfig(options.config));
  const status = await enrol(parts.api, parts.config, parts.identity, parts.key);
  log(`${parts.identity.instanceId}: ${status}`);
});

withConfig('report', 'measure once and report').action(async (options: { config: string }) => {
  const parts = await assemble(readConfig(options.config));
  const spool = openSpool(parts.config.stateDir, parts.config.spoolMax);
  spool.add(measure(parts.config, parts.identity, readBootId(), new Date()));
  const sent = await drain(parts.bus, parts.config, parts.identity, parts.key, spool);
  log(`${parts.identity.instanceId}: ${sent} sent`);
});

withConfig('run', 'enrol, then report at every interval').action(async (options: { config: string }) => {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  await run(await assemble(readConfig(options.config)), stop.signal);
});

addDiskCommands(program, DEFAULT_CONFIG);
addSwapCommands(program);

try {
  await program.parseAsync();
} catch (error) {
  log(`casemate-agent: ${explain(error)}`);
  if (error instanceof RefusedError)
    log('An operator can see the refusal with: casemate explain <instance id>');
  // sysexits.h EX_TEMPFAIL: nobody said no, and trying again may help.
  const away = error instanceof UnreachableError || error instanceof MetadataError;
  process.exitCode = error instanceof ConfigError ? 2 : away ? 75 : 1;
}
