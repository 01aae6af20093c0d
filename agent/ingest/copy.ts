import { createHash, hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { CHUNK_BYTES } from '../../lib/domain/ingest.ts';
import { nativeAddon } from '../probe.ts';
import { IngestError } from './error.ts';
import type { Journal } from './journal.ts';
import type { Source } from './source.ts';

/** Chunks under way at the same time: while one is written, the next are read. More than libuv's four threads have nothing to run on. */
const UNDER_WAY = 4;
/** The target is flushed and the journal written every 256 MiB: a flush costs little then, and a kill 256 MiB. */
const FLUSH_CHUNKS = 64;
/** Direct I/O writes whole blocks; no device has larger ones. */
const BLOCK_BYTES = 4096;

export interface Work {
  readonly bytes: number;
  readonly target: FileHandle;
  readonly tell: (bytes: number) => void;
  readonly stop: AbortSignal;
}

const chunksOf = (bytes: number) => Math.ceil(bytes / CHUNK_BYTES);
const lengthOf = (chunk: number, bytes: number) => Math.min(CHUNK_BYTES, bytes - chunk * CHUNK_BYTES);

/** Does `one` for every chunk from `first` on, in order, some at the same time; each has a buffer of its own. */
async function forChunks(
  work: Work,
  first: number,
  one: (chunk: number, buffer: Uint8Array<ArrayBuffer>) => Promise<void>,
): Promise<void> {
  let next = first;
  const failed = new AbortController();
  const lane = async () => {
    const buffer = nativeAddon().blockBuffer(CHUNK_BYTES);
    while (next < chunksOf(work.bytes)) {
      work.stop.throwIfAborted();
      if (failed.signal.aborted) return;
      const chunk = next++;
      await one(chunk, buffer);
      work.tell(lengthOf(chunk, work.bytes));
    }
  };
  const lanes = Array.from({ length: UNDER_WAY }, () =>
    lane().catch((error: unknown) => {
      failed.abort();
      throw error;
    }),
  );
  // All have ended before anybody closes what they read and write.
  const outcomes = await Promise.allSettled(lanes);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/**
 * Copies from the first chunk that the journal does not have. Nothing is hashed here: it would cost as much of the CPU as
 * all the rest (docs/adr/0213).
 *
 * @returns bytes of holes, written as zeros
 */
export async function copy(work: Work, source: Source, journal: Journal): Promise<number> {
  const zeros = nativeAddon().blockBuffer(CHUNK_BYTES);
  const done = new Set<number>();
  let flushing: Promise<void> | undefined;
  let holes = 0;

  // Flush, then record: a chunk in the journal must not be lost in a cache of the device.
  const flush = async () => {
    const flushed = journal.chunks;
    let next = flushed;
    while (done.has(next)) next++;
    if (next === flushed) return;
    await failing(() => work.target.datasync());
    journal.reached(next);
    for (let chunk = flushed; chunk < next; chunk++) done.delete(chunk);
  };

  try {
    await forChunks(work, journal.chunks, async (chunk, buffer) => {
      const length = lengthOf(chunk, work.bytes);
      const data = await source.read(chunk, buffer);
      if (data) buffer.fill(0, length);
      else holes += length;
      await writeAll(work.target, data ? buffer : zeros, blocks(length), chunk * CHUNK_BYTES);
      done.add(chunk);
      if (done.size >= FLUSH_CHUNKS && !flushing) {
        flushing = flush().finally(() => {
          flushing = undefined;
        });
      }
      if (done.size >= 2 * FLUSH_CHUNKS) await flushing; // the device is slower than we are
    });
  } finally {
    // Also when stopped: what is whole need not be copied again.
    await flushing?.catch(() => undefined);
    await flush();
  }
  return holes;
}

const blocks = (length: number) => Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES;

/**
 * Reads image and target and compares them, chunk by chunk.
 *
 * @returns one hash of the whole: SHA-256 over the SHA-256 of each chunk
 * @throws IngestError INGEST_MISMATCH
 */
export async function verify(work: Work, source: Source): Promise<string> {
  const zeros = new Uint8Array(CHUNK_BYTES);
  const zeroChunk = hash('sha256', zeros, 'buffer');
  const digests: Buffer[] = [];
  const spare: Uint8Array[] = [];
  await forChunks(work, 0, async (chunk, buffer) => {
    const length = lengthOf(chunk, work.bytes);
    const read = spare.pop() ?? nativeAddon().blockBuffer(CHUNK_BYTES);
    const [data] = await Promise.all([
      source.read(chunk, buffer),
      readAll(work.target, read, blocks(length), chunk * CHUNK_BYTES),
    ]);
    const wanted = (data ? buffer : zeros).subarray(0, length);
    if (Buffer.compare(read.subarray(0, length), wanted) !== 0) {
      throw new IngestError('INGEST_MISMATCH', `${length} bytes at ${chunk * CHUNK_BYTES} differ`);
    }
    digests[chunk] = !data && length === CHUNK_BYTES ? zeroChunk : hash('sha256', wanted, 'buffer');
    spare.push(read);
  });
  const whole = createHash('sha256');
  for (const digest of digests) whole.update(digest);
  return whole.digest('hex');
}

async function writeAll(file: FileHandle, bytes: Uint8Array, length: number, at: number): Promise<void> {
  await failing(async () => {
    for (let done = 0; done < length; ) {
      done += (await file.write(bytes, done, length - done, at + done)).bytesWritten;
    }
  });
}

async function readAll(file: FileHandle, into: Uint8Array, length: number, at: number): Promise<void> {
  await failing(async () => {
    for (let done = 0; done < length; ) {
      const { bytesRead } = await file.read(into, done, length - done, at + done);
      if (bytesRead === 0) throw new Error(`it ends at ${at + done}`);
      done += bytesRead;
    }
  });
}

async function failing<T>(io: () => Promise<T>): Promise<T> {
  try {
    return await io();
  } catch (cause) {
    throw new IngestError('INGEST_TARGET_FAILED', 'the target failed', { cause });
  }
}
