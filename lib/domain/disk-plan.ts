import type { ListedVolume } from './disk-api.ts';
import { HEADER_AREA_BYTES } from './luks-header.ts';
import type { Reason } from './reasons.ts';

/** What is on a device, by its signatures and, where it has none, by its first and last bytes. */
export type DeviceContent =
  | { readonly kind: 'blank' }
  /** `uuid` is undefined when the header is beyond reading. */
  | { readonly kind: 'luks'; readonly uuid: string | undefined }
  | { readonly kind: 'bitlk' }
  /**
   * Something else: the name of its signature, or `data` for bytes without one. `headerIsZero`: where a LUKS header
   * would be there are zeros alone.
   */
  | { readonly kind: 'other'; readonly signature: string; readonly headerIsZero: boolean };

export interface DiskDevice {
  readonly path: string;
  readonly bytes: number;
  /**
   * `serial`: it is the volume, by the NVMe serial that the hypervisor gives it. `file`: a regular file that the
   * configuration names, which can be formatted and proven, not mapped. `named`: a path that somebody gave.
   */
  readonly mappedBy: 'serial' | 'file' | 'named';
}

/** What a human said on the command line. An agent that runs by itself has none of it. */
export interface HumanOrder {
  /** The device named may be formatted (`--yes`). */
  readonly format?: boolean | undefined;
  /** The signature that may be overwritten (`--replace`). */
  readonly replace?: string | undefined;
}

export type VolumePlan =
  /** Casemate has nothing to do with it; `reason` says why. */
  | { readonly kind: 'leave'; readonly reason: string }
  | { readonly kind: 'format'; readonly disk: string; readonly generation: number }
  /** Opened with the first of `generations` that does; `unfinished` is its first formatting, not confirmed yet. */
  | {
      readonly kind: 'open';
      readonly disk: string;
      readonly generations: readonly number[];
      readonly unfinished: boolean;
    }
  | { readonly kind: 'open-bitlk'; readonly disk: string; readonly generation: number }
  | { readonly kind: 'adopt'; readonly disk: string }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly detail: string };

/** Whether a volume that is not covered may become so when the UUID in its header is told. */
export function isAdoptable(volume: Pick<ListedVolume, 'notCovered'>): boolean {
  return volume.notCovered === 'AWAITING_ADOPTION' || volume.notCovered === 'DISK_MOVED';
}

/**
 * What to do with one volume now. Formatting destroys, so without a human it needs all of: a blank device, or one that
 * this very agent began to format (`formatting`); no snapshot behind it; no generation ever confirmed; the volume
 * mapped by its serial. A confirmed disk that looks blank is an alarm and never a fresh disk.
 */
