import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere, writeDurably } from '../state.ts';
import type { RunTool } from './tool.ts';

/** A disk that is to be mounted. */
export interface WantedMount {
  readonly volumeId: string;
  /** Below /dev/mapper. */
  readonly device: string;
  readonly at: string;
  readonly filesystem: string;
}

export interface Systemd {
  /** There while systemd is the init: sd_booted(3). */
  readonly booted: string;
  /** Brings units from the folder into systemd; the packages install it. */
  readonly generator: string;
  /** What the generator copies: there whatever the agent's stateDir, which a generator does not read. */
  readonly mounts: string;
}

export const SYSTEMD: Systemd = {
  booted: '/run/systemd/system',
  generator: '/usr/lib/systemd/system-generators/casemate-mounts',
  mounts: '/var/lib/casemate/mounts',
};

/** Whether mounts are systemd's: also because a service with a view of its own cannot mount for others. */
export function systemdMounts(systemd: Systemd): boolean {
  return existsSync(systemd.booted) && existsSync(systemd.generator);
}

/** In unit files % begins a specifier: systemd.unit(5). */
const literally = (text: string) => text.replaceAll('%', '%%');

/**
 * A mount unit that waits for its device however long: systemd.mount(5). It is nobody's dependency but of those who
 * name it, so that a disk that does not come keeps up nothing else.
 */
export function mountUnit({ volumeId, device, at, filesystem }: WantedMount): string {
  return `# Written by casemate-agent: the tags of ${volumeId} say so.
[Unit]
Description=Casemate: ${volumeId}

[Mount]
What=${literally(device)}
Where=${literally(at)}
Type=${filesystem}
Options=nosuid,nodev,nofail,_netdev
`;
}

/** For the device: by itself systemd gives up on one after 90 s. */
const PATIENCE = `[Unit]
JobRunningTimeoutSec=infinity
`;

/** Mounts by a unit that stays from boot to boot; one of before, for the same device or elsewhere, makes room. */
export async function mountBySystemd(
  run: RunTool,
  mount: WantedMount,
  prepare: (at: string) => void,
  systemd: Systemd = SYSTEMD,
): Promise<void> {
  const unitName = async (path: string, suffix: string) =>
    (await run('systemd-escape', ['--path', `--suffix=${suffix}`, path])).stdout.trim();
  const name = await unitName(mount.at, 'mount');
  const file = join(systemd.mounts, name);
  const text = mountUnit(mount);
  if (readIfThere(file) !== text) {
    // Before the unit is there: with it systemd may mount at any moment, and the directory is empty no more.
    prepare(mount.at);
    forgetMount(mount.volumeId, systemd);
    const patience = join(systemd.mounts, `${await unitName(mount.device, 'device')}.d`);
    mkdirSync(patience, { recursive: true, mode: 0o755 });
    writeDurably(join(patience, '50-casemate.conf'), PATIENCE, 0o644);
    writeDurably(file, text, 0o644);
    await run('systemctl', ['daemon-reload']);
  }
  await run('systemctl', ['start', name], { timeoutSeconds: 300 });
}

/** Removes the units of a volume. */
export function forgetMount(volumeId: string, systemd: Systemd = SYSTEMD): void {
  if (!existsSync(systemd.mounts)) return;
  for (const name of readdirSync(systemd.mounts)) {
    if (!name.endsWith('.mount')) continue;
    const file = join(systemd.mounts, name);
    if (readIfThere(file)?.includes(`\nDescription=Casemate: ${volumeId}\n`)) rmSync(file);
  }
}
