import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { DiskItem } from '../../lib/domain/disk-key.ts';
import { metadata, opens } from '../agent/disks/luks.ts';
import { missingForVms } from './prerequisites.ts';
import { agent, type CloudVm, launchVm, type Site, startAgents, startSite, stopAgents } from './site.ts';
import { diskItem, MOUNT, MOUNTED, mounted, open, plaintextKey, SLOW, volumeFile } from './steps.ts';
import type { Fate } from './tap.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

let site: Site;
let first: CloudVm;
let vm: Vm;
let volume: string;

beforeAll(async () => {
  if (missing) return;
  site = await startSite();
  first = await launchVm(site, { name: 'first', volumes: [MOUNTED] });
  volume = first.volumeIds[0] ?? '';
  vm = await first.boot();
  await startAgents(vm);
  await mounted(vm);
  await vm.ok(`echo kept > ${MOUNT}/file && sync`);
  await stopAgents(vm);
  await vm.ok('watch-cryptsetup');
}, 2 * SLOW);
afterAll(async () => {
  await vm?.pullPlug();
  await site?.stop();
}, 60_000);

describe('a rotation', () => {
  const mutating = ['luksAddKey', 'token', 'luksKillSlot'];

  /** Rotates by hand, with something in the way, until that has killed the agent. */
  async function killedWhile(atStep: string, path?: string, kind?: Fate['kind']): Promise<void> {
    await vm.ok(`rm -f /run/cryptsetup-step; echo '${atStep}' > /run/cryptsetup-kill`);
    if (path && kind) {
      site.tap.fate = (asked) => {
        if (!asked.endsWith(path)) return undefined;
        site.tap.fate = undefined;
        return { kind, meanwhile: async () => void (await vm.run(`kill -9 $(cat /run/rotating.pid)`)) };
      };
    }
    const { status } = await vm.run(
      `set -a; . /etc/casemate/environment
      casemate-agent disk rotate ${volume} > /run/rotating.log 2>&1 & echo $! > /run/rotating.pid
      wait $!`,
      300,
    );
    site.tap.fate = undefined;
    await vm.ok('rm /run/cryptsetup-kill');
    expect(status).toBe(137);
  }

  const highest = (disk: DiskItem) => Math.max(...disk.generations.map((each) => each.generation));

  /** No moment of a rotation may leave a disk that no key of the pipeline opens. */
  async function opensWithAReleasableKey(): Promise<void> {
    const disk = await diskItem(first, volume);
    const usable = disk.generations.filter(({ state }) => state === 'active' || state === 'issued');
    const opening = [];
    for (const { generation } of usable) {
      if (opens(volumeFile(first.machine), await plaintextKey(site, disk, generation)))
        opening.push(generation);
    }
    expect(opening).not.toEqual([]);
  }

  /** What the agent that is started next does without being told. */
  async function settles(): Promise<void> {
    expect(await open(vm, volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    const disk = await diskItem(first, volume);
    const active = disk.generations.filter(({ state }) => state === 'active').map((each) => each.generation);
    expect(active).toEqual([highest(disk)]);
    expect(disk.generations.filter(({ state }) => state === 'issued')).toEqual([]);
    // The key of that generation and one recovery key; nothing of before opens any more.
    const file = volumeFile(first.machine);
    expect(Object.keys(metadata(file).keyslots)).toHaveLength(2);
    for (const { generation, wrappedKey } of disk.generations) {
      if (wrappedKey !== null) {
        expect([generation, opens(file, await plaintextKey(site, disk, generation))]).toEqual([
          generation,
          active.includes(generation),
        ]);
      }
    }
  }

  afterAll(async () => {
    if (missing) return;
    expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
  }, SLOW);

  const requests: readonly [string, string, Fate['kind']][] = [
    ['before the pipeline hears of it', '/rotations', 'lost'],
    ['when the next generation was issued', '/rotations', 'unanswered'],
    ['before it is confirmed', '/confirmations', 'lost'],
    ['when it was confirmed, and nobody said so', '/confirmations', 'unanswered'],
    ['before its header is backed up', '/headers', 'lost'],
  ];
  for (const [when, path, kind] of requests) {
    inVm(
      `${skipped}killed ${when} locks nobody out, and is brought to its end`,
      async () => {
        await killedWhile('', path, kind);
        await opensWithAReleasableKey();
        // Nothing was begun where the pipeline heard of nothing.
        if (path === '/rotations' && kind === 'lost') await vm.ok(agent(`disk rotate ${volume}`), 300);
        await settles();
      },
      2 * SLOW,
    );
  }

  for (const step of [1, 2, 3, 4, 5, 6, 7, 8]) {
    inVm(
      `${skipped}killed after change ${step} of its header (${mutating.join(', ')}) locks nobody out, and is brought to its end`,
      async () => {
        await killedWhile(String(step));
        await opensWithAReleasableKey();
        await settles();
      },
      2 * SLOW,
    );
  }
});
