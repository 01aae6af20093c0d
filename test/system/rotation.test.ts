import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { metadata, opens } from '../agent/disks/luks.ts';
import { missingForVms } from './prerequisites.ts';
import { sharedCloud } from './shared-cloud/ask.ts';
import { agent, type CloudVm, launchVm, type Site, startSite, stopAgents } from './site.ts';
import { bootToMount, diskItem, MOUNT, MOUNTED, open, plaintextKey, SLOW, volumeFile } from './steps.ts';
import type { Fate } from './tap.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

// One rotation each: an agent that is killed is started again, goes on with what the one before left, and is killed.
describe('a rotation whose agent is killed', () => {
  let site: Site;
  let cloudVm: CloudVm;
  let vm: Vm;
  let volume: string;

  beforeAll(async () => {
    if (missing) return;
    site = await startSite(await sharedCloud());
    cloudVm = await launchVm(site, { name: 'rotation', volumes: [MOUNTED] });
    volume = cloudVm.volumeIds[0] ?? '';
    vm = await bootToMount(cloudVm);
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
});
