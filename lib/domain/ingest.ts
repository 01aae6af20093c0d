import * as z from 'zod';
import type { Reason } from './reasons.ts';

/** Unit of copying, of hashing and of what is copied again after a kill. */
export const CHUNK_BYTES = 4 * 1024 * 1024;

const image = z.strictObject({
  path: z.string(),
  format: z.enum(['raw', 'qcow2']),
  /** Of the disk that it holds, not of the file. */
  bytes: z.number().int().positive(),
  /** Which file it is and when it was last written: a changed one is another image. */
  file: z.string(),
});
export type IngestImage = z.infer<typeof image>;

/** First line of the journal, as JSON. Every further line is how many chunks, from the first on, are safely on the target. */
export const ingestHeader = z.strictObject({
  schema: z.literal('casemate.ingest/2'),
  image,
  target: z.string(),
  chunkBytes: z.literal(CHUNK_BYTES),
});
export type IngestHeader = z.infer<typeof ingestHeader>;

export interface IngestTarget {
  readonly path: string;
  /** What it is, whatever its name: the mapping's UUID, or device and inode of a file. */
  readonly id: string;
  readonly bytes: number;
  /** Whether what is written to it is encrypted on the way: a dm-crypt mapping. */
  readonly encrypted: boolean;
  /** Names of what it carries: `ext4`, `dos`, … */
  readonly signatures: readonly string[];
}

/** What a human said on the command line. */
export interface IngestOrder {
  /** Signatures that may be overwritten. */
  readonly replace: readonly string[];
  /** The target may be one that does not encrypt. */
  readonly unencrypted: boolean;
  /** What was copied before a kill may be copied again. */
  readonly restart: boolean;
}

export type IngestPlan =
  | { readonly kind: 'copy'; readonly from: number }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly detail: string };

/**
 * Whether the image may go onto the target, and from which chunk. What an interrupted copy left on the target is not
 * taken for somebody's data: the journal says that it is ours.
 */
export function planIngest(facts: {
  readonly image: IngestImage;
  readonly target: IngestTarget;
  readonly journal: { readonly header: IngestHeader; readonly chunks: number } | undefined;
  readonly order: IngestOrder;
}): IngestPlan {
  const { image, target, journal, order } = facts;
  if (image.bytes > target.bytes) {
    const detail = `the image holds ${image.bytes} bytes, ${target.path} has ${target.bytes}`;
    return { kind: 'refuse', reason: 'INGEST_DOES_NOT_FIT', detail };
  }
  if (!target.encrypted && !order.unencrypted) {
    return { kind: 'refuse', reason: 'INGEST_UNENCRYPTED', detail: `${target.path} is no dm-crypt mapping` };
  }
  if (journal !== undefined && !order.restart) {
    const same =
      journal.header.target === target.id && JSON.stringify(journal.header.image) === JSON.stringify(image);
    if (same) return { kind: 'copy', from: journal.chunks };
    const detail = `a copy of ${journal.header.image.path} to ${target.path} was interrupted`;
    return { kind: 'refuse', reason: 'INGEST_OTHER_IMAGE', detail };
  }
  const found =
    journal === undefined ? target.signatures.filter((name) => !order.replace.includes(name)) : [];
  if (found.length > 0) {
    return { kind: 'refuse', reason: 'INGEST_TARGET_NOT_EMPTY', detail: `it carries ${found.join(', ')}` };
  }
  return { kind: 'copy', from: 0 };
}

/** The journal's header and how far it got; a line that a crash cut off does not count, nor anything behind it. */
export function parseJournal(
  text: string,
): { readonly header: IngestHeader; readonly chunks: number; readonly length: number } | undefined {
  const end = text.indexOf('\n');
  if (end < 0) return undefined;
  const header = ingestHeader.safeParse(jsonOf(text.slice(0, end)));
  if (!header.success) return undefined;
  const most = Math.ceil(header.data.image.bytes / CHUNK_BYTES);
  let chunks = 0;
  let at = end + 1;
  for (const [line, count] of text.slice(at).matchAll(/([1-9]\d{0,14})\n/gy)) {
    if (Number(count) <= chunks || Number(count) > most) break;
    chunks = Number(count);
    at += line.length;
  }
  return { header: header.data, chunks, length: at };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // no header, as the schema will say
  }
}
