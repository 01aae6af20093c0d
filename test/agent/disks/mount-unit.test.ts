import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  forgetMount,
  mountBySystemd,
  mountUnit,
  type Systemd,
  systemdMounts,
} from '../../../agent/disks/mount-unit.ts';
import { type RunTool, runTool } from '../../../agent/disks/tool.ts';
import { temporaryFolder } from '../harness.ts';
import { describeWithMounts, mountTmpfs, unmount } from '../mounts.ts';

const GENERATOR = fileURLToPath(new URL('../../../packaging/casemate-mounts.sh', import.meta.url));
const hasSystemd = existsSync('/usr/bin/systemd-escape') && existsSync('/usr/bin/systemd-analyze');
const suite = hasSystemd ? describe : describe.skip;

const VOLUME = 'vol-0123456789abcdef0';
const mount = {
  volumeId: VOLUME,
  device: `/dev/mapper/casemate-${VOLUME}`,
  at: '/srv/data-100%',
  filesystem: 'ext4',
};
const UNIT = 'srv-data\\x2d100\\x25.mount';

let folder: ReturnType<typeof temporaryFolder>;
let systemd: Systemd;
beforeEach(() => {
  folder = temporaryFolder();
  systemd = {
    booted: join(folder.path, 'booted'),
    generator: join(folder.path, 'generator'),
    mounts: join(folder.path, 'mounts'),
  };
});
afterEach(() => folder.remove());

/** The real tools, but for the init that this machine may not have. */
function withoutInit() {
  const asked: string[] = [];
  const run: RunTool = (tool, args, options) => {
    if (tool !== 'systemctl') return runTool(tool, args, options);
    asked.push([...args].join(' '));
    return Promise.resolve({ code: 0, stdout: '', stderr: '' });
  };
  return { run, asked };
}

test('mounts are systemd’s only where it is the init and the package is installed', () => {
  expect(systemdMounts(systemd)).toBe(false);
  mkdirSync(systemd.booted);
  expect(systemdMounts(systemd)).toBe(false);
  writeFileSync(systemd.generator, '');
  expect(systemdMounts(systemd)).toBe(true);
});

suite(`mounting by systemd${hasSystemd ? '' : ' (skipped: systemd is not on this machine)'}`, () => {
  test('writes the unit once, and starts it each time', async () => {
    const { run, asked } = withoutInit();
    const prepared: string[] = [];
    const mounting = () => mountBySystemd(run, mount, (at) => prepared.push(at), systemd);
    await mounting();
    expect(asked).toEqual(['daemon-reload', `start ${UNIT}`]);
    expect(readFileSync(join(systemd.mounts, UNIT), 'utf8')).toBe(mountUnit(mount));
    await mounting();
    expect(asked.slice(2)).toEqual([`start ${UNIT}`]);
    // A second look at the directory would find what is mounted there.
    expect(prepared).toEqual([mount.at]);
  });

  test('moves a volume whose tag changed, and leaves other volumes alone', async () => {
    const { run } = withoutInit();
    const other = { ...mount, volumeId: 'vol-1', device: '/dev/mapper/casemate-vol-1', at: '/srv/other' };
    await mountBySystemd(run, mount, () => undefined, systemd);
    await mountBySystemd(run, other, () => undefined, systemd);
    await mountBySystemd(run, { ...mount, at: '/mnt/new' }, () => undefined, systemd);
    const units = () => readdirSync(systemd.mounts).filter((name) => name.endsWith('.mount'));
    expect(units().sort()).toEqual(['mnt-new.mount', 'srv-other.mount']);
    forgetMount(VOLUME, systemd);
    expect(units()).toEqual(['srv-other.mount']);
  });

  test('makes no unit where the mount point was refused', async () => {
    const { run, asked } = withoutInit();
    const refuse = () => {
      throw new Error('not empty');
    };
    await expect(mountBySystemd(run, mount, refuse, systemd)).rejects.toThrow('not empty');
    expect([asked, existsSync(systemd.mounts)]).toEqual([[], false]);
  });

  test('the generator gives systemd units that it finds nothing wrong with', async () => {
    const { run } = withoutInit();
    await mountBySystemd(run, mount, () => undefined, systemd);
    const generated = join(folder.path, 'generated');
    mkdirSync(generated);
    const script = readFileSync(GENERATOR, 'utf8').replaceAll('/var/lib/casemate/mounts', systemd.mounts);
    expect(spawnSync('sh', ['-c', script, 'generator', generated]).status).toBe(0);
    const verified = spawnSync('systemd-analyze', ['verify', '--man=no', join(generated, UNIT)], {
      encoding: 'utf8',
    });
    expect([verified.status, verified.stderr]).toEqual([0, '']);
    const patience = join(
      generated,
      `dev-mapper-casemate\\x2dvol\\x2d0123456789abcdef0.device.d/50-casemate.conf`,
    );
    expect(readFileSync(patience, 'utf8')).toContain('JobRunningTimeoutSec=infinity');
  });
});

const packaging = (name: string) => fileURLToPath(new URL(`../../../packaging/${name}`, import.meta.url));

suite(`waiting for a mount${hasSystemd ? '' : ' (skipped: systemd is not on this machine)'}`, () => {
  test('has a unit that systemd finds nothing wrong with, and a consumer that requires it', () => {
    const unit = readFileSync(packaging('systemd/casemate-mounted@.service'), 'utf8')
      // The program that the package installs, and units that this machine has not.
      .replace('/usr/lib/casemate/bin/casemate-mounted', packaging('casemate-mounted.sh'))
      .replace('Wants=casemate-disks.service\n', '');
    writeFileSync(join(folder.path, 'casemate-mounted@.service'), unit);
    const consumer = join(folder.path, 'consumer.service');
    const documented = /```\n(\[Unit\]\nRequiresMountsFor=[^`]+)```/.exec(
      readFileSync(fileURLToPath(new URL('../../../docs/disks.md', import.meta.url)), 'utf8'),
    )?.[1];
    expect(documented).toContain('After=casemate-mounted@srv-data.service');
    writeFileSync(consumer, `${documented}\n[Service]\nExecStart=/bin/true\n`);
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', consumer], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'], SYSTEMD_UNIT_PATH: `${folder.path}:` },
    });
    expect([status, stderr]).toEqual([0, '']);
  });
});

describeWithMounts('what waits for a mount', () => {
  test('ends when a disk of Casemate’s is mounted, and not for another file system', async () => {
    const at = join(folder.path, 'data');
    mkdirSync(at);
    const child = spawn('sh', [packaging('casemate-mounted.sh'), at], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const ended = once(child, 'close');
    try {
      expect(mountTmpfs(at, 'size=64k', '/dev/mapper/other')).toBe(true);
      await sleep(1500);
      expect([child.exitCode, said]).toEqual([null, `casemate: waiting for the disk of ${at}\n`]);
      unmount(at);
      expect(mountTmpfs(at, 'size=64k', `/dev/mapper/casemate-${VOLUME}`)).toBe(true);
      await expect(ended).resolves.toEqual([0, null]);
    } finally {
      child.kill();
      unmount(at);
    }
  });
});
