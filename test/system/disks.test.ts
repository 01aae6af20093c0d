import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { cryptsetup, forge } from '../agent/disks/luks.ts';
import { missingForVms } from './prerequisites.ts';
import { sharedCloud } from './shared-cloud/ask.ts';
import {
  agent,
  type CloudVm,
  launchVm,
  type Site,
  startAgents,
  startInstance,
  startSite,
  stopAgents,
  stopInstance,
} from './site.ts';
import {
  bootToMount,
  close,
  diskItem,
  diskStatus,
  expectClosed,
  HEADER_BYTES,
  headerOf,
  MOUNT,
  MOUNTED,
  mounted,
  open,
  operator,
  plaintextKey,
  SLOW,
  verdict,
  volumeFile,
} from './steps.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

/** By how much an EBS volume grows while its VM is stopped. */
const GROWN_BYTES = 2 ** 30;

let site: Site;
let first: CloudVm;
let vm: Vm;
let volume: string;

beforeAll(async () => {
  if (missing) return;
  site = await startSite(await sharedCloud());
  first = await launchVm(site, { name: 'first', volumes: [MOUNTED] });
  volume = first.volumeIds[0] ?? '';
}, 900_000);
afterAll(async () => {
  await vm?.pullPlug();
  await site?.stop();
}, 60_000);

/** Paths of files that have half a megabyte together, or of one that has more. */
function batchesOf(files: readonly { readonly bytes: number; readonly path: string }[]): string[][] {
  const batches: string[][] = [];
  let left = 0;
  for (const { bytes, path } of files) {
    if (bytes > left || (batches.at(-1)?.length ?? 0) >= 100) {
      batches.push([]);
      left = 512 * 1024;
    }
    batches.at(-1)?.push(path);
    left -= bytes;
  }
  return batches;
}

describe('the first boot', () => {
  let status: Awaited<ReturnType<typeof diskStatus>>;

  inVm(
    `${skipped}enrols, formats, opens and mounts the disk, and says how it stands`,
    async () => {
      vm = await bootToMount(first);
      const [mount = ''] = (await vm.ok(`findmnt -n -o FSTYPE,OPTIONS ${MOUNT}`)).split('\n');
      expect(mount).toMatch(/^ext4 .*\bnosuid,nodev\b/);
      status = await diskStatus(vm);
      expect(status.get(volume)).toMatchObject({
        open: true,
        mountedAt: MOUNT,
        generations: [{ generation: 1, state: 'active' }],
        problem: null,
      });
    },
    2 * SLOW,
  );

  inVm(`${skipped}leaves its root volume alone, and says so`, () => {
    expect(status.get(first.machine.rootVolumeId)).toMatchObject({ notCovered: 'ROOT_VOLUME', open: false });
  });

  inVm(
    `${skipped}has its key in no argument, environment, file, message, item or log`,
    async () => {
      const disk = await diskItem(first, volume);
      const key = await plaintextKey(site, disk, 1);
      const forms = [
        key,
        ...(['base64', 'base64url', 'hex'] as const).map((to) => Buffer.from(key.toString(to))),
      ];
      const holds = (text: Buffer) => forms.some((form) => text.includes(form));
      expect(holds(Buffer.concat([Buffer.from('before'), key]))).toBe(true);

      const { cloud, tap } = site;
      expect(tap.seen.some(({ path }) => path.endsWith('/releases'))).toBe(true);
      expect(tap.seen.some(({ request, answer }) => holds(request) || holds(answer))).toBe(false);
      expect(holds(Buffer.from(JSON.stringify(await cloud.items())))).toBe(false);
      expect(holds(Buffer.from(JSON.stringify(cloud.announced())))).toBe(false);
      for (const log of ['aws.log', 'events.jsonl']) {
        expect(holds(readFileSync(`${cloud.folder}/${log}`))).toBe(false);
      }
      // Inside the VM: what cryptsetup was called with, what is on the root volume, what the agent has in memory
      // that anybody may read.
      expect(await vm.ok('grep -c -- --key-file /var/log/cryptsetup-calls')).not.toBe('0\n');
      const files = (
        await vm.ok(
          `find /var /etc /run /tmp /root -xdev -type f -size -4096k -not -name '*.sh' -printf '%s %p\\n'`,
        )
      )
        .trim()
        .split('\n')
        .map((line) => ({ bytes: Number.parseInt(line, 10), path: line.slice(line.indexOf(' ') + 1) }));
      expect(files.map(({ path }) => path)).toContain('/var/log/cryptsetup-calls');
      // Read after the list was made: what a command says lies in a file of the VM until it is sent, and would be read
      // into itself without end.
      for (const batch of batchesOf(files)) {
        const text = await vm.ok(
          `cat ${batch.map((path) => `'${path}'`).join(' ')} 2>/dev/null | base64 -w0`,
        );
        expect(holds(Buffer.from(text, 'base64'))).toBe(false);
      }
    },
    SLOW,
  );
});

