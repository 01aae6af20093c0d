import { readFileSync } from 'node:fs';
import { DecryptCommand, KMSClient } from '@aws-sdk/client-kms';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VolumeStatus } from '../../agent/disks/status.ts';
import { CREDENTIALS, REGION } from '../../bin/local/emulators.ts';
import type { DiskItem } from '../../lib/domain/disk-key.ts';
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
  stopInstance,
} from './site.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

const MOUNT = '/srv/data';
const MOUNTED = { 'casemate:mount': MOUNT, 'casemate:filesystem': 'ext4' };
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
});
