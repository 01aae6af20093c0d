import { type FileHandle, open } from 'node:fs/promises';
import type { IdentityIssuers } from '../../lib/domain/evidence/identity/index.ts';
import type { AmdRoots } from '../../lib/domain/evidence/snp/index.ts';

/** What the command needs of the world; tests give their own. */
export interface Shell {
  readonly write: (text: string) => void;
  readonly writeError: (text: string) => void;
  /** Sets the exit code. */
  readonly exit: (code: 0 | 1 | 2) => void;
  /** Ends at once, after help or wrong usage. */
  readonly stop: (code: 0 | 2) => never;
  readonly read: (path: string) => Promise<Uint8Array>;
  readonly now: () => Date;
  readonly colours: boolean;
  /** Roots in place of the vendors' own. */
  readonly roots: {
    readonly amd?: AmdRoots;
    readonly nitro?: readonly string[];
    readonly intel?: readonly string[];
    readonly identity?: IdentityIssuers;
  };
}

/** Wrong usage: one line, exit code 2. */
export class UsageError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'UsageError';
  }
}

export const maxFileBytes = 8 * 1024 * 1024;

export function processShell(): Shell {
  return {
    write: (text) => process.stdout.write(text),
    writeError: (text) => process.stderr.write(text),
    // Not process.exit: output to a pipe may still be on its way.
    exit: (code) => {
      process.exitCode = code;
    },
    stop: (code) => process.exit(code),
    read: readSmallFile,
    now: () => new Date(),
    colours: process.stdout.isTTY === true && !process.env['NO_COLOR'],
    roots: {},
  };
}

/** Reads a file, or `-` for standard input, and stops at a size that no evidence has. */
async function readSmallFile(path: string): Promise<Uint8Array> {
  let file: FileHandle | undefined;
  try {
    file = await open(path === '-' ? '/dev/stdin' : path);
    const chunks: Uint8Array[] = [];
    let total = 0;
    for await (const chunk of file.createReadStream({ autoClose: false })) {
      chunks.push(chunk);
      total += chunk.length;
      if (total > maxFileBytes) throw new UsageError(`${path}: more than ${maxFileBytes} bytes`);
    }
    return Buffer.concat(chunks);
  } catch (cause) {
    if (cause instanceof UsageError) throw cause;
    throw new UsageError(`${path}: ${reasonOf(cause)}`, { cause });
  } finally {
    await file?.close();
  }
}

function reasonOf(cause: unknown): string {
  const { code, message } = Object(cause) as { code?: unknown; message?: unknown };
  if (code === 'ENOENT') return 'no such file';
  if (code === 'EISDIR') return 'is a folder';
  if (code === 'EACCES') return 'may not be read';
  return String(message ?? cause);
}
