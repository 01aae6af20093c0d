import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readSync } from 'node:fs';
import { SecureMemory } from '../secure-memory.ts';

/** Nothing was typed, or more than a key can be. */
export class SecretInputError extends Error {
  override readonly name = 'SecretInputError';
}

const MAX_BYTES = 4096;
const NEWLINE = 0x0a;
const RETURN = 0x0d;

/** Reads one line of standard input into key memory; from a terminal without showing it. */
export function readSecretLine(prompt: string): SecureMemory {
  if (!process.stdin.isTTY) return readLine(0);
  const stty = (...args: string[]) =>
    spawnSync('/usr/bin/stty', args, { stdio: ['inherit', 'ignore', 'inherit'] });
  process.stderr.write(`${prompt}: `);
  stty('-echo');
  try {
    return readLine(0);
  } finally {
    stty('echo');
    process.stderr.write('\n');
  }
}

/** Reads a whole file (a BitLocker startup key) into key memory. */
export function readSecretFile(path: string): SecureMemory {
  const fd = openSync(path, 'r');
  try {
    return readUntil(fd, () => false);
  } finally {
    closeSync(fd);
  }
}

function readLine(fd: number): SecureMemory {
  return readUntil(fd, (byte) => byte === NEWLINE || byte === RETURN);
}

/** A byte at a time: what follows the line is not ours to take. What was read is wiped on the way. */
function readUntil(fd: number, isEnd: (byte: number) => boolean): SecureMemory {
  const byte = Buffer.alloc(1);
  const text = Buffer.alloc(MAX_BYTES);
  let length = 0;
  try {
    while (readSync(fd, byte, 0, 1, null) === 1 && !isEnd(byte[0] ?? 0)) {
      if (length === MAX_BYTES) throw new SecretInputError('that is too long for a key');
      text[length++] = byte[0] ?? 0;
    }
    if (length === 0) throw new SecretInputError('no key was given');
    const memory = new SecureMemory(length);
    memory.take(text.subarray(0, length));
    return memory;
  } finally {
    byte.fill(0);
    text.fill(0);
  }
}