export function planVolume(facts: {
  readonly volume: ListedVolume;
  readonly device: DiskDevice | undefined;
  readonly content: DeviceContent | undefined;
  /** This agent began to format the disk, by its own durable record. */
  readonly formatting: boolean;
  readonly order: HumanOrder;
}): VolumePlan {
  const { volume, device, content, formatting, order } = facts;
  if (volume.notCovered !== null && !isAdoptable(volume)) {
    return { kind: 'leave', reason: volume.notCovered };
  }
  if (!device || !content)
    return refuse('DEVICE_MISSING', `no device carries the serial of ${volume.volumeId}`);
  if (volume.notCovered !== null) {
    return content.kind === 'luks' && content.uuid !== undefined
      ? { kind: 'adopt', disk: content.uuid }
      : { kind: 'leave', reason: volume.notCovered };
  }
  const { disk } = volume;
  const usable = volume.generations.filter((g) => g.state === 'active' || g.state === 'issued');
  const newest = usable.at(-1);
  if (disk === null || newest === undefined) return { kind: 'leave', reason: 'KEY_NOT_ISSUED_YET' };
  if (volume.kind === 'bitlk') {
    if (content.kind !== 'bitlk') return refuse('DEVICE_NOT_BITLOCKER', nameOf(content));
    return { kind: 'open-bitlk', disk, generation: newest.generation };
  }
  const ordered = order.format === true && order.replace === nameOf(content);
  const overwritable = !volume.confirmed && (ordered || (formatting && isCutShort(content)));
  const foreign = content.kind === 'luks' && content.uuid !== disk;
  if (content.kind === 'luks' && !(foreign && overwritable)) {
    if (content.uuid === undefined) return refuse('HEADER_UNREADABLE', 'no copy of it is whole');
    if (content.uuid !== disk) return refuse('HEADER_OTHER_DISK', `it is of disk ${content.uuid}`);
    // The active key first: during a rotation the issued one may not be on the disk yet.
    const byState = [...usable].sort((a, b) => Number(a.state === 'issued') - Number(b.state === 'issued'));
    return {
      kind: 'open',
      disk,
      generations: byState.map((g) => g.generation),
      unfinished: !volume.confirmed,
    };
  }
  if (volume.confirmed) {
    if (content.kind === 'blank')
      return refuse('DISK_BLANK_CONFIRMED', 'its key was confirmed, so data was on it');
    // No disk loses exactly its header by itself: somebody wiped it, and the data behind it is still there.
    if (content.kind === 'other' && content.headerIsZero)
      return refuse('DISK_BLANK_CONFIRMED', `its header was wiped; behind it there is ${nameOf(content)}`);
    return refuse('HEADER_UNREADABLE', `in place of the header there is ${nameOf(content)}`);
  }
  if (device.bytes < 2 * HEADER_AREA_BYTES) return refuse('DEVICE_TOO_SMALL', `${device.bytes} bytes`);
  if (volume.fromSnapshot && order.format !== true) {
    return refuse('VOLUME_FROM_SNAPSHOT', 'only a human may format it');
  }
  if (device.mappedBy === 'named' && order.format !== true) {
    return refuse('DEVICE_NOT_BY_SERIAL', `${device.path} is not known to be ${volume.volumeId}`);
  }
  if (content.kind !== 'blank' && !overwritable) {
    return refuse('DEVICE_NOT_BLANK', `it carries ${nameOf(content)}`);
  }
  return { kind: 'format', disk, generation: newest.generation };
}

function refuse(reason: Reason, detail: string): VolumePlan {
  return { kind: 'refuse', reason, detail };
}

/** What a kill in the middle of formatting a blank device can leave: noise, or a header without its UUID. */
function isCutShort(content: DeviceContent): boolean {
  return content.kind === 'luks'
    ? content.uuid === undefined
    : content.kind === 'other' && content.signature === 'data';
}

/** As wipefs(8) names it, and as `--replace` takes it. */
function nameOf(content: DeviceContent): string {
  if (content.kind === 'other') return content.signature;
  return { blank: 'nothing', luks: 'crypto_LUKS', bitlk: 'BitLocker' }[content.kind];
}

/** What the volume's tags ask to have mounted, held to what this machine allows. */
export type MountPlan =
  | { readonly kind: 'none' }
  | { readonly kind: 'mount'; readonly at: string }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly detail: string };

/**
 * Tags are hints from people who may be attackers: a mount point must be below a configured prefix, written in its
 * plain form (no `..`, no doubled slash). Whether it is empty and free of links is the file system's to say.
 */
export function planMount(mountPoint: string | null, prefixes: readonly string[]): MountPlan {
  if (mountPoint === null) return { kind: 'none' };
  const plain =
    /^(\/[A-Za-z0-9_@%+=:,-][A-Za-z0-9._@%+=:,-]*)+$/.test(mountPoint) && mountPoint.length <= 255;
  const below = prefixes.some(
    (prefix) => mountPoint === prefix || mountPoint.startsWith(`${prefix.replace(/\/$/, '')}/`),
  );
  return plain && below
    ? { kind: 'mount', at: mountPoint }
    : { kind: 'refuse', reason: 'MOUNT_POINT_REFUSED', detail: JSON.stringify(mountPoint) };
}

export const FILESYSTEMS = ['ext4', 'xfs'] as const;
export type Filesystem = (typeof FILESYSTEMS)[number];

/** The file system that a fresh disk gets; none when nothing asks for one, for LVM or an image on it. */
export function planFilesystem(
  volume: Pick<ListedVolume, 'filesystem' | 'mountPoint'>,
): Filesystem | undefined | { readonly refused: string } {
  if (volume.filesystem === null) return volume.mountPoint === null ? undefined : 'ext4';
  return FILESYSTEMS.find((each) => each === volume.filesystem) ?? { refused: volume.filesystem };
}
