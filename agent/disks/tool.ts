import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { SecureMemory } from '../secure-memory.ts';

/** A tool of the system could not be run, or did not do it. `code` is its exit code, null where it has none. */
export class ToolError extends Error {
  override readonly name = 'ToolError';
  readonly tool: string;
  readonly code: number | null;
  readonly stderr: string;
  constructor(tool: string, code: number | null, stderr: string, message: string, options?: ErrorOptions) {
    super(`${tool}: ${message}`, options);
    this.tool = tool;
    this.code = code;
    this.stderr = stderr;
  }
}

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ToolOptions {
  readonly timeoutSeconds?: number;
  /** Exit codes that are answers; 0 alone unless said. */
  readonly answers?: readonly number[];
  /** Text for its standard input. Never a key: those are arguments. */
  readonly input?: string;
  /** Called with each line of standard output as it comes. */
  readonly onLine?: (line: string) => void;
  readonly stop?: AbortSignal;
}

/**
 * Runs a tool of the system: no shell, a plain environment, a deadline. An argument that is SecureMemory becomes
 * `/dev/fd/N`, a pipe with the key in it: a key is never in an argument, the environment or a file.
 *
 * @throws ToolError
 */
export type RunTool = (
  tool: string,
  args: readonly (string | SecureMemory)[],
  options?: ToolOptions,
) => Promise<ToolResult>;

/** Where the system's own tools are; the caller's PATH has no say in what root runs with a key. */
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';
const OUTPUT_MAX = 8 * 1024 * 1024;
const TIMEOUT_SECONDS = 60;

export const runTool: RunTool = async (tool, args, options = {}) => {
  const pipes: number[] = [];
  let child: ChildProcess;
  try {
    const argv = args.map((arg) => {
      if (!(arg instanceof SecureMemory)) return arg;
      return `/dev/fd/${2 + pipes.push(arg.toPipe())}`;
    });
    child = spawn(tool, argv, {
      env: { PATH, LC_ALL: 'C' },
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', ...pipes],
    });
  } finally {
    for (const fd of pipes) closeSync(fd);
  }
  // A tool that ends without reading: its exit code says why.
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(options.input);
  const stdout = collect(child.stdout, options.onLine);
  const stderr = collect(child.stderr);
  const deadline = AbortSignal.timeout((options.timeoutSeconds ?? TIMEOUT_SECONDS) * 1000);
  const ending = AbortSignal.any([deadline, ...(options.stop ? [options.stop] : [])]);
  const kill = () => child.kill('SIGTERM');
  ending.addEventListener('abort', kill, { once: true });
  if (ending.aborted) kill();
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    const said = stderr().trim().replace(/\s+/g, ' ');
    if (code !== null && (options.answers ?? [0]).includes(code)) {
      return { code, stdout: stdout(), stderr: stderr() };
    }
    const how = deadline.aborted ? 'took too long' : code === null ? 'was ended' : `exit code ${code}`;
    throw new ToolError(tool, code, said, said || how);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw new ToolError(tool, null, '', missing ? 'is not installed' : 'cannot be run', { cause: error });
  } finally {
    ending.removeEventListener('abort', kill);
  }
};

function collect(stream: Readable | null, onLine?: (line: string) => void): () => string {
  let text = '';
  let rest = '';
  stream?.setEncoding('utf8').on('data', (chunk: string) => {
    if (text.length < OUTPUT_MAX) text += chunk;
    if (!onLine) return;
    const lines = (rest + chunk).split(/[\r\n]/);
    rest = lines.pop() ?? '';
    for (const line of lines) if (line !== '') onLine(line);
  });
  return () => text;
}
