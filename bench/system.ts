/**
 * In a real VM (docs/system-tests.md): from asking for a disk key to the opened device, beside clevis with tang in the
 * same VM and with the same PBKDF settings; an image into an opened volume, beside dd and qemu-img; what a volume
 * costs on the disk-key CMK.
 */
import { type Cloud, startCloud } from '../test/integration/cloud.ts';
import { findProgram } from '../test/system/image.ts';
import { missingForVms } from '../test/system/prerequisites.ts';
import { agent, FEED_EVERY_MS, launchVm, type Site, startSite } from '../test/system/site.ts';
import type { Vm } from '../test/system/vm.ts';
import { type Item, item, median, print, say } from './measuring.ts';

const ROUNDS = 5;
const COPY_ROUNDS = 5;
const BARS = { open: { of: 'ratio', max: 1 }, copy: { of: 'ratio', max: 1 } } as const;
const COMMAND_SECONDS = 600;

/** Runs a shell command in the VM and times it there. @returns milliseconds */
async function inMs(vm: Vm, command: string): Promise<number> {
  const text = await vm.ok(
    `exec 3>&1 >&2; began=$(date +%s%N); ${command}
    status=$?; ended=$(date +%s%N); echo $(((ended - began) / 1000000)) >&3; exit $status`,
    COMMAND_SECONDS,
  );
  return Number(text);
}

async function measureOpening(vm: Vm, ours: string, theirs: string): Promise<readonly Item[]> {
  await vm.ok(
    `mkdir -p /var/db/tang && /usr/libexec/tangd-keygen /var/db/tang sig exc
    socat TCP-LISTEN:7500,bind=127.0.0.1,reuseaddr,fork EXEC:'/usr/libexec/tangd /var/db/tang' 2> /dev/null &
    head -c 32 /dev/urandom > /run/first
    cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --pbkdf pbkdf2 \\
      --pbkdf-force-iterations 1000 --key-file /run/first $(device-of ${theirs})
    clevis luks bind -y -k /run/first -d $(device-of ${theirs}) tang '{"url":"http://127.0.0.1:7500"}'`,
    COMMAND_SECONDS,
  );
  const [our, their]: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    await vm.ok(agent(`disk close ${ours}`), COMMAND_SECONDS);
    our.push(await inMs(vm, `(${agent(`disk open ${ours}`)})`));
    their.push(await inMs(vm, `clevis luks unlock -d $(device-of ${theirs}) -n theirs`));
    await vm.ok('cryptsetup close theirs');
  }
  const other = { name: 'clevis luks unlock, tang on loopback', value: median(their) };
  return [item('open', median(our), 'ms', { other, bar: BARS.open })];
}

/** Images are random data, so that nothing compresses and no signature is found in them. */
const IMAGES = {
  dense: 'head -c 128M /dev/urandom > /root/image',
  sparse: `truncate -s 512M /root/image && for at in $(seq 0 100 500); do
    dd if=/dev/urandom of=/root/image bs=1M count=4 seek=$at conv=notrunc status=none; done`,
} as const;

async function measureCopying(vm: Vm, volumeId: string): Promise<readonly Item[]> {
  const device = `/dev/mapper/casemate-${volumeId}`;
  const items: Item[] = [];
  for (const [name, make] of Object.entries(IMAGES)) {
    await vm.ok(`rm -f /root/image; ${make}; sync`, COMMAND_SECONDS);
    const seconds: Record<'whole' | 'copy' | 'dd' | 'qemu', number[]> = {
      whole: [],
      copy: [],
      dd: [],
      qemu: [],
    };
    for (let round = 0; round < COPY_ROUNDS; round++) {
      // Each in its turn finds the image in the page cache.
      await vm.ok('cat /root/image > /dev/null', COMMAND_SECONDS);
      seconds.dd.push(
        (await inMs(vm, `dd if=/root/image of=${device} bs=4M oflag=direct conv=fsync`)) / 1000,
      );
      seconds.qemu.push(
        (await inMs(vm, `qemu-img convert -n -t none -f raw -O raw /root/image ${device}`)) / 1000,
      );
      const began = Date.now();
      const json = await vm.ok(
        agent(`disk ingest /root/image --format raw --to ${device} --yes --restart --json`),
        COMMAND_SECONDS,
      );
      seconds.whole.push((Date.now() - began) / 1000);
      seconds.copy.push((JSON.parse(json) as { copySeconds: number }).copySeconds);
    }
    const dd = { name: 'dd bs=4M oflag=direct', value: median(seconds.dd) };
    items.push(
      item(`ingest.${name}`, median(seconds.copy), 's', { other: dd, bar: BARS.copy }),
      item(`ingest.${name}.over-qemu-img`, median(seconds.copy), 's', {
        other: { name: 'qemu-img convert -n -t none', value: median(seconds.qemu) },
      }),
      item(`ingest.${name}.read-back-and-start`, median(seconds.whole), 's', { other: dd }),
    );
  }
  return items;
}

/** Of one disk from launch to its first mount. */
function keyCalls({ proxy }: Cloud, disk: string): Item {
  const calls = proxy.calls.filter(
    ({ operation, body }) => /^(GenerateDataKey|Decrypt|ReEncrypt)/.test(operation) && body.includes(disk),
  );
  return item('kms-calls', calls.length, 'calls', { bar: { of: 'value', max: 2 } });
}

async function main(): Promise<void> {
  const missing = missingForVms();
  if (missing) return print({ skipped: missing });
  const cloud = await startCloud();
  let site: Site | undefined;
  try {
    cloud.feed(FEED_EVERY_MS);
    site = await startSite(cloud);
    const launched = await launchVm(site, { name: 'bench', volumes: [{}, {}], processors: 2 });
    const [ours = '', theirs = ''] = launched.volumeIds;
    const vm = await launched.boot();
    try {
      say(`booted in ${vm.bootSeconds} s`);
      await vm.ok(`${agent('enrol')} && casemate-agent report`, COMMAND_SECONDS);
      await cloud.until(120, async () =>
        (await launched.record())?.posture?.verdict === 'compliant' ? undefined : 'not compliant',
      );
      await vm.ok(agent(`disk open ${ours}`), COMMAND_SECONDS);
      const disk = (await launched.record())?.disks.get(ours)?.disk ?? '';
      const items = [keyCalls(cloud, disk)];
      say('opening');
      if (findProgram('clevis') && findProgram('jose'))
        items.push(...(await measureOpening(vm, ours, theirs)));
      say('copying');
      items.push(...(await measureCopying(vm, ours)));
      print({ items, bootSeconds: vm.bootSeconds });
    } finally {
      await vm.pullPlug();
    }
  } finally {
    await site?.stop();
    await cloud.stop();
  }
}

await main();
process.exit(0); // sockets that are kept alive for nobody
