import type { DiskListResponse, ListedVolume } from '../../lib/domain/disk-api.ts';
import {
  type DeviceContent,
  type DiskDevice,
  type HumanOrder,
  isAdoptable,
  planVolume,
  type VolumePlan,
} from '../../lib/domain/disk-plan.ts';
import { RefusedError } from '../api.ts';
import type { SecureMemory } from '../secure-memory.ts';
import { contentOf, findDevice } from './device.ts';
import { DiskError } from './error.ts';
import { openSecret } from './escrow.ts';
import { mountDisk } from './filesystem.ts';
import { type FirstTime, finishFormat, writeHeader } from './format.ts';
import { backUpHeaderIfDue, readHeader } from './keyslots.ts';
import { isOpen, mappingName } from './mapping.ts';
import { isUnderWay } from './mark.ts';
import type { DiskOnDevice, DiskParts } from './parts.ts';
import { type ReleasedKey, releaseKey, requestAdoption } from './pipeline.ts';
import { createProgress } from './progress.ts';
import { planRotation, reencrypt, rotateKey, settleKeyslots } from './rotate.ts';
import { ToolError } from './tool.ts';

/** How it stands with one volume after a pass. */
export interface VolumeOutcome {
  readonly volumeId: string;
  readonly disk: string | null;
  readonly device: string | null;
  /**
   * `open`: mapped, and mounted where its tag says. `proven`: a file stands for it, and its key opens that. `left`:
   * Casemate has nothing to do with it. `refused`: the pipeline does not release its key. `failed`: see `reason`.
   */
  readonly state: 'open' | 'proven' | 'left' | 'refused' | 'failed';
  readonly mountedAt: string | null;
  readonly reason: string | null;
  readonly message: string | null;
}

/** Looks at the device of a volume. Undefined when this machine has none. */
export async function lookAt(
  parts: DiskParts,
  volumeId: string,
  named?: DiskDevice,
): Promise<{ readonly device: DiskDevice; readonly content: DeviceContent } | undefined> {
  const device = named ?? findDevice(volumeId, parts.config.devices);
  if (!device) return undefined;
  return { device, content: await contentOf(parts.run, device) };
}

/**
 * Brings one volume to where it should be: formatted, opened, confirmed, mounted, rotated. What is there already is
 * left as it is.
 */
export async function convergeVolume(
  parts: DiskParts,
  list: DiskListResponse,
  volume: ListedVolume,
  order: HumanOrder & { readonly device?: DiskDevice | undefined } = {},
): Promise<VolumeOutcome> {
  const { volumeId } = volume;
  let device: DiskDevice | undefined;
  const outcome = (
    state: VolumeOutcome['state'],
    more: Partial<Pick<VolumeOutcome, 'mountedAt' | 'reason' | 'message'>> = {},
  ): VolumeOutcome => ({
    volumeId,
    disk: volume.disk,
    device: device?.path ?? null,
    state,
    mountedAt: null,
    reason: null,
    message: null,
    ...more,
  });
  try {
    if (isSettled(parts, volume)) {
      device = order.device ?? findDevice(volumeId, parts.config.devices);
      await sendWhatIsOwed(parts, volume, device);
      if (device?.mappedBy === 'file') return outcome('proven');
      const mountedAt = await mountDisk(parts.run, volume, parts.config.mountPrefixes);
      return outcome('open', { mountedAt: mountedAt ?? null });
    }
    const seen =
      volume.notCovered === null || isAdoptable(volume)
        ? await lookAt(parts, volumeId, order.device)
        : undefined;
    device = seen?.device;
    const plan = planVolume({
      volume,
      device,
      content: seen?.content,
      formatting: volume.disk !== null && isUnderWay(parts.config.stateDir, volume.disk, 'formatting'),
      order,
    });
    if (plan.kind === 'refuse') throw new DiskError(plan.reason, plan.detail);
    if (plan.kind === 'leave') return outcome('left', { reason: plan.reason });
    if (plan.kind === 'adopt') return await adopt(parts, volume, plan.disk, outcome);
    if (!device) throw new TypeError(`a plan to ${plan.kind} without a device`);
    const on: DiskOnDevice = { volumeId, disk: plan.disk, device };
    await carryOut(parts, list, volume, on, plan);
    if (device.mappedBy === 'file') return outcome('proven');
    const mountedAt = await mountDisk(parts.run, volume, parts.config.mountPrefixes);
    return outcome('open', { mountedAt: mountedAt ?? null });
  } catch (error) {
    if (error instanceof RefusedError) {
      return outcome('refused', { reason: error.reason, message: error.message });
    }
    if (error instanceof DiskError)
      return outcome('failed', { reason: error.reason, message: error.message });
    if (error instanceof ToolError) {
      return outcome('failed', { reason: 'DEVICE_FAILED', message: error.message });
    }
    throw error;
  }
}

