import { Command } from 'commander';
import { UsageError } from './usage.ts';

/** What all commands share: name, help and exit codes. */
export function createProgram(): Command {
  return new Command('casemate')
    .description('Every VM earns its disk key: see what Casemate knows and decided')
    .version('0.1.0')
    .option('--stack <name>', 'name of the deployed stack', 'Casemate')
    .showHelpAfterError()
    .addHelpText(
      'after',
      '\nTalks to the embedded cloud while `npm start` runs, else to AWS as the AWS CLI would.' +
        '\nExit codes: 0 done, 1 not found or failed, 2 wrong usage.',
    )
    .exitOverride((error) => {
      process.exit(error.exitCode === 0 ? 0 : 2);
    });
}

/** Runs the command that was asked for; ends with 1 when it failed, 2 on wrong usage. */
export async function run(program: Command): Promise<void> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0); // | head
    throw error;
  });

  try {
    await program.parseAsync();
  } catch (error) {
    process.stderr.write(`casemate: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}
