import { existsSync, mkdirSync, readdirSync, realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import * as z from 'zod';
import type { ListedVolume } from '../../lib/domain/disk-api.ts';
import { FILESYSTEMS, type Filesystem, planFilesystem, planMount } from '../../lib/domain/disk-plan.ts';
import { signaturesOf } from './device.ts';
import { DiskError } from './error.ts';
import { mappingPath } from './mapping.ts';
import { mountBySystemd, SYSTEMD, systemdMounts } from './mount-unit.ts';
import { whileWaiting } from './progress.ts';
import { type RunTool, ToolError } from './tool.ts';

type Wishes = Pick<ListedVolume, 'volumeId' | 'filesystem' | 'mountPoint'>;

/** The file system to make on a fresh disk; undefined: none. @throws DiskError */
export function wantedFilesystem(volume: Wishes): Filesystem | undefined {
  const plan = planFilesystem(volume);
  if (typeof plan === 'object') throw new DiskError('FILESYSTEM_REFUSED', plan.refused);
  return plan;
}

/** Makes a file system on an opened disk that was never confirmed, so that nothing can be on it. */
export async function makeFilesystem(run: RunTool, device: string, filesystem: Filesystem): Promise<void> {
  const quietly = { ext4: ['-q', '-F'], xfs: ['-q', '-f'] }[filesystem];
  await whileWaiting(`making ${filesystem} on ${device}`, process.stderr, () =>
    tool(run, `mkfs.${filesystem}`, [...quietly, device], 30 * 60),
  );
}

const mounts = z.looseObject({
  filesystems: z.array(z.looseObject({ target: z.string(), fstype: z.string() })),
});

/** Where an opened volume is mounted; undefined when nowhere. */
export async function mountedAt(run: RunTool, volumeId: string) {
  const { code, stdout } = await run('findmnt', ['--json', '--source', mappingPath(volumeId)], {
    answers: [0, 1],
  });
  return code === 0 ? mounts.parse(JSON.parse(stdout)).filesystems[0] : undefined;
}

/**
 * Mounts an opened disk where its tag asks, within what this machine allows: below a prefix, on an empty directory
 * that no link leads to, `nosuid,nodev`.
 *
 * @returns where it is mounted; undefined when nothing asks for it
 * @throws DiskError
 */
export async function mountDisk(
  run: RunTool,
  volume: Wishes,
  prefixes: readonly string[],
): Promise<string | undefined> {
  const mounted = await mountedAt(run, volume.volumeId);
  if (mounted) return mounted.target;
  const plan = planMount(volume.mountPoint, prefixes);
  if (plan.kind === 'none') return undefined;
  if (plan.kind === 'refuse') throw new DiskError(plan.reason, plan.detail);
  const device = mappingPath(volume.volumeId);
  const found = (await signaturesOf(run, device)).map((each) => each.type);
  const filesystem = FILESYSTEMS.find((each) => found.includes(each));
  const wanted = wantedFilesystem(volume);
  if (filesystem === undefined || (volume.filesystem !== null && filesystem !== wanted)) {
    throw new DiskError('FILESYSTEM_UNEXPECTED', `${device} carries ${found.join(', ') || 'none'}`);
  }
  if (systemdMounts(SYSTEMD)) {
    const wantedMount = { volumeId: volume.volumeId, device, at: plan.at, filesystem };
    await failing(() => mountBySystemd(run, wantedMount, prepareMountPoint));
  } else {
    prepareMountPoint(plan.at);
    await tool(run, 'mount', ['-t', filesystem, '-o', 'nosuid,nodev', device, plan.at], 300);
  }
  return plan.at;
}

/** Makes the directory; refuses a link on the way, and one with something in it that a mount would hide. */
export function prepareMountPoint(path: string): void {
  let ancestor = path;
  while (!existsSync(ancestor)) ancestor = dirname(ancestor);
  if (realpathSync(ancestor) !== ancestor) {
    throw new DiskError('MOUNT_POINT_REFUSED', `${ancestor} is a link`);
  }
  mkdirSync(path, { recursive: true, mode: 0o755 });
  if (readdirSync(path).length > 0) throw new DiskError('MOUNT_POINT_REFUSED', `${path} is not empty`);
}

export async function unmount(run: RunTool, target: string): Promise<void> {
  await tool(run, 'umount', [target], 300);
}

/** Lets the file system of an opened disk fill it. */
export async function growFilesystem(run: RunTool, volumeId: string): Promise<void> {
  const device = mappingPath(volumeId);
  const found = (await signaturesOf(run, device)).map((each) => each.type);
  const grow = (name: string, target: string) =>
    whileWaiting(`growing the file system on ${device}`, process.stderr, () =>
      tool(run, name, [target], 30 * 60),
    );
  if (found.includes('ext4')) await grow('resize2fs', device);
  else if (found.includes('xfs')) {
    const mounted = await mountedAt(run, volumeId);
    if (!mounted) throw new DiskError('FILESYSTEM_UNEXPECTED', 'xfs grows only while it is mounted');
    await grow('xfs_growfs', mounted.target);
  }
}

function tool(run: RunTool, name: string, args: string[], timeoutSeconds: number): Promise<void> {
  return failing(async () => {
    await run(name, args, { timeoutSeconds });
  });
}

async function failing(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    throw new DiskError('DEVICE_FAILED', error.message, { cause: error });
  }
}
