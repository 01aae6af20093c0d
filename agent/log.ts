/** One line a happening on stderr: the journal puts the time in front. Ids and reason codes, never keys. */
export function log(message: string): void {
  process.stderr.write(`${message}\n`);
}

/** The message of an error with those of its causes, on one line. */
export function explain(error: unknown): string {
  const parts: string[] = [];
  for (let e: unknown = error; e instanceof Error; e = e.cause) parts.push(e.message);
  return parts.join(': ').replace(/\s+/g, ' ') || String(error);
}
