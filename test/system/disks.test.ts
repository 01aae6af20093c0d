import { execFile } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { DecryptCommand, KMSClient } from '@aws-sdk/client-kms';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createApi, RefusedError } from '../../agent/api.ts';
import type { VolumeOutcome } from '../../agent/disks/converge.ts';
import { type Caller, releaseKey } from '../../agent/disks/pipeline.ts';
import type { VolumeStatus } from '../../agent/disks/status.ts';
import { loadOrCreateKey } from '../../agent/key.ts';
import { ACCOUNT, awsEnvironment, CREDENTIALS, REGION } from '../../bin/local/emulators.ts';
import { runToEnd } from '../../bin/local/process.ts';
import type { DiskItem } from '../../lib/domain/disk-key.ts';
import { probeResult } from '../../lib/domain/fact.ts';
import { cryptsetup, forge, opens } from '../agent/disks/luks.ts';
import { findBitLocker } from './bitlocker.ts';
import { missingForVms } from './prerequisites.ts';
import {
  agent,
  type CloudVm,
  launchVm,
  reachPipeline,
  type Site,
  startAgents,
  startInstance,
  startSite,
  stopAgents,
  stopInstance,
} from './site.ts';
import type { Fate } from './tap.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

const MOUNT = '/srv/data';
const MOUNTED = { 'casemate:mount': MOUNT, 'casemate:filesystem': 'ext4' };
/** Where the data of a disk begins; all before it is header. */
const HEADER_BYTES = 16 * 2 ** 20;
/** A step of a VM on a machine with other work. */
const SLOW = 600_000;

let site: Site;
let first: CloudVm;
let vm: Vm;
let volume: string;

beforeAll(async () => {
  if (missing) return;
  site = await startSite();
  first = await launchVm(site, { name: 'first', volumes: [MOUNTED] });
  volume = first.volumeIds[0] ?? '';
}, 900_000);
afterAll(async () => {
  await vm?.pullPlug();
  await site?.stop();
}, 60_000);

/** Waits in the VM until a command succeeds; its log explains when it does not. */
async function eventually(command: string, seconds = 120): Promise<void> {
  const wait = `for try in $(seq ${seconds}); do ${command} > /dev/null 2>&1 && exit 0; sleep 1; done
    tail -n 9 /var/log/disks.log; tail -n 9 /var/log/agent.log
    journalctl --no-pager -n 20 -u 'casemate-*' 2> /dev/null; exit 1`;
  await vm.ok(wait, 2 * seconds + 60);
}

const mounted = () => eventually(`findmnt ${MOUNT}`);

async function statusOf(volumeId: string): Promise<VolumeStatus> {
  // It ends with 1 where a volume has a problem.
  const { stdout, stderr } = await vm.run(agent('disk status --json'), 300);
  if (stdout === '') throw new Error(stderr);
  const found = (JSON.parse(stdout) as VolumeStatus[]).find((each) => each.volumeId === volumeId);
  if (!found) throw new Error(`no status of ${volumeId}: ${stdout}`);
  return found;
}

/** Opens one volume by hand. */
async function open(volumeId: string): Promise<VolumeOutcome> {
  const { stdout, stderr } = await vm.run(agent(`disk open ${volumeId} --json`), 300);
  if (stdout === '') throw new Error(stderr);
  const [outcome] = JSON.parse(stdout) as VolumeOutcome[];
  if (!outcome) throw new Error(`no outcome for ${volumeId}`);
  return outcome;
}

const close = (volumeId: string) =>
  vm.ok(`test ! -e /dev/mapper/casemate-${volumeId} || (${agent(`disk close ${volumeId}`)})`, 300);

/** The header area of a volume, as it is on the volume itself. */
function headerOf(cloudVm: CloudVm): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  const fd = openSync(cloudVm.machine.volumes[0]?.file ?? '', 'r');
  readSync(fd, header, 0, HEADER_BYTES, 0);
  closeSync(fd);
  return header;
}

