import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { type FileHandle, open, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as z from 'zod';
import { CHUNK_BYTES, type IngestImage } from '../../lib/domain/ingest.ts';
import type { RunTool } from '../disks/tool.ts';
import { nativeAddon } from '../probe.ts';
import { IngestError } from './error.ts';

/** An image as the disk that it holds, read front to back, several chunks at a time. */
export interface Source {
  /** Reads a chunk to the start of `into`, its whole length. False when all of it is a hole, and `into` as it was. */
  read(chunk: number, into: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

/** First bytes of images that are not raw, and would be copied as what they are not. */
const MAGICS = [
  ['qcow2', 'QFI\xfb'],
  ['vmdk', 'KDMV'],
  ['vmdk', '# Disk DescriptorFile'],
  ['vhdx', 'vhdxfile'],
  ['vhd', 'conectix'],
  ['qed', 'QED\0'],
  ['luks', 'LUKS\xba\xbe'],
] as const;

const qcow2Info = z.looseObject({
  'virtual-size': z.number().int().positive(),
  'backing-filename': z.string().optional(),
  encrypted: z.boolean().optional(),
  'dirty-flag': z.boolean().optional(),
  'format-specific': z.looseObject({
    data: z.looseObject({ 'data-file': z.string().optional(), corrupt: z.boolean().optional() }),
  }),
});

/** What the image is. The format is never guessed from content that its maker chose, beyond telling them apart. */
export async function inspectImage(
  run: RunTool,
  path: string,
  asked: 'raw' | 'qcow2' | undefined,
): Promise<IngestImage> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (cause) {
    throw new IngestError('INGEST_IMAGE_REFUSED', `${path} cannot be read`, { cause });
  }
  try {
    const head = Buffer.alloc(32);
    await file.read(head, 0, head.length, 0);
    const stat = await file.stat({ bigint: true });
    if (!stat.isFile()) throw new IngestError('INGEST_IMAGE_REFUSED', `${path} is no regular file`);
    const [found] = MAGICS.find(([, magic]) => head.toString('latin1').startsWith(magic)) ?? ['raw'];
    const format = asked ?? found;
    if (format !== 'raw' && format !== 'qcow2') {
      throw new IngestError(
        'INGEST_IMAGE_REFUSED',
        `${path} looks like ${format}; if it is raw, say --format raw`,
      );
    }
    const bytes = format === 'raw' ? Number(stat.size) : await qcow2Bytes(run, path);
    if (bytes === 0) throw new IngestError('INGEST_IMAGE_REFUSED', `${path} is empty`);
    const id = `${stat.dev}:${stat.ino} ${stat.size} ${stat.mtimeNs}`;
    return { path: await realpath(path), format, bytes, file: id };
  } finally {
    await file.close();
  }
}

/** An image that leans on other files is refused: whoever made it would choose which of ours are read. */
async function qcow2Bytes(run: RunTool, path: string): Promise<number> {
  const json = nodeName({ driver: 'qcow2', file: { driver: 'file', filename: path } });
  const { stdout } = await run('qemu-img', ['info', '--output=json', json]);
  const info = qcow2Info.parse(JSON.parse(stdout));
  const { data } = info['format-specific'];
  const faults = [
    info['backing-filename'] !== undefined && 'has a backing file',
    data['data-file'] !== undefined && 'keeps its data in another file',
    data.corrupt === true && 'is marked corrupt',
    info['dirty-flag'] === true && 'was not closed: run qemu-img check -r all',
    info.encrypted === true && 'is encrypted',
  ].filter((fault) => fault !== false);
  if (faults.length > 0) throw new IngestError('INGEST_IMAGE_REFUSED', `${path} ${faults.join(' and ')}`);
  return info['virtual-size'];
}

/** A name for qemu's tools that no character of a path can break. */
function nodeName(node: object): string {
  return `json:${JSON.stringify(node)}`;
}

/** @param first chunk that is read first; each is read once, in about this order */
export async function openSource(run: RunTool, image: IngestImage, first: number): Promise<Source> {
  return image.format === 'raw' ? await openRaw(image) : openQcow2(run, image, first);
}

const lengthOf = (chunk: number, bytes: number) => Math.min(CHUNK_BYTES, bytes - chunk * CHUNK_BYTES);

async function openRaw(image: IngestImage): Promise<Source> {
  const file = await open(image.path, 'r');
  return {
    read: (chunk, into) => readSparsely(file, chunk * CHUNK_BYTES, into, lengthOf(chunk, image.bytes)),
    close: () => file.close(),
  };
}

async function readSparsely(
  file: FileHandle,
  at: number,
  into: Uint8Array,
  length: number,
): Promise<boolean> {
  const data = nativeAddon().nextData(file.fd, at);
  if (data < 0 || data >= at + length) return false;
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(into, done, length - done, at + done);
    if (bytesRead === 0) {
      throw new IngestError('INGEST_IMAGE_REFUSED', `the image ends early, at ${at + done} bytes`);
    }
    done += bytesRead;
  }
  return true;
}

/** qemu-img unpacks this much at a time into a sparse file in memory; two are there at a time. */
const WINDOW_CHUNKS = 16;

interface Window {
  readonly file: Promise<FileHandle>;
  /** Chunks of it that nobody read yet. */
  left: number;
}

/**
 * qcow2 is read by qemu-img alone, a window at a time, the next one while this one is copied. A window is a sparse
 * file in memory (/dev/shm), so that holes stay holes.
 */
function openQcow2(run: RunTool, image: IngestImage, first: number): Source {
  const folder = mkdtempSync(join(sharedMemory(), 'casemate-ingest-'));
  const windows = new Map<number, Window>();
  const chunks = Math.ceil(image.bytes / CHUNK_BYTES);
  const stop = new AbortController();
  const unpack = async (window: number): Promise<FileHandle> => {
    const offset = window * WINDOW_CHUNKS * CHUNK_BYTES;
    const size = Math.min(WINDOW_CHUNKS * CHUNK_BYTES, image.bytes - offset);
    const disk = { driver: 'qcow2', backing: null, file: { driver: 'file', filename: image.path } };
    const path = join(folder, String(window));
    const from = nodeName({ driver: 'raw', offset, size, file: disk });
    await run('qemu-img', ['convert', '-O', 'raw', from, path], { timeoutSeconds: 600, stop: stop.signal });
    const file = await open(path, 'r');
    await rm(path); // gone with its descriptor, however this process ends
    return file;
  };
  const windowOf = (number: number): Window => {
    const there = windows.get(number);
    if (there) return there;
    const from = Math.max(first, number * WINDOW_CHUNKS);
    const made = { file: unpack(number), left: Math.min(chunks, (number + 1) * WINDOW_CHUNKS) - from };
    made.file.catch(() => undefined); // told to whoever reads it
    windows.set(number, made);
    return made;
  };
  return {
    async read(chunk, into) {
      const number = Math.floor(chunk / WINDOW_CHUNKS);
      const window = windowOf(number);
      if ((number + 1) * WINDOW_CHUNKS < chunks) windowOf(number + 1);
      const file = await window.file;
      const at = (chunk % WINDOW_CHUNKS) * CHUNK_BYTES;
      const data = await readSparsely(file, at, into, lengthOf(chunk, image.bytes));
      window.left -= 1;
      if (window.left === 0) {
        windows.delete(number);
        await file.close();
      }
      return data;
    },
    async close() {
      stop.abort();
      for (const { file } of windows.values()) await file.then((f) => f.close()).catch(() => undefined);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function sharedMemory(): string {
  return statSync('/dev/shm', { throwIfNoEntry: false })?.isDirectory() ? '/dev/shm' : tmpdir();
}
