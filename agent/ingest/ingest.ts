import type { Writable } from 'node:stream';
import {
  CHUNK_BYTES,
  type IngestImage,
  type IngestOrder,
  type IngestTarget,
  planIngest,
} from '../../lib/domain/ingest.ts';
import type { RunTool } from '../disks/tool.ts';
import { withLock } from '../lock.ts';
import { copy, verify, type Work } from './copy.ts';
import { IngestError } from './error.ts';
import { journalFile, openJournal, readJournal } from './journal.ts';
import { byteProgress } from './progress.ts';
import { inspectImage, openSource } from './source.ts';
import { inspectTarget, openTarget } from './target.ts';

export interface IngestRequest {
  readonly image: string;
  readonly format: 'raw' | 'qcow2' | undefined;
  readonly device: string;
  readonly stateDir: string;
  readonly order: IngestOrder;
  readonly stop: AbortSignal;
  /** Where progress is shown. */
  readonly out: Writable & { readonly isTTY?: boolean };
  /** Asked once the plan is made and before anything is written. */
  readonly confirm: (what: string) => Promise<void>;
}

export interface IngestResult {
  readonly image: string;
  readonly format: 'raw' | 'qcow2';
  readonly device: string;
  readonly bytes: number;
  /** Copied by this process, holes among them. */
  readonly copiedBytes: number;
  /** Written as zeros without being read. */
  readonly holeBytes: number;
  readonly copySeconds: number;
  readonly verifySeconds: number;
  /** SHA-256 over the SHA-256 of each 4 MiB, as read from the image and as read back from the device. */
  readonly digest: string;
}

/** Copies an image onto a device, goes on where a kill ended it, and reads all of it back. @throws IngestError */
export async function ingest(run: RunTool, request: IngestRequest): Promise<IngestResult> {
  const image = await inspectImage(run, request.image, request.format);
  const target = await inspectTarget(run, request.device);
  const file = journalFile(request.stateDir, target.id);
  return withLock(`${file}.lock`, 0, () => ingestAlone(run, request, image, target, file));
}

async function ingestAlone(
  run: RunTool,
  request: IngestRequest,
  image: IngestImage,
  target: IngestTarget,
  file: string,
): Promise<IngestResult> {
  const kept = readJournal(file);
  const plan = planIngest({
    image,
    target,
    journal: kept && { header: kept.header, chunks: kept.chunks },
    order: request.order,
  });
  if (plan.kind === 'refuse') throw new IngestError(plan.reason, plan.detail);
  await request.confirm(`Write ${image.path} over what ${request.device} holds?`);

  const device = await openTarget(target);
  const resumed = plan.from > 0 ? kept : undefined;
  const header = { schema: 'casemate.ingest/2', image, target: target.id, chunkBytes: CHUNK_BYTES } as const;
  const journal = openJournal(file, header, resumed);
  try {
    const { bytes } = image;
    const before = Math.min(bytes, plan.from * CHUNK_BYTES);
    const work = { bytes, target: device, stop: request.stop };
    const source = await openSource(run, image, plan.from);
    const copying = byteProgress('copying', request.out, bytes, before);
    const began = performance.now();
    let holeBytes: number;
    try {
      holeBytes = await copy({ ...work, tell: copying.tell }, source, journal);
    } finally {
      copying.end();
      await source.close();
    }
    const copied = performance.now();
    const digest = await readBack(run, image, work, request.out);
    journal.remove();
    const seconds = (from: number, to: number) => Math.round(to - from) / 1000;
    return {
      image: image.path,
      format: image.format,
      device: request.device,
      bytes,
      copiedBytes: bytes - before,
      holeBytes,
      copySeconds: seconds(began, copied),
      verifySeconds: seconds(copied, performance.now()),
      digest,
    };
  } finally {
    journal.close();
    await device.close();
  }
}

/** Compares image and target. What differs because the image was written to meanwhile is not the device's fault. */
async function readBack(
  run: RunTool,
  image: IngestImage,
  work: Omit<Work, 'tell'>,
  out: IngestRequest['out'],
): Promise<string> {
  const verifying = byteProgress('verifying', out, image.bytes);
  const source = await openSource(run, image, 0);
  try {
    return await verify({ ...work, tell: verifying.tell }, source);
  } catch (error) {
    if (!(error instanceof IngestError) || error.reason !== 'INGEST_MISMATCH') throw error;
    const now = await inspectImage(run, image.path, image.format);
    if (now.file === image.file) throw error;
    throw new IngestError('INGEST_IMAGE_CHANGED', image.path, { cause: error });
  } finally {
    verifying.end();
    await source.close();
  }
}
