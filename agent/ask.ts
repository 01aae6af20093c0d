import { createInterface } from 'node:readline/promises';

/** Nobody said yes. Nothing was done. */
export class NotAgreedError extends Error {
  override readonly name = 'NotAgreedError';
}

/** Asks a person at the terminal. @throws NotAgreedError when there is none, or they do not say yes */
export async function ask(question: string): Promise<void> {
  if (!process.stdin.isTTY) throw new NotAgreedError(`${question} Nobody is there to ask: say --yes`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${question} [yes/no] `);
    if (answer.trim() !== 'yes') throw new NotAgreedError('nothing was done');
  } finally {
    terminal.close();
  }
}
