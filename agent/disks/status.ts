import { styleText } from 'node:util';
import CliTable from 'cli-table3';
import type { DiskListResponse, ListedVolume } from '../../lib/domain/disk-api.ts';
import { planVolume } from '../../lib/domain/disk-plan.ts';
import { REASONS } from '../../lib/domain/reasons.ts';
import { lookAt } from './converge.ts';
import { DiskError } from './error.ts';
import { mountedAt } from './filesystem.ts';
import { readHeader } from './keyslots.ts';
import { isOpen, mappingPath } from './mapping.ts';
import { isUnderWay } from './mark.ts';
import type { DiskParts } from './parts.ts';
import { ToolError } from './tool.ts';

/** One volume, as `disk status --json` prints it. */
export interface VolumeStatus {
  readonly volumeId: string;
  readonly disk: string | null;
  readonly device: string | null;
  readonly notCovered: string | null;
  readonly open: boolean;
  readonly mapping: string | null;
  readonly mountedAt: string | null;
  readonly generations: ListedVolume['generations'];
  /** What the header has, and what its tokens say of it; nobody trusts those. */
  readonly keyslots: readonly { readonly slot: number; readonly holds: string }[];
  readonly rotate: string | null;
  /** Begun on this machine and not ended. */
  readonly underWay: readonly string[];
  readonly problem: { readonly reason: string; readonly message: string } | null;
}

/** Looks, and changes nothing; no key is asked for. */
export async function statusOf(parts: DiskParts, list: DiskListResponse): Promise<VolumeStatus[]> {
  const statuses: VolumeStatus[] = [];
  for (const volume of list.volumes) statuses.push(await statusOfVolume(parts, volume));
  return statuses;
}

async function statusOfVolume(parts: DiskParts, volume: ListedVolume): Promise<VolumeStatus> {
  const { volumeId, disk } = volume;
  const { stateDir } = parts.config;
  let device: string | null = null;
  let open = false;
  let mount: string | null = null;
  let keyslots: VolumeStatus['keyslots'] = [];
  let problem: VolumeStatus['problem'] = null;
  const works = ['formatting', 'rotating', 'reencrypting', 'backing-up'] as const;
  const underWay = disk === null ? [] : works.filter((work) => isUnderWay(stateDir, disk, work));
  try {
    if (volume.notCovered === null) {
      open = isOpen(volumeId, volume.kind === 'bitlk' ? undefined : (disk ?? ''));
      const seen = await lookAt(parts, volumeId);
      device = seen?.device.path ?? null;
      const plan = planVolume({
        volume,
        device: seen?.device,
        content: seen?.content,
        formatting: underWay.includes('formatting'),
        order: {},
      });
      if (plan.kind === 'refuse') throw new DiskError(plan.reason, plan.detail);
      if (seen && plan.kind === 'open') {
        const { copy, keyslots: slots } = await readHeader(parts, {
          volumeId,
          disk: plan.disk,
          device: seen.device,
        });
        copy[Symbol.dispose]();
        keyslots = slots.map(({ slot, claims }) => ({
          slot,
          holds: claims
            ? `${claims.role === 'recovery' ? 'recovery ' : 'key '}${claims.generation}`
            : 'unknown',
        }));
      }
      if (open) mount = (await mountedAt(parts.run, volumeId))?.target ?? null;
    }
  } catch (error) {
    if (error instanceof DiskError) problem = { reason: error.reason, message: error.message };
    else if (error instanceof ToolError) problem = { reason: 'DEVICE_FAILED', message: error.message };
    else throw error;
  }
  return {
    volumeId,
    disk,
    device,
    notCovered: volume.notCovered,
    open,
    mapping: open ? mappingPath(volumeId) : null,
    mountedAt: mount,
    generations: volume.generations,
    keyslots,
    rotate: volume.rotate,
    underWay,
    problem,
  };
}

/** The table for people. */
export function statusTable(statuses: readonly VolumeStatus[], stream: NodeJS.WriteStream): string {
  const paint = (format: 'bold' | 'green' | 'red' | 'dim' | 'yellow', text: string) =>
    styleText(format, text, { stream });
  const table = new CliTable({
    head: ['volume', 'device', 'state', 'keys', 'keyslots'].map((h) => paint('bold', h)),
    style: { head: [], border: [], compact: true },
  });
  for (const each of statuses) {
    const state = each.notCovered
      ? paint('dim', `not covered: ${each.notCovered}`)
      : each.open
        ? paint('green', each.mountedAt ? `open, at ${each.mountedAt}` : 'open')
        : paint('yellow', 'closed');
    table.push([
      `${each.volumeId}\n${paint('dim', each.disk ?? 'no disk')}`,
      each.device ?? '-',
      [state, ...each.underWay.map((work) => paint('yellow', work))].join('\n'),
      each.generations.map((g) => `${g.generation} ${g.state}`).join('\n') || '-',
      each.keyslots.map(({ slot, holds }) => `${slot}: ${holds}`).join('\n') || '-',
    ]);
  }
  const notes = statuses.flatMap(({ volumeId, problem, rotate }) => [
    ...(problem ? [paint('red', `${volumeId}: ${problem.message}`)] : []),
    ...(rotate ? [`${volumeId}: is to be rotated: ${rotate}: ${reasonText(rotate)}`] : []),
  ]);
  return [table.toString(), ...notes].join('\n');
}

function reasonText(reason: string): string {
  return REASONS[reason as keyof typeof REASONS] ?? '';
}
