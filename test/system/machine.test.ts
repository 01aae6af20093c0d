import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { removeAtEnd } from '../../bin/local/process.ts';
import { probeResult } from '../../lib/domain/fact.ts';
import { ensureKernel, ensureRootImage } from './image.ts';
import { missingForVms } from './prerequisites.ts';
import { boot, makeMachine, type Vm } from './vm.ts';

const VOLUME = 'vol-0b1c2d3e4f5061728';
const SWAP = 'vol-0c1d2e3f405162738';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';

// What the other suites stand on; where this fails, their failures say nothing.
describe('a VM', () => {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-vm-'));
  removeAtEnd(folder);
  let vm: Vm;

  beforeAll(async () => {
    if (missing) return;
    const kernel = await ensureKernel();
    const image = await ensureRootImage(kernel);
    const machine = await makeMachine(folder, kernel, image, {
      rootVolumeId: 'vol-0a1b2c3d4e5f60718',
      volumes: [
        { id: VOLUME, mib: 128 },
        { id: SWAP, mib: 64 },
      ],
      tpm: true,
    });
    vm = await boot(machine);
  }, 240_000);
  afterAll(async () => {
    await vm?.pullPlug();
    rmSync(folder, { recursive: true, force: true });
  });

  inVm(`${skipped}has its volumes as NVMe devices that carry their ids`, async () => {
    const serials = await vm.ok('cat /sys/block/nvme*/device/serial');
    expect(serials.split('\n').map((line) => line.trim())).toEqual(
      expect.arrayContaining([VOLUME.replace('-', ''), SWAP.replace('-', ''), 'vol0a1b2c3d4e5f60718']),
    );
  });

  inVm(`${skipped}loses what it did not flush when the plug is pulled, and nothing else`, async () => {
    const key = 'head -c 64 /dev/zero | tr "\\0" k > /run/key';
    await vm.ok(`${key}
      device=$(device-of ${VOLUME})
      cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/key $device
      cryptsetup open --key-file /run/key $device data
      mke2fs -q -t ext4 /dev/mapper/data && mount /dev/mapper/data /mnt
      echo kept > /mnt/flushed && sync -f /mnt && echo lost > /mnt/unflushed`);
    await vm.pullPlug();
    vm = await boot(vm.machine);
    const found = await vm.ok(`${key}
      cryptsetup open --key-file /run/key $(device-of ${VOLUME}) data && mount /dev/mapper/data /mnt
      cat /mnt/flushed; cat /mnt/unflushed; true`);
    expect(found).toBe('kept\n');
  });

  inVm(`${skipped}keeps the TPM that it had, with its endorsement key`, async () => {
    const name = 'tpm2_createek -Q -G ecc -c /run/ek.ctx -u /run/ek.pub && sha256sum < /run/ek.pub';
    const before = await vm.ok(name);
    await vm.shutDown();
    vm = await boot(vm.machine);
    expect(await vm.ok(name)).toBe(before);
  });

  inVm(`${skipped}swaps to dm-crypt, and the probe says so of this swap and of a plain one`, async () => {
    const swap = async (setUp: string) => {
      const json = await vm.ok(`device=$(device-of ${SWAP}); ${setUp} && casemate-probe; swapoff -a`);
      return probeResult.parse(JSON.parse(json)).facts.find((fact) => fact.id === 'mem.swap');
    };
    expect(await swap('mkswap -q $device && swapon $device')).toMatchObject({
      state: 'present',
      value: 'plain',
    });
    expect(
      await swap(`wipefs -q -a $device && cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 \\
        --key-file /dev/urandom $device swap && mkswap -q /dev/dm-0 && swapon /dev/dm-0`),
    ).toMatchObject({ state: 'present', value: 'encrypted' });
  });
});
