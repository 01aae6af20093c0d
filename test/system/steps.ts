import { execFile } from 'node:child_process';
import { closeSync, openSync, readSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DecryptCommand, KMSClient } from '@aws-sdk/client-kms';
import { expect } from '@jest/globals';
import type { VolumeOutcome } from '../../agent/disks/converge.ts';
import type { VolumeStatus } from '../../agent/disks/status.ts';
import { awsEnvironment, CREDENTIALS, REGION } from '../../bin/local/emulators.ts';
import type { DiskItem } from '../../lib/domain/disk-key.ts';
import { agent, type CloudVm, type Site, startAgents } from './site.ts';
import type { Machine, Vm } from './vm.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

export const MOUNT = '/srv/data';
export const MOUNTED = { 'casemate:mount': MOUNT, 'casemate:filesystem': 'ext4' };
/** Where the data of a disk begins; all before it is header. */
export const HEADER_BYTES = 16 * 2 ** 20;
/** A step of a VM on a machine with other work. */
export const SLOW = 600_000;

/** Waits in the VM until a command succeeds; its logs explain when it does not. */
export async function eventually(vm: Vm, command: string, seconds = 120): Promise<void> {
  const wait = `for try in $(seq ${seconds}); do ${command} > /dev/null 2>&1 && exit 0; sleep 1; done
    tail -n 9 /var/log/disks.log; tail -n 9 /var/log/agent.log
    journalctl --no-pager -n 20 -u 'casemate-*' 2> /dev/null; exit 1`;
  await vm.ok(wait, 3 * seconds + 60);
}

export const mounted = (vm: Vm) => eventually(vm, `findmnt ${MOUNT}`);

/**
 * Boots a VM for the first time, up to the mounted disk with a file on it that says "kept". Whatever runs cryptsetup is
 * written down with its arguments and its environment.
 */
export async function bootToMount(cloudVm: CloudVm): Promise<Vm> {
  const vm = await cloudVm.boot();
  await vm.ok('watch-cryptsetup');
  await startAgents(vm);
  await mounted(vm);
  await vm.ok(`echo kept > ${MOUNT}/file && sync`);
  return vm;
}

/** Of all volumes, by their ids. */
export async function diskStatus(vm: Vm): Promise<ReadonlyMap<string, VolumeStatus>> {
  // It ends with 1 where a volume has a problem.
  const { stdout, stderr } = await vm.run(agent('disk status --json'), 300);
  if (stdout === '') throw new Error(stderr);
  return new Map((JSON.parse(stdout) as VolumeStatus[]).map((each) => [each.volumeId, each]));
}

/** Opens one volume by hand. */
export async function open(vm: Vm, volumeId: string): Promise<VolumeOutcome> {
  const { stdout, stderr } = await vm.run(agent(`disk open ${volumeId} --json`), 300);
  if (stdout === '') throw new Error(stderr);
  const [outcome] = JSON.parse(stdout) as VolumeOutcome[];
  if (!outcome) throw new Error(`no outcome for ${volumeId}`);
  return outcome;
}

export const close = (vm: Vm, volumeId: string) =>
  vm.ok(`test ! -e /dev/mapper/casemate-${volumeId} || (${agent(`disk close ${volumeId}`)})`, 300);

export async function expectClosed(vm: Vm, volumeId: string): Promise<void> {
  expect((await vm.run(`test -e /dev/mapper/casemate-${volumeId}`)).status).toBe(1);
}

/** The file behind the first data volume. */
export const volumeFile = ({ volumes }: Machine) => volumes[0]?.file ?? '';

/** The header area of the first data volume, as it is on the volume itself. */
export function headerOf(machine: Machine): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  const fd = openSync(volumeFile(machine), 'r');
  readSync(fd, header, 0, HEADER_BYTES, 0);
  closeSync(fd);
  return header;
}

export async function diskItem(cloudVm: CloudVm, volumeId: string): Promise<DiskItem> {
  const item = (await cloudVm.record())?.disks.get(volumeId);
  if (!item) throw new Error(`the pipeline knows no disk of ${volumeId}`);
  return item;
}

/** The very key, as only the key service can say it. */
export async function plaintextKey(site: Site, disk: DiskItem, generation: number): Promise<Buffer> {
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

/** An operator's command. @returns its standard output */
export async function operator({ cloud }: Site, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ['bin/casemate-cli.js', ...args], {
    cwd: PROJECT,
    env: awsEnvironment(cloud.emulators),
  });
  return stdout;
}

/** Waits until the pipeline's verdict on a VM is this one. */
export const verdict = (site: Site, cloudVm: CloudVm, wanted: string, seconds = 60) =>
  site.cloud.until(
    seconds,
    async () => {
      const posture = (await cloudVm.record())?.posture;
      return posture?.verdict === wanted ? undefined : `not ${wanted}: ${posture?.reasons}`;
    },
    1000,
  );