async function diskItem(cloudVm: CloudVm, volumeId: string): Promise<DiskItem> {
  const item = (await cloudVm.record())?.disks.get(volumeId);
  if (!item) throw new Error(`the pipeline knows no disk of ${volumeId}`);
  return item;
}

/** The very key, as only the key service can say it. */
async function plaintextKey(disk: DiskItem, generation: number): Promise<Buffer> {
  const kms = new KMSClient({ endpoint: site.cloud.emulators.aws, region: REGION, credentials: CREDENTIALS });
  const wrapped = disk.generations.find((each) => each.generation === generation);
  const { Plaintext } = await kms.send(
    new DecryptCommand({
      CiphertextBlob: Buffer.from(wrapped?.wrappedKey ?? '', 'base64'),
      EncryptionContext: {
        'casemate:disk': disk.disk,
        'casemate:generation': String(generation),
        'casemate:vm': wrapped?.wrappedFor ?? '',
      },
    }),
  );
  kms.destroy();
  if (Plaintext?.length !== 64) throw new Error('KMS gave no key of 64 bytes');
  return Buffer.from(Plaintext);
}

/** An operator's command. */
async function operator(...args: string[]): Promise<void> {
  const { cloud, folder } = site;
  await runToEnd([process.execPath, 'bin/casemate-cli.js', ...args], {
    log: `${folder}/operator.log`,
    env: awsEnvironment(cloud.emulators),
  });
}