/** A header backup that could not be sent when the header changed. */
async function sendWhatIsOwed(
  parts: DiskParts,
  { volumeId, disk, generations }: ListedVolume,
  device: DiskDevice | undefined,
): Promise<void> {
  const active = generations.findLast((g) => g.state === 'active');
  if (disk === null || !device || !active) return;
  await backUpHeaderIfDue(parts, { volumeId, disk, device }, active.generation);
}

/** Open, or proven, with its active key, and nothing left to do: neither its device nor its key is touched again. */
function isSettled(parts: DiskParts, { volumeId, disk, ...volume }: ListedVolume): boolean {
  if (volume.notCovered !== null || disk === null || !volume.confirmed) return false;
  if (volume.kind === 'bitlk') return isOpen(volumeId, undefined) || parts.proven.has(volumeId);
  if (pendingWork(parts, { volumeId, disk, ...volume }, disk) !== undefined) return false;
  return isOpen(volumeId, disk) || parts.proven.has(volumeId);
}

async function adopt(
  parts: DiskParts,
  volume: ListedVolume,
  disk: string,
  outcome: (state: 'left', more: { reason: string; message: string }) => VolumeOutcome,
): Promise<VolumeOutcome> {
  await requestAdoption(parts, disk, volume.volumeId);
  // What became of it is in the next list.
  return outcome('left', {
    reason: volume.notCovered ?? 'AWAITING_ADOPTION',
    message: `asked to adopt disk ${disk}`,
  });
}

async function carryOut(
  parts: DiskParts,
  list: DiskListResponse,
  volume: ListedVolume,
  on: DiskOnDevice,
  plan: Extract<VolumePlan, { kind: 'format' | 'open' | 'open-bitlk' }>,
): Promise<void> {
  const { recoveryPublicKey } = list;
  if (plan.kind === 'open-bitlk') return openBitlk(parts, on, plan.generation);
  if (plan.kind === 'format') {
    const first: FirstTime = { volume, on, generation: plan.generation, recoveryPublicKey };
    using released = await releaseKey(parts, on.disk, plan.generation);
    await writeHeader(parts, first, released.key);
    const slot = await mapFresh(parts, on, released.key, plan.generation);
    await finishFormat(parts, first, released.key, slot);
    return remember(parts, on);
  }
  const work = pendingWork(parts, volume, on.disk);
  const { generation, released, slot } = await openWithOne(parts, on, plan.generations);
  using _ = released;
  if (slot === undefined) {
    // Its header was cut short by a kill: nothing is in it, for a disk is mounted after its confirmation.
    if (!plan.unfinished || !isUnderWay(parts.config.stateDir, on.disk, 'formatting')) {
      throw new DiskError(
        'KEY_DOES_NOT_OPEN',
        `disk ${on.disk} with generation ${plan.generations.join(', ')}`,
      );
    }
    await writeHeader(parts, { volume, on, generation, recoveryPublicKey }, released.key);
  }
  if (plan.unfinished) {
    const opened = slot ?? (await mapFresh(parts, on, released.key, generation));
    await finishFormat(parts, { volume, on, generation, recoveryPublicKey }, released.key, opened);
    return remember(parts, on);
  }
  if (work === 'reencrypting') {
    const progress = createProgress(`${on.volumeId}: re-encrypting`, process.stderr);
    await reencrypt(parts, on, generation, recoveryPublicKey, progress);
  } else if (work === 'rotating') {
    await rotateKey(parts, on, volume.generations, recoveryPublicKey);
  } else if (work === 'settling') {
    await settleKeyslots(parts, on, generation, released.key, recoveryPublicKey);
  }
  await backUpHeaderIfDue(parts, on, generation);
  remember(parts, on);
}

type Work = 'reencrypting' | 'rotating' | 'settling';

/** What there is to do on a disk that opens: what was begun before what is asked for. */
function pendingWork(parts: DiskParts, volume: ListedVolume, disk: string): Work | undefined {
  const { stateDir } = parts.config;
  if (isUnderWay(stateDir, disk, 'reencrypting')) return 'reencrypting';
  const rotation = planRotation(volume.generations);
  if (rotation && (volume.rotate !== null || !rotation.ask)) return 'rotating';
  if (isUnderWay(stateDir, disk, 'rotating')) return 'settling';
  return undefined;
}

