import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findBitLocker } from './bitlocker.ts';
import { missingForVms } from './prerequisites.ts';
import { sharedCloud } from './shared-cloud/ask.ts';
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
import { close, eventually, expectClosed, open, SLOW, verdict } from './steps.ts';
import type { Vm } from './vm.ts';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

// The policies of the shared cloud demand a quote of it.
describe('a VM with a TPM', () => {
  let site: Site;
  let vm: Vm;
  const bitLocker = findBitLocker();
  let cloudVm: CloudVm;
  let disk: string;
  let ek: Buffer;

  const attestations = async () => (await cloudVm.record())?.posture?.attestations ?? [];
  const quoted = () =>
    site.cloud.until(
      240,
      async () =>
        (await attestations()).some(({ format }) => format === 'tpm')
          ? undefined
          : `no quote: ${await refusals()}`,
      1000,
    );
  const refusals = async () => (await cloudVm.record())?.posture?.evidenceRefusal?.reasons ?? [];

  beforeAll(async () => {
    if (missing) return;
    site = await startSite(await sharedCloud());
    cloudVm = await launchVm(site, {
      name: 'tpm',
      tpm: true,
      volumes: [{}, { 'casemate:kind': 'bitlk' }],
    });
    disk = cloudVm.volumeIds[0] ?? '';
    if (bitLocker) await bitLocker.unpackTo(cloudVm.machine.volumes[1]?.file ?? '');
    vm = await cloudVm.boot({ pipelineAway: true });
    // EC2 knows the endorsement key of a TPM that it made; here it is read once, before anything runs in the VM.
    ek = await endorsementKey();
    // TPMT_PUBLIC: without its size.
    writeFileSync(join(site.cloud.emulators.tpms, `${cloudVm.instanceId}.rsa-2048`), ek.subarray(2));
    await reachPipeline(vm, site);
    await startAgents(vm);
  }, 2 * SLOW);

  afterAll(async () => {
    await vm?.pullPlug();
    await site?.stop();
  }, 60_000);

  inVm(
    `${skipped}keeps its key in it, proves that EC2 knows it, and opens its disk once its quote counts`,
    async () => {
      await quoted();
      await eventually(vm, `test -e /dev/mapper/casemate-${disk}`);
      expect(JSON.parse(await vm.ok('cat /var/lib/casemate/agent-key.json'))).toEqual({
        instanceId: cloudVm.instanceId,
        keptIn: 'tpm',
      });
    },
    SLOW,
  );

  (bitLocker ? inVm : test.skip)(
    `${bitLocker ? skipped : 'skipped: no BitLocker image in ../shared/vectors: '}opens a BitLocker volume by its escrowed recovery password`,
    async () => {
      if (!bitLocker) return;
      const bitlk = cloudVm.volumeIds[1] ?? '';
      await stopAgents(vm);
      expect(await open(vm, bitlk)).toMatchObject({ state: 'failed', reason: 'SECRET_NOT_ESCROWED' });
      await vm.ok(`echo ${bitLocker.recoveryPassword} | (${agent(`disk escrow ${bitlk}`)})`, 300);
      expect(await open(vm, bitlk)).toMatchObject({ state: 'open' });
      const digest = await vm.ok(`sha256sum < /dev/mapper/casemate-${bitlk}`, 300);
      expect(digest.split(' ')[0]).toBe(bitLocker.sha256);
    },
    2 * SLOW,
  );

  inVm(
    `${skipped}that something else was measured in is refused its keys, until it boots as it should`,
    async () => {
      await startAgents(vm);
      await quoted();
      // What systemd-stub measures a kernel command line into.
      await vm.ok(`tpm2_pcrextend 12:sha256=${'ab'.repeat(32)}`);
      await verdict(site, cloudVm, 'unproven', 240);
      expect(await refusals()).toEqual(['MEASUREMENT_UNKNOWN']);
      await stopAgents(vm);
      await close(vm, disk);
      expect(await open(vm, disk)).toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
      await expectClosed(vm, disk);

      await vm.shutDown();
      vm = await cloudVm.boot();
      await startAgents(vm);
      await eventually(vm, `test -e /dev/mapper/casemate-${disk}`);
      expect((await cloudVm.record())?.posture).toMatchObject({
        verdict: 'compliant',
        evidenceRefusal: null,
      });
    },
    3 * SLOW,
  );

  inVm(
    `${skipped}whose TPM was exchanged for another can neither report nor open its disk`,
    async () => {
      await vm.shutDown();
      rmSync(cloudVm.machine.tpmState ?? '', { recursive: true });
      mkdirSync(cloudVm.machine.tpmState ?? '');
      vm = await cloudVm.boot();
      expect((await endorsementKey()).equals(ek)).toBe(false);
      const opened = await vm.run(agent(`disk open ${disk}`), 300);
      expect(opened.status).toBe(1);
      await expectClosed(vm, disk);
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