describe('the first boot', () => {
  inVm(
    `${skipped}waits for a pipeline that is away, says so, and opens the disk once it is back`,
    async () => {
      vm = await first.boot({ pipelineAway: true });
      // Whatever runs cryptsetup from now on is written down with its arguments and its environment.
      await vm.ok('watch-cryptsetup');
      await startAgents(vm);
      await eventually('grep "waiting for disks.*does not answer" /var/log/disks.log');
      expect((await vm.run(`findmnt ${MOUNT}`)).status).toBe(1);
      await reachPipeline(vm, site);
      await mounted();
      const [mount = ''] = (await vm.ok(`findmnt -n -o FSTYPE,OPTIONS ${MOUNT}`)).split('\n');
      expect(mount).toMatch(/^ext4 .*\bnosuid,nodev\b/);
      await vm.ok(`echo kept > ${MOUNT}/file && sync`);
      expect(await statusOf(volume)).toMatchObject({
        open: true,
        mountedAt: MOUNT,
        generations: [{ generation: 1, state: 'active' }],
        problem: null,
      });
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}leaves its root volume alone, and says so`,
    async () => {
      expect(await statusOf(first.machine.rootVolumeId)).toMatchObject({
        notCovered: 'ROOT_VOLUME',
        open: false,
      });
    },
    SLOW,
  );

  inVm(
    `${skipped}has its key in no argument, environment, file, message, item or log`,
    async () => {
      const disk = await diskItem(first, volume);
      const key = await plaintextKey(disk, 1);
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
      const files = await vm.ok(
        `find /var /etc /run /tmp /root -xdev -type f -size -4096k -not -name '*.sh' -exec base64 -w0 {} \\; -exec echo \\;`,
        240,
      );
      for (const line of files.split('\n')) expect(holds(Buffer.from(line, 'base64'))).toBe(false);
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
      await mounted();
      expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}is there again after EC2 stopped and started the VM`,
    async () => {
      await vm.shutDown();
      await stopInstance(site, first.instanceId);
      await site.cloud.until(90, async () =>
        (await first.record())?.vm.observation.state === 'stopped' ? undefined : 'not seen as stopped',
      );
      await startInstance(site, first.instanceId);
      vm = await first.boot();
      await startAgents(vm);
      await mounted();
      expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}stays closed while an operator contains the VM, and opens when that ends`,
    async () => {
      await stopAgents(vm);
      await close(volume);
      await operator('quarantine', first.instanceId, '--reason', 'a system test');
      expect(await open(volume)).toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
      expect((await vm.run(`test -e /dev/mapper/casemate-${volume}`)).status).toBe(1);
      await operator('restore', first.instanceId, '--reason', 'it was only a test', '--yes');
      expect(await open(volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    },
    SLOW,
  );

  inVm(
    `${skipped}stays closed while the VM swaps to plain storage, and opens when it does not`,
    async () => {
      await close(volume);
      await vm.ok(`truncate -s 64M /swapfile && chmod 600 /swapfile && mkswap -q /swapfile && swapon /swapfile
        ${agent('report')}`);
      const verdict = (wanted: string) =>
        site.cloud.until(60, async () =>
          (await first.record())?.posture?.verdict === wanted ? undefined : `not ${wanted}`,
        );
      await verdict('unproven');
      expect(await open(volume)).toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
      await vm.ok(`swapoff /swapfile; rm /swapfile; ${agent('report')}`);
      await verdict('compliant');
      expect(await open(volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    },
    SLOW,
  );
});

describe('a header that was tampered with', () => {
  let sound: Buffer;
  const file = () => first.machine.volumes[0]?.file ?? '';
  const writeHeader = (bytes: Buffer) => {
    const fd = openSync(file(), 'r+');
    writeSync(fd, bytes, 0, bytes.length, 0);
    closeSync(fd);
  };

  beforeAll(async () => {
    if (missing) return;
    await stopAgents(vm);
    await close(volume);
    sound = headerOf(first);
  }, SLOW);
  afterAll(async () => {
    if (missing) return;
    expect(await open(volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    expect(await vm.ok(`cat ${MOUNT}/file`)).toBe('kept\n');
  }, SLOW);

  /** From outside of the VM, as whoever can write the volume does. */
  async function refused(tamper: () => unknown, reason: string, restore: () => unknown): Promise<void> {
    await tamper();
    const tampered = headerOf(first);
    const asked = site.tap.seen.length;
    try {
      await vm.ok(`blockdev --flushbufs $(device-of ${volume})`);
      expect(await open(volume)).toMatchObject({ state: 'failed', reason });
      expect((await vm.run(`test -e /dev/mapper/casemate-${volume}`)).status).toBe(1);
      // It was neither believed far enough to fetch a key, nor repaired or formatted over.
      expect(site.tap.seen.slice(asked).filter(({ path }) => path.endsWith('/releases'))).toEqual([]);
      expect(headerOf(first).equals(tampered)).toBe(true);
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
        const key = await plaintextKey(await diskItem(first, volume), 1);
        const slot = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '--key-file', '-'];
        expect(cryptsetup(['reencrypt', '--init-only', ...slot, file()], key).status).toBe(0);
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
      180,
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
      if (opens(first.machine.volumes[0]?.file ?? '', await plaintextKey(disk, generation)))
        opening.push(generation);
    }
    expect(opening).not.toEqual([]);
  }

  /** What the agent that is started next does without being told. */
  async function settles(): Promise<void> {
    expect(await open(volume)).toMatchObject({ state: 'open', mountedAt: MOUNT });
    const disk = await diskItem(first, volume);
    const active = disk.generations.filter(({ state }) => state === 'active').map((each) => each.generation);
    expect(active).toEqual([highest(disk)]);
    expect(disk.generations.filter(({ state }) => state === 'issued')).toEqual([]);
    // The key of that generation and one recovery key; nothing of before opens any more.
    expect((await statusOf(volume)).keyslots).toHaveLength(2);
    const file = first.machine.volumes[0]?.file ?? '';
    await vm.ok('sync');
    for (const { generation, wrappedKey } of disk.generations) {
      if (wrappedKey !== null) {
        expect([generation, opens(file, await plaintextKey(disk, generation))]).toEqual([
          generation,
          active.includes(generation),
        ]);
      }
    }
  }

  beforeAll(async () => {
    if (missing) return;
    await open(volume);
    await vm.ok('watch-cryptsetup');
  }, SLOW);
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

describe('a boot by systemd', () => {
  inVm(
    `${skipped}comes up without the pipeline, waits with the service that needs the disk, and says for what`,
    async () => {
      // From the first of them on systemd knows the mount.
      await vm.shutDown();
      vm = await first.boot({ init: 'systemd' });
      await eventually(`systemctl is-active ${MOUNT.slice(1).replace('/', '-')}.mount`);
      await vm.shutDown();
      vm = await first.boot({ init: 'systemd', pipelineAway: true });
      await eventually('systemctl is-active systemd-user-sessions.service');
      await eventually('journalctl -u casemate-disks | grep "waiting for disks"');
      expect(await vm.ok('systemctl list-jobs --no-legend --plain')).toMatch(
        / consumer\.service +start +waiting/,
      );
      expect(vm.console()).toContain('waiting for disks');
      await reachPipeline(vm, site);
      await eventually('systemctl is-active consumer.service');
      expect(await vm.ok('cat /run/consumed')).toBe('kept\n');
      expect(await vm.ok(`findmnt -n -o OPTIONS ${MOUNT}`)).toMatch(/\bnosuid,nodev\b/);
    },
    2 * SLOW,
  );
});

describe('another VM', () => {
  let second: CloudVm;
  let copied = '';
  let keysFolder = '';

  beforeAll(async () => {
    if (missing) return;
    await vm.shutDown();
    // A copy of the first VM's root volume, agent key and all, and a copy of its disk on a volume of its own.
    second = await launchVm(site, { name: 'second', volumes: [MOUNTED], clonedFrom: first });
    copied = second.volumeIds[0] ?? '';
    await promisify(execFile)('cp', [
      '--sparse=always',
      first.machine.volumes[0]?.file ?? '',
      second.machine.volumes[0]?.file ?? '',
    ]);
    vm = await second.boot();
    keysFolder = mkdtempSync(join(site.folder, 'keys-'));
    const cloned = await vm.ok('cat /var/lib/casemate/agent-key.json');
    await startAgents(vm);
    await eventually(`grep ${copied} /var/log/disks.log`);
    await stopAgents(vm);
    writeFileSync(join(keysFolder, 'cloned.json'), cloned);
    writeFileSync(join(keysFolder, 'own.json'), await vm.ok('cat /var/lib/casemate/agent-key.json'));
  }, 3 * SLOW);

  /** A stranger who knows the protocol, with a key from this VM's root volume. */
  function stranger(keyFile: string): Caller {
    const { cloud } = site;
    const stateDir = mkdtempSync(join(keysFolder, 'state-'));
    const { privateKey } = JSON.parse(readFileSync(join(keysFolder, keyFile), 'utf8')) as {
      privateKey: string;
    };
    const { instanceId } = second;
    writeFileSync(join(stateDir, 'agent-key.json'), JSON.stringify({ instanceId, privateKey }));
    return {
      config: { apiUrl: cloud.apiUrl } as Caller['config'],
      identity: { instanceId, accountId: ACCOUNT, region: REGION },
      key: loadOrCreateKey(stateDir, instanceId),
      api: createApi(cloud.apiUrl, REGION, CREDENTIALS),
    };
  }

  inVm(
    `${skipped}with the stolen disk, whole, is told that it is another disk's`,
    async () => {
      expect(await open(copied)).toMatchObject({ state: 'failed', reason: 'HEADER_OTHER_DISK' });
      const own = await diskItem(second, copied);
      expect(opens(second.machine.volumes[0]?.file ?? '', await plaintextKey(own, 1))).toBe(false);
    },
    SLOW,
  );

  inVm(
    `${skipped}is not given the key of the stolen disk, though it asks with its enrolled key and knows the protocol`,
    async () => {
      const own = await diskItem(second, copied);
      const stolen = await diskItem(first, volume);
      const active = stolen.generations.find(({ state }) => state === 'active')?.generation ?? 0;
      // The same request for its own disk is answered: it is not for its form that the other is refused.
      (await releaseKey(stranger('own.json'), own.disk, 1))[Symbol.dispose]();
      await expect(releaseKey(stranger('own.json'), stolen.disk, active)).rejects.toMatchObject({
        reason: 'RELEASE_REFUSED',
      });
      expect(site.cloud.announced()).toContainEqual(
        expect.objectContaining({
          'detail-type': 'Key Release Decided',
          detail: expect.objectContaining({
            instanceId: second.instanceId,
            outcome: 'refused',
            reasons: expect.arrayContaining(['DISK_NOT_ATTACHED']),
          }),
        }),
      );
    },
    SLOW,
  );

  inVm(
    `${skipped}that was cloned makes a key of its own, and gets nowhere with the one that it was cloned with`,
    async () => {
      const enrolled = new Map(
        (await site.cloud.items()).map(({ pk, publicKey }) => [String(pk), publicKey] as const),
      );
      const own = stranger('own.json').key.publicKey.toString('base64');
      const cloned = stranger('cloned.json').key.publicKey.toString('base64');
      expect(enrolled.get(`enrol#${first.instanceId}`)).toBe(cloned);
      expect(enrolled.get(`enrol#${second.instanceId}`)).toBe(own);
      expect(own).not.toBe(cloned);
      const disk = await diskItem(second, copied);
      await expect(releaseKey(stranger('cloned.json'), disk.disk, 1)).rejects.toBeInstanceOf(RefusedError);
      // Nor can it be enrolled in place of the other.
      await vm.ok(`cat > /root/agent-key.json <<'END'
${JSON.stringify({ ...JSON.parse(readFileSync(join(keysFolder, 'cloned.json'), 'utf8')), instanceId: second.instanceId })}
END
        mv /root/agent-key.json /var/lib/casemate/agent-key.json; rm /var/lib/casemate/enrolled`);
      const { status, stderr } = await vm.run(agent('enrol'), 300);
      expect(status).toBe(1);
      expect(stderr).toContain('ENROL_OTHER_KEY');
    },
    SLOW,
  );
});