type Header = Awaited<ReturnType<typeof readHeader>>;

/**
 * Maps the disk with the first generation that opens it. The header is judged before a key is asked for. `slot` is
 * undefined when no generation opens it.
 */
async function openWithOne(
  parts: DiskParts,
  on: DiskOnDevice,
  generations: readonly number[],
): Promise<{ generation: number; released: ReleasedKey; slot: number | undefined }> {
  const header = await readOrCutShort(parts, on);
  using _ = header?.copy;
  for (const [i, generation] of generations.entries()) {
    const released = await releaseKey(parts, on.disk, generation);
    try {
      // Without a keyslot there is nothing to try, which cryptsetup takes for a wrong device.
      const slot = header?.keyslots.length ? await mapDisk(parts, on, header, released.key) : undefined;
      if (slot !== undefined || i === generations.length - 1) return { generation, released, slot };
    } catch (error) {
      released[Symbol.dispose]();
      throw error;
    }
    released[Symbol.dispose]();
  }
  throw new TypeError('a plan to open without a generation');
}

/** The judged header; undefined when this agent was killed while it wrote it. */
async function readOrCutShort(parts: DiskParts, on: DiskOnDevice): Promise<Header | undefined> {
  try {
    return await readHeader(parts, on);
  } catch (error) {
    const unreadable = error instanceof DiskError && error.reason === 'HEADER_UNREADABLE';
    if (unreadable && isUnderWay(parts.config.stateDir, on.disk, 'formatting')) return undefined;
    throw error;
  }
}

/**
 * Opens the disk by a judged copy of its header, if it is not open, and says which keyslot the key opens; undefined
 * when none. While a re-encryption of ours goes on its header changes under the copy, so that the device's own is
 * used: its state is bound to the volume key by then.
 */
async function mapDisk(
  parts: DiskParts,
  on: DiskOnDevice,
  { copy, reencrypting }: Header,
  key: SecureMemory,
): Promise<number | undefined> {
  if (on.device.mappedBy === 'file' || isOpen(on.volumeId, on.disk)) {
    return parts.cryptsetup.keyslotOf(on.device.path, copy.path, key);
  }
  return parts.cryptsetup.open(
    {
      device: on.device.path,
      header: reencrypting ? undefined : copy.path,
      name: mappingName(on.volumeId),
      discards: parts.config.discards,
    },
    key,
  );
}

/** Opens what was just formatted. */
async function mapFresh(
  parts: DiskParts,
  on: DiskOnDevice,
  key: SecureMemory,
  generation: number,
): Promise<number> {
  const header = await readHeader(parts, on);
  using _ = header.copy;
  const slot = await mapDisk(parts, on, header, key);
  if (slot === undefined)
    throw new DiskError('KEY_DOES_NOT_OPEN', `generation ${generation}, just formatted with it`);
  return slot;
}

async function openBitlk(parts: DiskParts, on: DiskOnDevice, generation: number): Promise<void> {
  using released = await releaseKey(parts, on.disk, generation);
  if (released.escrow === null) {
    throw new DiskError('SECRET_NOT_ESCROWED', `${on.volumeId} is a BitLocker volume`);
  }
  using secret = openSecret(released.escrow, released.key, on.disk, generation);
  const { cryptsetup } = parts;
  // Opening is the proof, and each costs the whole of the key derivation.
  const opened =
    on.device.mappedBy === 'file'
      ? await cryptsetup.provesBitlk(on.device.path, secret)
      : await cryptsetup.openBitlk(on.device.path, mappingName(on.volumeId), secret);
  if (!opened)
    throw new DiskError('KEY_DOES_NOT_OPEN', 'the escrowed secret does not open the BitLocker volume');
  remember(parts, on);
}

/** A file is never open, so that its proof is remembered: a key is not released again at every pass. */
function remember(parts: DiskParts, on: DiskOnDevice): void {
  if (on.device.mappedBy === 'file') parts.proven.add(on.volumeId);
}

/** One volume after the other: each takes all of the machine's hashing and writing anyway. */
export async function convergeAll(parts: DiskParts, list: DiskListResponse): Promise<VolumeOutcome[]> {
  const outcomes: VolumeOutcome[] = [];
  for (const volume of list.volumes) outcomes.push(await convergeVolume(parts, list, volume));
  return outcomes;
}
