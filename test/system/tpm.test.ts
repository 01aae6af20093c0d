import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { probeResult } from '../../lib/domain/fact.ts';
import { findBitLocker } from './bitlocker.ts';
import { missingForVms } from './prerequisites.ts';
import {
  agent,
  type CloudVm,
  launchVm,
  reachPipeline,
  type Site,
  startAgents,
  startSite,
  stopAgents,
} from './site.ts';
import { expectClosed, open, SLOW } from './steps.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

let site: Site;
let vm: Vm;

afterAll(async () => {
  await vm?.pullPlug();
  await site?.stop();
}, 60_000);

describe('a VM with a TPM', () => {
  const bitLocker = findBitLocker();
  let third: CloudVm;
  let ek: Buffer;

  const attestations = async () => (await third.record())?.posture?.attestations ?? [];
  const refusals = async () => (await third.record())?.posture?.evidenceRefusal?.reasons ?? [];

  beforeAll(async () => {
    if (missing) return;
    site = await startSite();
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
      expect(await open(vm, bitlk)).toMatchObject({ state: 'failed', reason: 'SECRET_NOT_ESCROWED' });
      const wrong = await vm.run(`echo ${bitLocker.wrongPassword} | (${agent(`disk escrow ${bitlk}`)})`, 300);
      expect(wrong).toMatchObject({ status: 1, stderr: expect.stringContaining('BITLOCKER_SECRET_WRONG') });
      await vm.ok(`echo ${bitLocker.recoveryPassword} | (${agent(`disk escrow ${bitlk}`)})`, 300);
      expect(await open(vm, bitlk)).toMatchObject({ state: 'open' });
      const digest = await vm.ok(`sha256sum < /dev/mapper/casemate-${bitlk}`, 300);
      expect(digest.split(' ')[0]).toBe(bitLocker.sha256);
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}takes a disk image into an opened volume, holes as zeros`,
    async () => {
      const target = third.volumeIds[0] ?? '';
      expect(await open(vm, target)).toMatchObject({ state: 'open' });
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
      await expectClosed(vm, third.volumeIds[0] ?? '');
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