describe('a VM with a TPM', () => {
  const bitLocker = findBitLocker();
  let third: CloudVm;
  let ek: Buffer;

  const attestations = async () => (await third.record())?.posture?.attestations ?? [];
  const refusals = async () => (await third.record())?.posture?.evidenceRefusal?.reasons ?? [];

  beforeAll(async () => {
    if (missing) return;
    await vm.pullPlug();
    third = await launchVm(site, {
      name: 'third',
      tpm: true,
      volumes: [{}, { 'casemate:kind': 'bitlk' }],
    });
    if (bitLocker) await bitLocker.unpackTo(third.machine.volumes[1]?.file ?? '');
    vm = await third.boot({ pipelineAway: true });
    // EC2 knows the endorsement key of a TPM that it made; here it is read once, before anything runs in the VM.
    ek = await endorsementKey();
    // TPMT_PUBLIC: without its size.
    writeFileSync(join(site.cloud.emulators.tpms, `${third.instanceId}.rsa-2048`), ek.subarray(2));
    await reachPipeline(vm, site);
    await startAgents(vm);
  }, 2 * SLOW);

  inVm(
    `${skipped}keeps its key in it, and reports with a quote that counts`,
    async () => {
      await site.cloud.until(240, async () =>
        (await attestations()).some(({ format }) => format === 'tpm')
          ? undefined
          : `no quote: ${await refusals()}`,
      );
      expect(JSON.parse(await vm.ok('cat /var/lib/casemate/agent-key.json'))).toEqual({
        instanceId: third.instanceId,
        keptIn: 'tpm',
      });
    },
    SLOW,
  );

  (bitLocker ? inVm : test.skip)(
    `${bitLocker ? skipped : 'skipped: no BitLocker image in ../shared/vectors: '}opens a BitLocker volume by its escrowed recovery password`,
    async () => {
      if (!bitLocker) return;
      const bitlk = third.volumeIds[1] ?? '';
      await stopAgents(vm);
      expect(await open(bitlk)).toMatchObject({ state: 'failed', reason: 'SECRET_NOT_ESCROWED' });
      const wrong = await vm.run(`echo ${bitLocker.wrongPassword} | (${agent(`disk escrow ${bitlk}`)})`, 300);
      expect(wrong).toMatchObject({ status: 1, stderr: expect.stringContaining('BITLOCKER_SECRET_WRONG') });
      await vm.ok(`echo ${bitLocker.recoveryPassword} | (${agent(`disk escrow ${bitlk}`)})`, 300);
      expect(await open(bitlk)).toMatchObject({ state: 'open' });
      const digest = await vm.ok(`sha256sum < /dev/mapper/casemate-${bitlk}`, 300);
      expect(digest.split(' ')[0]).toBe(bitLocker.sha256);
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}takes a disk image into an opened volume, holes as zeros`,
    async () => {
      const target = third.volumeIds[0] ?? '';
      expect(await open(target)).toMatchObject({ state: 'open' });
      await vm.ok(
        `mkdir -p /root/image/folder && echo moved > /root/image/folder/file
        mke2fs -q -t ext4 -d /root/image /root/image.raw 96M
        qemu-img convert -f raw -O qcow2 /root/image.raw /root/image.qcow2
        ${agent(`disk ingest /root/image.qcow2 --to /dev/mapper/casemate-${target} --yes --json`)}
        head -c 96M /dev/mapper/casemate-${target} | cmp - /root/image.raw
        mount -o ro /dev/mapper/casemate-${target} /mnt`,
        240,
      );
      expect(await vm.ok('cat /mnt/folder/file; umount /mnt')).toBe('moved\n');
    },
    SLOW,
  );

  inVm(
    `${skipped}encrypts its swap, and says so itself`,
    async () => {
      await vm.ok(
        `truncate -s 0 /swapfile && fallocate -l 64M /swapfile && chmod 600 /swapfile
        mkswap -q /swapfile && swapon /swapfile && ${agent('swap encrypt --yes')}`,
        120,
      );
      const { facts } = probeResult.parse(JSON.parse(await vm.ok('casemate-probe')));
      expect(facts.find(({ id }) => id === 'mem.swap')).toMatchObject({
        state: 'present',
        value: 'encrypted',
      });
    },
    SLOW,
  );

  inVm(
    `${skipped}whose TPM was exchanged for another can neither report nor open its disk`,
    async () => {
      await vm.shutDown();
      rmSync(third.machine.tpmState ?? '', { recursive: true });
      mkdirSync(third.machine.tpmState ?? '');
      vm = await third.boot();
      expect((await endorsementKey()).equals(ek)).toBe(false);
      const opened = await vm.run(agent(`disk open ${third.volumeIds[0]}`), 300);
      expect(opened.status).toBe(1);
      expect((await vm.run(`test -e /dev/mapper/casemate-${third.volumeIds[0]}`)).status).toBe(1);
      // Nor as an agent that starts anew.
      await vm.ok('rm /var/lib/casemate/agent-key.json /var/lib/casemate/enrolled');
      const enrolled = await vm.run(agent('enrol'), 300);
      expect(enrolled).toMatchObject({ status: 1, stderr: expect.stringContaining('ENROL_OTHER_KEY') });
    },
    2 * SLOW,
  );

  /** TPM2B_PUBLIC of the RSA endorsement key of the running VM's TPM. */
  async function endorsementKey(): Promise<Buffer> {
    const text = await vm.ok(
      'tpm2_createek -Q -G rsa -c /run/ek.ctx -u /run/ek.pub && base64 -w0 /run/ek.pub',
      120,
    );
    return Buffer.from(text, 'base64');
  }
});
