import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** A tool that builds a package is not on this machine. */
export class ToolMissingError extends Error {
  override readonly name = 'ToolMissingError';
}

/** A tool failed. The message ends with what it said. */
export class ToolError extends Error {
  override readonly name = 'ToolError';
}

/** Runs a tool and gives what it printed. @throws ToolMissingError, ToolError */
export async function run(
  tool: string,
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>> = {},
): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(tool, args, {
      // Its words are read by people and by tests: in one language, in one time zone.
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        LC_ALL: 'C.UTF-8',
        TZ: 'UTC',
        ...environment,
      },
      maxBuffer: 16 * 1024 * 1024,
    });
    return stdout;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new ToolMissingError(`${tool} is not on this machine`, { cause: error });
    }
    const said = String((error as { stderr?: unknown }).stderr ?? '').trim();
    throw new ToolError(`${tool} failed: ${said.slice(-2000)}`, { cause: error });
  }
}
