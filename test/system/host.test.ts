import { mkdtempSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { IngestResult } from '../../agent/ingest/ingest.ts';
import type { SwapOutcome } from '../../agent/swap/encrypt.ts';
import { removeAtEnd } from '../../bin/local/process.ts';
import { probeResult } from '../../lib/domain/fact.ts';
import { ensureKernel, ensureRootImage } from './image.ts';
import { missingForVms } from './prerequisites.ts';
import { boot, makeMachine, type Vm } from './vm.ts';

const DATA = 'vol-0b1c2d3e4f5061729';
const SWAP = 'vol-0c1d2e3f405162739';

const missing = missingForVms();
const inVm = missing ? test.skip : test;
const skipped = missing ? `skipped: ${missing}: ` : '';
const SLOW = 300_000;

// What the packaged agent does to a machine without asking the pipeline.
describe('the packaged agent in a VM', () => {
  const folder = mkdtempSync('/var/tmp/casemate-host-');
  removeAtEnd(folder);
  let vm: Vm;

  beforeAll(async () => {
    if (missing) return;
    const kernel = await ensureKernel();
    const image = await ensureRootImage(kernel);
    const machine = await makeMachine(folder, kernel, image, {
      rootVolumeId: 'vol-0a1b2c3d4e5f60719',
      volumes: [
        { id: DATA, mib: 64 },
        { id: SWAP, mib: 64 },
      ],
      tpm: false,
    });
    vm = await boot(machine);
  }, 600_000);
  afterAll(async () => {
    await vm?.pullPlug();
    rmSync(folder, { recursive: true, force: true });
  });

  const swapFact = async () => {
    const json = await vm.ok('casemate-probe');
    return probeResult.parse(JSON.parse(json)).facts.find((fact) => fact.id === 'mem.swap');
  };

  inVm(
    `${skipped}turns plain swap into encrypted swap, over what was swapped in clear`,
    async () => {
      await vm.ok(`device=$(device-of ${SWAP}) && mkswap -q $device
        echo secret-in-a-page | dd of=$device bs=1M seek=40 conv=notrunc,fsync 2> /dev/null
        swapon $device && echo "$device none swap sw 0 0" > /etc/fstab`);
      expect(await swapFact()).toMatchObject({ state: 'present', value: 'plain' });
      const outcomes = JSON.parse(
        await vm.ok('casemate-agent swap encrypt --yes --json', 180),
      ) as SwapOutcome[];
      expect(outcomes).toMatchObject([{ mapping: '/dev/mapper/casemate-swap0', reason: null }]);
      expect(await swapFact()).toMatchObject({ state: 'present', value: 'encrypted' });
      expect(await vm.ok('cat /etc/fstab')).toMatch(/^# casemate-swap.service has it: /);
      expect((await vm.run(`grep -c secret-in-a-page $(device-of ${SWAP})`)).stdout).toBe('0\n');
      // Asked again, it finds nothing to do.
      const again = JSON.parse(await vm.ok('casemate-agent swap encrypt --yes --json', 120)) as SwapOutcome[];
      expect(again).toMatchObject([{ reason: 'ENCRYPTED' }]);
    },
    SLOW,
  );

  inVm(
    `${skipped}opens the swap again after the plug was pulled, under another key`,
    async () => {
      const table = 'dmsetup table --showkeys casemate-swap0 | sha256sum';
      const key = await vm.ok(table);
      await vm.pullPlug();
      vm = await boot(vm.machine);
      expect(await swapFact()).toMatchObject({ state: 'absent' });
      await vm.ok('casemate-agent swap open', 120);
      expect(await swapFact()).toMatchObject({ state: 'present', value: 'encrypted' });
      expect(await vm.ok(table)).not.toBe(key);
    },
    SLOW,
  );

  inVm(
    `${skipped}does not touch a swap device that somebody put a file system on`,
    async () => {
      await vm.ok(`swapoff -a && cryptsetup close casemate-swap0
        mke2fs -q -F -t ext4 $(device-of ${SWAP}) && sync`);
      const { status, stderr } = await vm.run('casemate-agent swap open', 120);
      expect([status, stderr]).toEqual([1, expect.stringContaining('SWAP_NOT_OURS')]);
      await vm.ok(`e2fsck -fn $(device-of ${SWAP})`);
    },
    SLOW,
  );

  inVm(
    `${skipped}ingests a qcow2 image into an opened volume, with zeros where the image has holes`,
    async () => {
      await vm.ok(`device=$(device-of ${DATA})
        head -c 64 /dev/urandom > /run/key
        cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/key $device data
        truncate -s 60M /root/image.raw
        head -c 5M /dev/urandom | dd of=/root/image.raw bs=1M seek=30 conv=notrunc 2> /dev/null
        qemu-img convert -c -f raw -O qcow2 /root/image.raw /root/image.qcow2`);
      const { stderr } = await vm.run(
        `casemate-agent disk ingest /root/image.qcow2 --to $(device-of ${DATA}) --yes`,
      );
      expect(stderr).toMatch(/INGEST_UNENCRYPTED|INGEST_TARGET_BUSY/);
      const json = await vm.ok(
        'casemate-agent disk ingest /root/image.qcow2 --to /dev/mapper/data --yes --json',
        240,
      );
      expect(JSON.parse(json) as IngestResult).toMatchObject({ format: 'qcow2', bytes: 60 * 2 ** 20 });
      await vm.ok('cmp -n $((60 * 1048576)) /root/image.raw /dev/mapper/data', 120);
    },
    SLOW,
  );

  inVm(
    `${skipped}refuses a volume that is mounted, and one with a file system that was not named`,
    async () => {
      await vm.ok(
        'mke2fs -q -F -t ext4 /dev/mapper/data && mkdir -p /mnt/data && mount /dev/mapper/data /mnt/data',
      );
      const ingest = 'casemate-agent disk ingest /root/image.raw --to /dev/mapper/data --yes';
      const unnamed = await vm.run(ingest, 120);
      expect([unnamed.status, unnamed.stderr]).toEqual([1, expect.stringContaining('it carries ext4')]);
      const mounted = await vm.run(`${ingest} --replace ext4`, 120);
      expect([mounted.status, mounted.stderr]).toEqual([1, expect.stringContaining('INGEST_TARGET_BUSY')]);
      await vm.ok('umount /mnt/data && e2fsck -fn /dev/mapper/data');
    },
    SLOW,
  );

  inVm(
    `${skipped}says so when the volume vanishes in mid-write, and copies the image when it is back`,
    async () => {
      const ingest = 'casemate-agent disk ingest /root/dense.raw --to /dev/mapper/data --yes --json';
      const { status, stderr } = await vm.run(
        `device=$(device-of ${DATA})
        pci=$(readlink -f /sys/block/\${device##*/}/device/device)
        target=dm-$(dmsetup info -c --noheadings -o minor data)
        written() { while read -r _ _ name _ _ _ _ _ _ sectors _; do [ "$name" = "$target" ] && echo $sectors; done < /proc/diskstats; }
        head -c 48M /dev/urandom > /root/dense.raw
        before=$(written)
        ${ingest} --replace ext4 > /run/ingest.out 2> /run/ingest.err & agent=$!
        # 16 MiB of it.
        while [ $(written) -lt $((before + 32768)) ]; do sleep 0.1; done
        echo 1 > $pci/remove
        wait $agent; status=$?
        cat /run/ingest.err >&2
        exit $status`,
        240,
      );
      expect([status, stderr]).toEqual([1, expect.stringContaining('INGEST_TARGET_FAILED')]);
      const json = await vm.ok(
        `cryptsetup close data
        echo 1 > /sys/bus/pci/rescan
        for try in $(seq 100); do device=$(device-of ${DATA} 2> /dev/null) && break; sleep 0.1; done
        cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/key $device data
        ${ingest}`,
        240,
      );
      expect(JSON.parse(json) as IngestResult).toMatchObject({ bytes: 48 * 2 ** 20 });
      await vm.ok('cmp -n $((48 * 1048576)) /root/dense.raw /dev/mapper/data', 120);
    },
    SLOW,
  );
});