describe('the disk', () => {
  inVm(
    `${skipped}is there again with its data after a hard kill`,
    async () => {
      await vm.pullPlug();
      vm = await first.boot();
      await startAgents(vm);
      await mounted(vm);
      expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}is there again after EC2 stopped and started the VM`,
    async () => {
      await vm.shutDown();
      truncateSync(volumeFile(first.machine), statSync(volumeFile(first.machine)).size + GROWN_BYTES);
      await stopInstance(site, first.instanceId);
      await site.cloud.until(90, async () =>
        (await first.record())?.vm.observation.state === 'stopped' ? undefined : 'not seen as stopped',
      );
      await startInstance(site, first.instanceId);
      vm = await first.boot();
      await startAgents(vm);
      await mounted(vm);
      expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}fills its EBS volume, which grew, when it is told to`,
    async () => {
      const sizes = async () => {
        const text = await vm.ok(
          `blockdev --getsize64 /dev/mapper/casemate-${volume}; findmnt -n -b -o SIZE ${MOUNT}`,
        );
        const [mapping = 0, filesystem = 0] = text.trim().split('\n').map(Number);
        return { mapping, filesystem };
      };
      // A volume that grows is open as large as it was; this one was opened since, as large as it is.
      const key = await plaintextKey(site, await diskItem(first, volume), 1);
      const { mapping } = await sizes();
      await vm.ok(`echo ${key.toString('base64')} | base64 -d |
        cryptsetup resize --size ${(mapping - GROWN_BYTES) / 512} --key-file - casemate-${volume}`);
      const before = await sizes();
      expect(before.mapping).toBe(mapping - GROWN_BYTES);
      await vm.ok(agent(`disk grow ${volume}`), 300);
      const after = await sizes();
      expect(after.mapping).toBe(mapping);
      expect(after.filesystem - before.filesystem).toBeGreaterThan(0.9 * GROWN_BYTES);
      expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
    },
    SLOW,
  );

  inVm(
    `${skipped}stays closed while an operator contains the VM, and opens when that ends`,
    async () => {
      await stopAgents(vm);
      await close(vm, volume);
      await operator(site, 'quarantine', first.instanceId, '--reason', 'a system test');
      expect(await open(vm, volume)).toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
      await expectClosed(vm, volume);
      await operator(site, 'restore', first.instanceId, '--reason', 'it was only a test', '--yes');
      expect(await open(vm, volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    },
    SLOW,
  );

  inVm(
    `${skipped}stays closed while the VM swaps to plain storage, and opens when it does not`,
    async () => {
      await close(vm, volume);
      await vm.ok(`set -e; fallocate -l 64M /swapfile; chmod 600 /swapfile; mkswap -q /swapfile; swapon /swapfile
        ${agent('report')}`);
      await verdict(site, first, 'unproven');
      expect(await open(vm, volume)).toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
      await vm.ok(`set -e; swapoff /swapfile; rm /swapfile; ${agent('report')}`);
      await verdict(site, first, 'compliant');
      expect(await open(vm, volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    },
    SLOW,
  );
});

describe('a header that was tampered with', () => {
  let sound: Buffer;
  const file = () => volumeFile(first.machine);
  const writeHeader = (bytes: Buffer) => {
    const fd = openSync(file(), 'r+');
    writeSync(fd, bytes, 0, bytes.length, 0);
    closeSync(fd);
  };

  beforeAll(async () => {
    if (missing) return;
    await stopAgents(vm);
    await close(vm, volume);
    sound = headerOf(first.machine);
  }, SLOW);
  afterAll(async () => {
    if (missing) return;
    expect(await open(vm, volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
  }, SLOW);

  /** From outside of the VM, as whoever can write the volume does. */
  async function refused(tamper: () => unknown, reason: string, restore: () => unknown): Promise<void> {
    await tamper();
    const tampered = headerOf(first.machine);
    const asked = site.tap.seen.length;
    try {
      await vm.ok(`blockdev --flushbufs $(device-of ${volume})`);
      expect(await open(vm, volume)).toMatchObject({ state: 'failed', reason });
      await expectClosed(vm, volume);
      // It was neither believed far enough to fetch a key, nor repaired or formatted over.
      expect(site.tap.seen.slice(asked).filter(({ path }) => path.endsWith('/releases'))).toEqual([]);
      expect(headerOf(first.machine).equals(tampered)).toBe(true);
    } finally {
      await restore();
      await vm.ok(`blockdev --flushbufs $(device-of ${volume})`);
    }
  }

  const CASES: readonly [string, string, () => unknown][] = [
    [
      'to write in the clear',
      'HEADER_CIPHER',
      () =>
        forge(file(), ({ segments }) =>
          Object.assign(segments['0'] ?? {}, { encryption: 'cipher_null-ecb' }),
        ),
    ],
    [
      'to go on with a re-encryption, even by somebody who has the key',
      'HEADER_REENCRYPTION',
      async () => {
        const key = await plaintextKey(site, await diskItem(first, volume), 1);
        const pbkdf = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
        const begin = ['reencrypt', '--init-only', '--key-slot', '0', ...pbkdf, '--key-file', '-', file()];
        expect(cryptsetup(begin, key)).toMatchObject({ status: 0 });
      },
    ],
    [
      'to carry the token of another tool',
      'HEADER_FOREIGN_TOKEN',
      () => forge(file(), ({ tokens }) => Object.assign(tokens, { 7: { type: 'clevis', keyslots: ['0'] } })),
    ],
    ['by wiping it', 'DISK_BLANK_CONFIRMED', () => writeHeader(Buffer.alloc(HEADER_BYTES))],
  ];
  for (const [how, reason, tamper] of CASES) {
    inVm(
      `${skipped}${how} is refused as ${reason}, without asking for a key`,
      () => refused(tamper, reason, () => writeHeader(sound)),
      SLOW,
    );
  }

  inVm(
    `${skipped}by wiping the whole volume is an alarm, DISK_BLANK_CONFIRMED, and nothing is formatted`,
    async () => {
      const aside = `${file()}.aside`;
      const copy = (from: string, to: string) =>
        promisify(execFile)('cp', ['--sparse=always', '--no-preserve=all', from, to]);
      await copy(file(), aside);
      const { size } = statSync(file());
      const wipe = () => {
        truncateSync(file(), 0); // the file that QEMU has open
        truncateSync(file(), size);
      };
      await refused(wipe, 'DISK_BLANK_CONFIRMED', () => copy(aside, file()));
      rmSync(aside);
    },
    SLOW,
  );
});
