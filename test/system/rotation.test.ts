import { truncateSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { cryptsetup, metadata, opens } from '../agent/disks/luks.ts';
import { missingForVms } from './prerequisites.ts';
import { sharedCloud } from './shared-cloud/ask.ts';
import { agent, type CloudVm, launchVm, type Site, startSite, stopAgents } from './site.ts';
import {
  bootToMount,
  close,
  diskItem,
  MOUNT,
  MOUNTED,
  open,
  operator,
  plaintextKey,
  SLOW,
  volumeFile,
} from './steps.ts';
import type { Fate } from './tap.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

const SMALL_BYTES = 64 * 2 ** 20;
const MAPPING = '/dev/mapper/casemate-';

// One rotation each: an agent that is killed is started again, goes on with what the one before left, and is killed.
describe('a rotation whose agent is killed', () => {
  let site: Site;
  let cloudVm: CloudVm;
  let vm: Vm;
  let volume: string;
  /** Another volume of the VM, of which every sector is written anew in seconds. */
  let small: string;
  let smallFile: string;

  beforeAll(async () => {
    if (missing) return;
    site = await startSite(await sharedCloud());
    cloudVm = await launchVm(site, { name: 'rotation', volumes: [MOUNTED, {}] });
    [volume = '', small = ''] = cloudVm.volumeIds;
    smallFile = cloudVm.machine.volumes[1]?.file ?? '';
    truncateSync(smallFile, SMALL_BYTES);
    vm = await bootToMount(cloudVm);
    await site.cloud.until(120, async () => {
      const [first] = (await diskItem(cloudVm, small)).generations;
      return first?.state === 'active' ? undefined : 'the small disk is not confirmed';
    });
    await stopAgents(vm);
    await vm.ok(agent('report'), 300);
  }, 2 * SLOW);
  afterAll(async () => {
    await vm?.pullPlug();
    await site?.stop();
  }, 60_000);

  /** What the agent is started with: a rotation, or what it does at any start. */
  type Command = `disk rotate ${string}` | `disk open ${string}`;

  /**
   * Runs the agent with something in the way, until that has killed it.
   *
   * @param death after which change of a header, or at which request of its
   */
  async function killed(
    command: Command,
    death: { readonly afterChange: number } | { readonly path: string; readonly kind: Fate['kind'] },
  ): Promise<void> {
    if ('path' in death) {
      site.tap.fate = (asked) => {
        if (!asked.endsWith(death.path)) return undefined;
        site.tap.fate = undefined;
        return {
          kind: death.kind,
          meanwhile: async () => void (await vm.run('kill -9 $(cat /run/agent.pid)')),
        };
      };
    }
    const { status } = await vm.run(
      `set -a; . /etc/casemate/environment
      rm -f /run/cryptsetup-step
      echo '${'afterChange' in death ? death.afterChange : ''}' > /run/cryptsetup-kill
      casemate-agent ${command} > /run/agent.log 2>&1 & echo $! > /run/agent.pid
      wait $!
      status=$?
      rm /run/cryptsetup-kill
      exit $status`,
      300,
    );
    site.tap.fate = undefined;
    if (status !== 137)
      throw new Error(`${command} ended with ${status}: ${await vm.ok('cat /run/agent.log')}`);
  }

  /** No moment of a rotation may leave a disk that no key of the pipeline opens. */
  async function opensWithAReleasableKey(): Promise<void> {
    const disk = await diskItem(cloudVm, volume);
    const usable = disk.generations.filter(({ state }) => state === 'active' || state === 'issued');
    const opening = [];
    for (const { generation } of usable) {
      if (opens(volumeFile(cloudVm.machine), await plaintextKey(site, disk, generation)))
        opening.push(generation);
    }
    expect(opening).not.toEqual([]);
  }

  /** What an agent that nobody kills makes of it, without being told. */
  async function settles(): Promise<void> {
    expect(await open(vm, volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    const disk = await diskItem(cloudVm, volume);
    const highest = Math.max(...disk.generations.map((each) => each.generation));
    const inState = (wanted: string) =>
      disk.generations.filter(({ state }) => state === wanted).map((each) => each.generation);
    expect([inState('active'), inState('issued')]).toEqual([[highest], []]);
    // The key of that generation and one recovery key; nothing of before opens any more.
    const file = volumeFile(cloudVm.machine);
    expect(Object.keys(metadata(file).keyslots)).toHaveLength(2);
    for (const { generation, wrappedKey } of disk.generations) {
      if (wrappedKey === null) continue;
      const opened = opens(file, await plaintextKey(site, disk, generation));
      expect([generation, opened]).toEqual([generation, generation === highest]);
    }
    expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
  }

  const atRequest: readonly [string, string, Fate['kind']][] = [
    ['before the pipeline hears of it', '/rotations', 'lost'],
    ['when the next generation was issued', '/rotations', 'unanswered'],
    ['before it is confirmed', '/confirmations', 'lost'],
    ['when it was confirmed, and nobody said so', '/confirmations', 'unanswered'],
    ['before its header is backed up', '/headers', 'lost'],
  ];
  for (const [when, path, kind] of atRequest) {
    inVm(
      `${skipped}${when} locks nobody out`,
      async () => {
        const command = path === '/rotations' ? 'rotate' : 'open';
        await killed(`disk ${command} ${volume}`, { path, kind });
        await opensWithAReleasableKey();
      },
      SLOW,
    );
  }
  inVm(
    `${skipped}at its requests is brought to its end`,
    async () => {
      await settles();
      // Nobody reports meanwhile, and what was reported grows old.
      await vm.ok(agent('report'), 300);
    },
    SLOW,
  );

  // The new key, its name, a recovery key, its name; then, once confirmed, each old keyslot and its name.
  for (const afterChange of [1, 2, 3, 4, 5, 6, 7]) {
    inVm(
      `${skipped}after change ${afterChange} of its header locks nobody out`,
      async () => {
        const command = afterChange === 1 ? 'rotate' : 'open';
        await killed(`disk ${command} ${volume}`, { afterChange });
        await opensWithAReleasableKey();
      },
      SLOW,
    );
  }
  inVm(`${skipped}at the changes of its header is brought to its end`, settles, SLOW);

  inVm(
    `${skipped}and its power cut while every sector is written anew goes on at the next boot, under another volume key`,
    async () => {
      const volumeKey = () => metadata(smallFile).digests['0']?.['digest'];
      const before = volumeKey();
      const digest = `head -c 16M ${MAPPING}${small} | sha256sum`;
      await vm.ok(`head -c 16M /dev/urandom | dd of=${MAPPING}${small} bs=1M conv=fsync 2> /dev/null`, 300);
      const written = await vm.ok(digest, 300);

      await vm.ok(`(${agent(`disk rotate --reencrypt ${small}`)}) > /run/reencrypt.log 2>&1 &`);
      // A header that is being written cannot be read as JSON now and then.
      const isUnderWay = () =>
        cryptsetup(['luksDump', '--dump-json-metadata', smallFile]).stdout.includes('online-reencrypt');
      // Nothing is asked of the VM meanwhile: its power is to be cut as soon as it is under way.
      await site.cloud.until(120, () => (isUnderWay() ? undefined : 'nothing is re-encrypted'), 100);
      await vm.pullPlug();
      expect(isUnderWay()).toBe(true);

      vm = await cloudVm.boot();
      expect(await open(vm, small)).toMatchObject({ state: 'open' });
      expect(isUnderWay()).toBe(false);
      expect(volumeKey()).not.toBe(before);
      expect(await vm.ok(digest, 300)).toBe(written);
      expect(Object.keys(metadata(smallFile).keyslots)).toHaveLength(2);
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}and whose keyslot was lost opens by the recovery key that an operator is given, which then opens no more`,
    async () => {
      await close(vm, small);
      const { disk } = await diskItem(cloudVm, small);
      const given = await operator(site, 'keys', 'recover', disk, '--reason', 'its keyslot is lost');
      const recoveryKey = Buffer.from(given.trim());
      const named = Object.values(metadata(smallFile).tokens).filter(({ role }) => role === 'disk-key');
      const [slot = '', ...more] = new Set(named.flatMap(({ keyslots }) => keyslots as string[]));
      expect(more).toEqual([]);
      const kill = cryptsetup(['luksKillSlot', '--key-file', '-', smallFile, slot], recoveryKey);
      expect(kill).toMatchObject({ status: 0 });
      await vm.ok(`blockdev --flushbufs $(device-of ${small})`);
      expect(await open(vm, small)).toMatchObject({ state: 'failed', reason: 'KEY_DOES_NOT_OPEN' });

      await vm.ok(`echo ${recoveryKey} | (${agent(`disk recover ${small}`)})`, 300);
      await vm.ok(`test -e ${MAPPING}${small}`);
      await close(vm, small);
      expect(await open(vm, small)).toMatchObject({ state: 'open' });
      expect(opens(smallFile, recoveryKey)).toBe(false);
    },
    SLOW,
  );
});
