import { type Command, Option } from 'commander';
import { ask } from '../ask.ts';
import { runTool } from '../disks/tool.ts';
import { log } from '../log.ts';
import { ingest } from './ingest.ts';
import { sizeText } from './progress.ts';

interface Options {
  readonly to: string;
  readonly format?: 'raw' | 'qcow2';
  readonly replace: string[];
  readonly unencrypted?: true;
  readonly restart?: true;
  readonly yes?: true;
  readonly json?: true;
  readonly stateDir: string;
}

/** `disk ingest`: added to the group of commands about disks. */
export function addIngestCommand(disk: Command): void {
  disk
    .command('ingest <image>')
    .description('copy a raw or qcow2 image into an opened volume, and read it back')
    .requiredOption('--to <device>', 'the opened volume, such as /dev/mapper/…')
    .addOption(
      new Option('--format <format>', 'of the image, when it is not what it looks like').choices([
        'raw',
        'qcow2',
      ]),
    )
    .option('--replace <signature...>', 'what the volume carries and may lose, by name: ext4', [])
    .option('--restart', 'begin anew where another image was half copied')
    .option('--unencrypted', 'the target may be one that does not encrypt')
    .option('--yes', 'do not ask')
    .option('--json', 'print the result as one JSON object')
    .option('--state-dir <dir>', 'where it is kept how far the copy is', '/var/lib/casemate')
    .addHelpText(
      'after',
      '\nInterrupted or killed, the same command goes on where it was. Behind the end of the image the volume stays\nas it is.',
    )
    .action(async (image: string, options: Options) => {
      const stop = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM'] as const) {
        process.once(signal, () => stop.abort(new Error('interrupted: the same command goes on from here')));
      }
      const result = await ingest(runTool, {
        image,
        format: options.format,
        device: options.to,
        stateDir: options.stateDir,
        order: {
          replace: options.replace,
          unencrypted: options.unencrypted === true,
          restart: options.restart === true,
        },
        stop: stop.signal,
        out: process.stderr,
        confirm: (what) => (options.yes ? Promise.resolve() : ask(what)),
      });
      if (options.json) {
        process.stdout.write(`${JSON.stringify(result)}\n`);
        return;
      }
      const { bytes, holeBytes, copySeconds, verifySeconds, digest } = result;
      log(
        `${sizeText(bytes)}, ${sizeText(holeBytes)} of them holes: copied in ${copySeconds} s, read back in ${verifySeconds} s`,
      );
      log(`${options.to} holds ${result.image}: ${digest}`);
    });
}
