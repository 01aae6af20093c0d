/** Text that a guest or anybody with the right to tag chose: it must not move the cursor of this terminal. */
export function plain(text: string): string {
  return text.replace(/\p{Cc}/gu, '\u{FFFD}');
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
