import * as z from 'zod';
import type { Reason } from './reasons.ts';

/** One line of /proc/swaps. */
export interface ActiveSwap {
  /** As the kernel names it. */
  readonly path: string;
  readonly type: 'partition' | 'file';
}

/** What /proc/swaps says: https://man7.org/linux/man-pages/man5/proc_swaps.5.html */
export function parseSwaps(text: string): readonly ActiveSwap[] {
  const swaps: ActiveSwap[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [escaped, type] = line.split(/\s+/);
    if (escaped === undefined || (type !== 'partition' && type !== 'file')) continue;
    // The kernel writes space, tab, newline and backslash in octal.
    const path = escaped.replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(parseInt(octal, 8)),
    );
    swaps.push({ path, type });
  }
  return swaps;
}

/** One swap area that this machine encrypts, remembered from boot to boot. */
export const swapRecord = z.strictObject({
  /** `PARTUUID=…`, or a path where it is no partition. */
  device: z.string(),
  /** In the mark at its beginning. */
  uuid: z.uuid(),
  /** Name of the mapping. */
  name: z.string().regex(/^casemate-swap\d+$/),
  /** The mark is on the device: from here on a swap signature there is somebody else's. */
  marked: z.boolean(),
  /** What was swapped in clear before is overwritten. */
  wiped: z.boolean(),
});
export type SwapRecord = z.infer<typeof swapRecord>;
export const swapRecords = z.strictObject({
  schema: z.literal('casemate.swap/1'),
  swaps: z.array(swapRecord),
});

/** Kept in clear at the beginning of the device, with the mark in it. */
export const MARK_AREA_BYTES = 1024 * 1024;
const MARK_BYTES = 4096;

/** What stands at the beginning of a swap area that is ours: no signature that anything else takes for its own. */
export function swapMark(uuid: string): Buffer {
  const mark = Buffer.alloc(MARK_BYTES);
  mark.write(
    `casemate swap 1\n${uuid}\nEncrypted with a new random key at every boot: casemate-swap.service\n`,
  );
  return mark;
}

/** What is known of a device that swap is, or was, on. */
export interface SwapDevice {
  readonly path: string;
  readonly type: 'partition' | 'file';
  readonly bytes: number;
  /** First bytes of it, as many as a mark has. */
  readonly head: Uint8Array;
  readonly signatures: readonly string[];
  /** Names that a resume option may have for it: paths and `UUID=…`, `PARTUUID=…`, `LABEL=…`, `8:3`. */
  readonly names: readonly string[];
  /** Made of dm-crypt, or of zram. */
  readonly kind: 'plain' | 'encrypted' | 'zram';
  /** In use as swap now. */
  readonly active: boolean;
}

export type SwapPlan =
  /** Nothing to do: `reason` says why. */
  | { readonly kind: 'leave'; readonly reason: 'ENCRYPTED' | 'ZRAM' }
  | { readonly kind: 'encrypt' }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly detail: string };

/**
 * What to do with a swap area. Only one that carries a swap signature and nothing else is taken for ours the first
 * time, and only one that carries our mark ever after.
 *
 * @param record what is remembered of it; undefined the first time
 * @param resume where the kernel and the initramfs would look for a hibernation image
 */
export function planSwap(
  device: SwapDevice,
  record: SwapRecord | undefined,
  resume: readonly string[],
): SwapPlan {
  if (device.kind !== 'plain') {
    return { kind: 'leave', reason: device.kind === 'zram' ? 'ZRAM' : 'ENCRYPTED' };
  }
  const image = resume.find((name) => device.names.includes(name));
  if (image !== undefined || (device.type === 'file' && resume.some((name) => name.startsWith('offset:')))) {
    const detail = `${device.path} is where this machine resumes from (${image ?? 'resume_offset'})`;
    return { kind: 'refuse', reason: 'SWAP_HIBERNATION', detail };
  }
  if (device.bytes <= 2 * MARK_AREA_BYTES) {
    return { kind: 'refuse', reason: 'SWAP_NOT_OURS', detail: `${device.path} has ${device.bytes} bytes` };
  }
  const marked = record !== undefined && swapMark(record.uuid).equals(device.head);
  if (marked) return { kind: 'encrypt' };
  if (record?.marked) {
    return {
      kind: 'refuse',
      reason: 'SWAP_NOT_OURS',
      detail: `${device.path} lost the mark that was put there`,
    };
  }
  if (device.signatures.length !== 1 || device.signatures[0] !== 'swap') {
    const found = device.signatures.join(', ') || 'no signature';
    return { kind: 'refuse', reason: 'SWAP_NOT_OURS', detail: `${device.path} carries ${found}` };
  }
  return { kind: 'encrypt' };
}

/** Where a hibernation image would be looked for: `resume=` of the kernel and of initramfs-tools, by any name. */
export function resumeNames(sources: {
  readonly commandLine: string;
  /** /sys/power/resume: `major:minor`, `0:0` for none. */
  readonly sysPowerResume: string | undefined;
  /** /etc/initramfs-tools/conf.d/resume. */
  readonly initramfs: string | undefined;
}): readonly string[] {
  const names: string[] = [];
  const words = sources.commandLine.trim().split(/\s+/);
  for (const word of words) {
    if (word.startsWith('resume=')) names.push(word.slice('resume='.length));
    if (word.startsWith('resume_offset=')) names.push(`offset:${word.slice('resume_offset='.length)}`);
  }
  const { sysPowerResume } = sources;
  if (sysPowerResume !== undefined && sysPowerResume.trim() !== '0:0') names.push(sysPowerResume.trim());
  for (const [, name] of (sources.initramfs ?? '').matchAll(/^\s*RESUME=["']?([^"'\s#]+)/gm)) {
    if (name !== undefined && name !== 'none' && name !== 'auto') names.push(name);
  }
  return names;
}

/**
 * /etc/fstab without the lines that would use one of `names` as plain swap: kept as comments, for the device has no
 * swap signature any more and a boot would wait for it.
 */
export function fstabWithout(fstab: string, names: readonly string[]): string {
  return fstab
    .split('\n')
    .map((line) => {
      const [device, , type] = line.trim().split(/\s+/);
      const plain = device !== undefined && type === 'swap' && !line.trim().startsWith('#');
      return plain && names.includes(device.replaceAll('"', ''))
        ? `# casemate-swap.service has it: ${line}`
        : line;
    })
    .join('\n');
}
