import { createHash } from 'node:crypto';
import { closeSync, fdatasyncSync, ftruncateSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type IngestHeader, parseJournal } from '../../lib/domain/ingest.ts';
import { readIfThere, removeIfThere, writeDurably } from '../state.ts';

/** What is safely on the target, so that a copy that was killed goes on where it was. */
export interface Journal {
  /** So many, from the first on. */
  readonly chunks: number;
  /** To be called only after the target was flushed: what stands here is not copied again. */
  reached(chunks: number): void;
  /** The copy is whole, or is given up. */
  remove(): void;
  close(): void;
}

export function readJournal(file: string): ReturnType<typeof parseJournal> {
  const text = readIfThere(file);
  return text === undefined ? undefined : parseJournal(text);
}

/** Where the journal of a target is; its folder is made. */
export function journalFile(stateDir: string, targetId: string): string {
  const folder = join(stateDir, 'ingest');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const name = createHash('sha256').update(targetId).digest('hex').slice(0, 32);
  return join(folder, `${name}.journal`);
}

/** Goes on with the journal that is there when told how far it got, or begins a new one. */
export function openJournal(
  file: string,
  header: IngestHeader,
  keep: { chunks: number; length: number } | undefined,
): Journal {
  if (!keep) {
    writeDurably(file, `${JSON.stringify(header)}\n`);
  }
  const fd = openSync(file, 'r+');
  let at = keep?.length ?? Buffer.byteLength(`${JSON.stringify(header)}\n`);
  ftruncateSync(fd, at); // a line that a crash cut off
  let chunks = keep?.chunks ?? 0;
  return {
    get chunks() {
      return chunks;
    },
    reached(count) {
      const line = Buffer.from(`${count}\n`);
      for (let done = 0; done < line.length; )
        done += writeSync(fd, line, done, line.length - done, at + done);
      at += line.length;
      fdatasyncSync(fd);
      chunks = count;
    },
    remove: () => removeIfThere(file),
    close: () => closeSync(fd),
  };
}
