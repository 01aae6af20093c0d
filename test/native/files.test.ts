import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { facts, machines, make, probe, program, run } from './native.ts';

const scratch = mkdtempSync(join(tmpdir(), 'casemate-files-'));
beforeAll(() => make('probe'));
afterAll(() => rmSync(scratch, { recursive: true }));

let count = 0;
const cpuid = readFileSync(`${machines}/qemu-tcg-icelake-server/cpuid.txt`, 'utf8');

/** A machine of the given files; a name that ends in '/' is an empty directory. */
function machine(files: Record<string, string | Uint8Array>): string {
  const root = join(scratch, String(count++));
  for (const [name, content] of Object.entries({ 'cpuid.txt': cpuid, ...files })) {
    const path = join(root, name);
    mkdirSync(name.endsWith('/') ? path : dirname(path), { recursive: true });
    if (!name.endsWith('/')) writeFileSync(path, content);
  }
  return root;
}
const look = (files: Record<string, string | Uint8Array>) => facts(['--root', machine(files)]);

const swaps = (...areas: string[]) =>
  `Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n${areas.map((area) => `${area}\t0\t0\t-2\n`).join('')}`;
const block = 'sys/class/block';

describe('swap is', () => {
  const cases: [string, Record<string, string>, string, string][] = [
    ['none when no area is listed', { 'proc/swaps': swaps() }, 'none', 'absent'],
    [
      'plain on a partition',
      { 'proc/swaps': swaps('/dev/sda2 partition'), [`${block}/sda2/`]: '' },
      'plain',
      'present',
    ],
    [
      'encrypted on dm-crypt with LUKS',
      { 'proc/swaps': swaps('/dev/dm-1 partition'), [`${block}/dm-1/dm/uuid`]: 'CRYPT-LUKS2-0123-swap\n' },
      'encrypted',
      'absent',
    ],
    [
      'encrypted on dm-crypt with a random key',
      { 'proc/swaps': swaps('/dev/dm-0 partition'), [`${block}/dm-0/dm/uuid`]: 'CRYPT-PLAIN-swap\n' },
      'encrypted',
      'absent',
    ],
    [
      'encrypted on LVM whose disks are all dm-crypt',
      {
        'proc/swaps': swaps('/dev/dm-2 partition'),
        [`${block}/dm-2/dm/uuid`]: 'LVM-abc\n',
        [`${block}/dm-2/slaves/dm-0`]: '',
        [`${block}/dm-2/slaves/dm-1`]: '',
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS1-a\n',
        [`${block}/dm-1/dm/uuid`]: 'CRYPT-LUKS2-b\n',
      },
      'encrypted',
      'absent',
    ],
    [
      'plain on LVM of which one disk is not dm-crypt',
      {
        'proc/swaps': swaps('/dev/dm-2 partition'),
        [`${block}/dm-2/dm/uuid`]: 'LVM-abc\n',
        [`${block}/dm-2/slaves/dm-0`]: '',
        [`${block}/dm-2/slaves/sdb`]: '',
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS1-a\n',
        [`${block}/sdb/`]: '',
      },
      'plain',
      'present',
    ],
    [
      'plain when a mapping only has crypt in its name',
      {
        'proc/swaps': swaps('/dev/dm-2 partition'),
        [`${block}/dm-2/dm/uuid`]: 'LVM-CRYPT-\n',
        [`${block}/dm-2/slaves/sda`]: '',
        [`${block}/sda/`]: '',
      },
      'plain',
      'present',
    ],
    [
      'in memory on zram',
      { 'proc/swaps': swaps('/dev/zram0 partition'), [`${block}/zram0/backing_dev`]: 'none\n' },
      'zram',
      'absent',
    ],
    [
      'plain on zram that writes back to a disk',
      { 'proc/swaps': swaps('/dev/zram0 partition'), [`${block}/zram0/backing_dev`]: '/dev/sda3\n' },
      'plain',
      'present',
    ],
    [
      'plain when one of several areas is',
      {
        'proc/swaps': swaps('/dev/zram0 partition', '/dev/dm-0 partition', '/dev/sda2 partition'),
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-PLAIN-x\n',
        [`${block}/sda2/`]: '',
      },
      'plain',
      'present',
    ],
    [
      'plain in a file on a plain disk',
      {
        'proc/swaps': swaps('/srv/my\\040swap file'),
        'proc/self/mountinfo':
          '20 1 8:1 / / rw - ext4 /dev/dm-0 rw\n21 20 8:2 / /srv rw shared:1 - ext4 /dev/sda5 rw\n',
        [`${block}/sda5/`]: '',
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS2-x\n',
      },
      'plain',
      'present',
    ],
    [
      'encrypted in a file on an encrypted disk',
      {
        'proc/swaps': swaps('/swapfile file'),
        'proc/self/mountinfo': '20 1 253:0 / / rw - ext4 /dev/mapper/root-crypt rw\n',
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS2-x\n',
        [`${block}/dm-0/dm/name`]: 'root-crypt\n',
      },
      'encrypted',
      'absent',
    ],
    [
      'encrypted on a mapping that the kernel shows by its name',
      {
        'proc/swaps': swaps('/dev/mapper/swap partition'),
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS2-x\n',
        [`${block}/dm-0/dm/name`]: 'root-crypt\n',
        [`${block}/dm-1/dm/uuid`]: 'CRYPT-PLAIN-swap\n',
        [`${block}/dm-1/dm/name`]: 'swap\n',
      },
      'encrypted',
      'absent',
    ],
    [
      'not known on a mapping whose name sysfs does not have',
      {
        'proc/swaps': swaps('/dev/mapper/swap partition'),
        [`${block}/dm-0/dm/uuid`]: 'CRYPT-PLAIN-x\n',
        [`${block}/dm-0/dm/name`]: 'other\n',
      },
      'unknown',
      'unknown',
    ],
    [
      'not known in a file whose disk is not named',
      {
        'proc/swaps': swaps('/swapfile file'),
        'proc/self/mountinfo': '20 1 0:30 / / rw - btrfs overlay rw\n',
      },
      'unknown',
      'unknown',
    ],
    [
      'not known on a device that sysfs does not have',
      { 'proc/swaps': swaps('/dev/sda2 partition') },
      'unknown',
      'unknown',
    ],
    [
      'not known on mappings without end',
      {
        'proc/swaps': swaps('/dev/dm-0 partition'),
        [`${block}/dm-0/dm/uuid`]: 'LVM-a\n',
        [`${block}/dm-0/slaves/dm-0`]: '',
      },
      'unknown',
      'unknown',
    ],
    [
      'not known on a device with a path for a name',
      { 'proc/swaps': swaps('/dev/../etc partition') },
      'unknown',
      'unknown',
    ],
  ];
  test.each(cases)('%s', (_name, files, value, plain) => {
    const fact = look(files);
    expect(fact['mem.swap']).toMatchObject({ state: value === 'none' ? 'absent' : 'present', value });
    expect(fact['mem.swap.plain']).toMatchObject({ state: plain });
  });

  test('encrypted memory beside plain swap is a contradiction', () => {
    const snp = readFileSync(`${machines}/epyc-milan-snp-guest/cpuid.txt`, 'utf8');
    const plain = look({
      'cpuid.txt': snp,
      'proc/swaps': swaps('/dev/sda2 partition'),
      [`${block}/sda2/`]: '',
    });
    expect(plain['contradiction.encrypted-memory-plain-swap']).toMatchObject({ state: 'present' });
    const none = look({ 'cpuid.txt': snp, 'proc/swaps': swaps() });
    expect(none['contradiction.encrypted-memory-plain-swap']).toMatchObject({ state: 'absent' });
  });
});

describe('a file of /proc or /sys that is', () => {
  const ids: Record<string, string> = {
    'proc/swaps': 'mem.swap.plain',
    'sys/kernel/security/lockdown': 'kernel.lockdown',
    'sys/class/dmi/id/sys_vendor': 'ec2.vm',
    'sys/module/kvm_intel/parameters/nested': 'virt.nested',
    'sys/devices/system/cpu/vulnerabilities/meltdown': 'kernel.vulnerability.meltdown',
    'sys/kernel/kexec_crash_loaded': 'dump.kdump',
    'proc/sys/kernel/core_pattern': 'dump.core-enabled',
    'proc/sys/fs/suid_dumpable': 'dump.suid',
    'sys/power/state': 'mem.hibernation',
    'sys/devices/system/cpu/smt/active': 'cpu.smt',
    'sys/fs/cgroup/misc.capacity': 'mem.sev.capacity',
    'proc/cpuinfo': 'cpu.microcode',
  };
  const contents: [string, string | Uint8Array, RegExp][] = [
    ['empty', '', /empty|no heading/],
    ['enormous', 'x'.repeat(1 << 20), /larger than it can be/],
    ['enormous, in lines', 'abc\n'.repeat(1 << 18), /larger|neither|brackets|not|no heading|does not/],
    ['without newline', 'Y', /does not end with a newline/],
    ['full of NUL bytes', new Uint8Array(64), /NUL|newline/],
    ['nonsense', '\u001b[31m%s%n../../..\n', /./],
  ];
  for (const [what, content, reason] of contents) {
    test.each(Object.entries(ids))(`${what} leaves what %s says unknown, with the reason`, (path, id) => {
      const sleeps = path === 'sys/power/state' ? { 'sys/power/disk': '[platform]\n' } : {};
      const fact = look({ ...sleeps, [path]: content })[id];
      const harmless = what === 'enormous, in lines' || what === 'nonsense';
      if (harmless && fact?.state !== 'unknown') {
        // Text of the right shape that says something else: no claim may come of it but a plain "not that".
        expect(fact).toMatchObject({ state: path.includes('core_pattern') ? expect.any(String) : 'absent' });
        return;
      }
      expect(fact).toMatchObject({ state: 'unknown' });
      expect(`${fact?.reason}; ${fact?.evidence}`).toMatch(reason);
    });
  }

  test('a directory, a pipe or a link out of the root is unknown, and does not hang', () => {
    const root = machine({ 'proc/swaps/x': '' });
    mkdirSync(join(root, 'sys/kernel/security'), { recursive: true });
    execFileSync('mkfifo', [join(root, 'sys/kernel/security/lockdown')]);
    mkdirSync(join(root, 'proc/sys/kernel'), { recursive: true });
    symlinkSync('/proc/sys/kernel/core_pattern', join(root, 'proc/sys/kernel/core_pattern'));
    const fact = facts(['--root', root]);
    expect(fact['mem.swap']).toMatchObject({ state: 'unknown' });
    expect(fact['mem.swap']?.reason).toContain('not a regular file');
    expect(fact['kernel.lockdown']?.reason).toContain('not a regular file');
    expect(fact['dump.core-pattern']).toMatchObject({ state: 'unknown' });
  });
});

test('escape sequences in what a machine says reach neither the terminal nor break the JSON', () => {
  const root = machine({
    'sys/class/dmi/id/sys_vendor': 'A\u001b]0;owned\u0007"\\\n',
    'proc/sys/kernel/core_pattern': new Uint8Array([0xff, 0xfe, 0x9b, 0x41, 10]),
  });
  const text = run(['--text', '--root', root]).stdout;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
  expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  expect(text).toContain('\\x1b]0;owned');
  const { stdout } = spawnSync(program, ['--json', '--root', root]);
  expect(() => new TextDecoder('utf-8', { fatal: true }).decode(stdout)).not.toThrow();
  expect(probe(['--root', root]).facts.find(({ id }) => id === 'dump.core-pattern')?.value).toBe(
    '\ufffd\ufffd\ufffdA',
  );
});

test('words match whole: vmx_vnmi is not vmx, xsvm is not svm', () => {
  const info = (flags: string) => `processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: ${flags}\n\n`;
  const alike = look({ 'proc/cpuinfo': info('fpu vmx_vnmi xsvm hypervisor sgx_lc sev_es2') });
  expect(alike['contradiction.virtualization']).toMatchObject({ state: 'absent' });
  const real = look({ 'proc/cpuinfo': info('fpu vmx hypervisor') });
  expect(real['contradiction.virtualization']).toMatchObject({ state: 'present' });
  expect(real['contradiction.virtualization']?.reason).toContain('vmx');
});

test('sources that differ about vendor, hypervisor or EC2 are contradictions', () => {
  const fact = look({
    'proc/cpuinfo': 'processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu\n\n',
    'sys/class/dmi/id/sys_vendor': 'Amazon EC2\n',
    'sys/class/dmi/id/product_name': 'm7i.metal-24xl\n',
    'sys/class/dmi/id/board_asset_tag': 'i-0123456789abcdef0\n',
    'dev/tdx_guest': '',
  });
  for (const name of ['vendor', 'hypervisor', 'ec2', 'tdx-guest'])
    expect(fact[`contradiction.${name}`]).toMatchObject({ state: 'present' });
  expect(fact['ec2.instance-id']).toMatchObject({ state: 'present', value: 'i-0123456789abcdef0' });
  expect(fact['ec2.bare-metal']).toMatchObject({ state: 'absent' });
});

test.each([
  ['i-0123456789abcdef0', 'present'],
  ['i-01234567', 'present'],
  ['i-0123456789abcdef', 'unknown'],
  ['i-0123456789abcdefg', 'unknown'],
  ['Not Specified', 'unknown'],
])('a board asset tag %s is an instance id: %s', (tag, state) => {
  const fact = look({
    'sys/class/dmi/id/sys_vendor': 'Amazon EC2\n',
    'sys/class/dmi/id/board_asset_tag': `${tag}\n`,
  });
  expect(fact['ec2.instance-id']).toMatchObject({ state });
});

test.each([
  ['ec2f1d3a-0000-4000-8000-000000000000', 'present'],
  ['45E12AEC-DCD1-B213-94ED-012345ABCDEF', 'present'],
  ['12345678-0000-4000-8000-000000000000', 'absent'],
])('a product UUID %s makes it EC2: %s', (uuid, state) => {
  expect(
    look({ 'sys/class/dmi/id/sys_vendor': 'Xen\n', 'sys/class/dmi/id/product_uuid': `${uuid}\n` })['ec2.vm'],
  ).toMatchObject({ state });
});

test('vulnerabilities are told as the kernel tells them, mitigated apart from open, new ones counted', () => {
  const v = 'sys/devices/system/cpu/vulnerabilities';
  const fact = look({
    [`${v}/meltdown`]: 'Not affected\n',
    [`${v}/spectre_v2`]: 'Mitigation: Enhanced IBRS\n',
    [`${v}/mds`]: 'Mitigation: Clear CPU buffers; SMT vulnerable\n',
    [`${v}/tsa`]: 'Mitigation: Clear CPU buffers; SMT Host state unknown\n',
    [`${v}/itlb_multihit`]: 'KVM: Vulnerable\n',
    [`${v}/l1tf`]: 'Vulnerable: Clear CPU buffers attempted, no microcode\n',
    [`${v}/a_new_one`]: 'Vulnerable\n',
  });
  const state = (name: string) => fact[`kernel.vulnerability.${name}`]?.state;
  expect([
    state('meltdown'),
    state('spectre-v2'),
    state('mds'),
    state('tsa'),
    state('itlb-multihit'),
    state('l1tf'),
    state('vmscape'),
  ]).toEqual(['absent', 'absent', 'present', 'unknown', 'present', 'present', 'unknown']);
  expect(fact['kernel.vulnerabilities']).toMatchObject({
    state: 'present',
    value: 'l1tf mds itlb_multihit a_new_one',
  });
});

test('MSRs are read from a recorded file at their offset; beyond its end they are unknown', () => {
  const leaves = readFileSync(`${machines}/qemu-tcg-icelake-server/cpuid.txt`, 'utf8')
    .replace(/^MSR.*\n/gm, '')
    .replace(/(0x00000001 0x00: .* ecx=)0x[0-9a-f]+/, '$10x80000020');
  const root = machine({ 'cpuid.txt': leaves, 'dev/cpu/0/msr': '' });
  const fd = openSync(join(root, 'dev/cpu/0/msr'), 'r+');
  writeSync(fd, new Uint8Array([5, 0, 0, 0, 0, 0, 0, 0]), 0, 8, 0x3a);
  const fact = facts(['--root', root]);
  expect(fact['virt.vmx.enabled']).toMatchObject({
    state: 'present',
    evidence: expect.stringContaining('IA32_FEATURE_CONTROL=0x5'),
  });
  expect(fact['virt.nested-paging']).toMatchObject({
    state: 'unknown',
    reason: 'the recording has no MSR 0x0000048b',
  });
});

test('Secure Boot and setup mode are read from EFI variables of five bytes and nothing else', () => {
  const guid = '8be4df61-93ca-11d2-aa0d-00e098032b8c';
  const efi = (bytes: number[]) =>
    look({ [`sys/firmware/efi/efivars/SecureBoot-${guid}`]: new Uint8Array(bytes) })['boot.secure-boot'];
  expect(efi([6, 0, 0, 0, 1])).toMatchObject({ state: 'present' });
  expect(efi([6, 0, 0, 0, 0])).toMatchObject({ state: 'absent' });
  expect(efi([6, 0, 0, 0, 2])).toMatchObject({ state: 'unknown' });
  expect(efi([6, 0, 0, 0])).toMatchObject({ state: 'unknown' });
  expect(look({ 'sys/firmware/acpi/tables/FACP': '' })['boot.secure-boot']).toMatchObject({
    state: 'absent',
  });
  expect(look({ 'sys/firmware/': '' })['boot.secure-boot']).toMatchObject({ state: 'unknown' });
});

test('an Arm guest is told plainly what cannot be seen from it', () => {
  const root = machine({
    'cpuid.txt': 'casemate-recording 1\narchitecture aarch64\n',
    'proc/cpuinfo': 'processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\n',
    'proc/cmdline': 'console=ttyS0\n',
    'sys/class/dmi/id/sys_vendor': 'Amazon EC2\n',
    'sys/class/dmi/id/product_name': 'c7g.xlarge\n',
  });
  const fact = facts(['--root', root]);
  expect(fact['arm.memory-encryption']?.reason).toContain('cannot be seen from here');
  expect(fact['arm.el2']).toMatchObject({
    state: 'unknown',
    reason: expect.stringContaining('cannot be seen from here'),
  });
  expect(fact['arm.cca.realm']).toMatchObject({
    state: 'absent',
    reason: expect.stringContaining('no Graviton type offers realms'),
  });
  expect(fact['virt.vmx.advertised']).toMatchObject({
    state: 'absent',
    reason: 'a feature of x86 processors',
  });
  const realm = facts([
    '--root',
    machine({
      'cpuid.txt': 'casemate-recording 1\narchitecture aarch64\n',
      'sys/kernel/config/tsm/report/r/provider': 'arm_cca_guest\n',
    }),
  ]);
  expect(realm['arm.cca.realm']).toMatchObject({ state: 'present' });
});

describe('--record', () => {
  test('keeps every fact of a machine, and nothing that names it', () => {
    const secrets = [
      'i-0123456789abcdef0',
      'ec2f1d3a-1111-4222-8333-444455556666',
      'SERIAL-77',
      'my-root-crypt',
      'deadbeef',
      'alice',
      'hunter2',
    ];
    const root = machine({
      'sys/class/dmi/id/sys_vendor': 'Amazon EC2\n',
      'sys/class/dmi/id/product_name': 'm7i.large\n',
      'sys/class/dmi/id/board_asset_tag': `${secrets[0]}\n`,
      'sys/class/dmi/id/product_uuid': `${secrets[1]}\n`,
      'sys/class/dmi/id/product_serial': `${secrets[2]}\n`,
      'proc/cmdline': 'root=UUID=deadbeef password=hunter2 nohibernate\n',
      'proc/cpuinfo':
        'processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\nSerial\t: SERIAL-77\n\n',
      'proc/swaps': swaps(
        '/home/alice/swap file',
        '/dev/dm-3 partition',
        '/dev/mapper/my-root-crypt partition',
      ),
      'proc/self/mountinfo':
        '20 1 253:0 / /home/alice rw - ext4 /dev/mapper/my-root-crypt rw\n30 20 8:3 / /mnt/deadbeef rw - ext4 /dev/sdq rw\n',
      [`${block}/dm-0/dm/uuid`]: 'CRYPT-LUKS2-deadbeef-my-root-crypt\n',
      [`${block}/dm-0/dm/name`]: 'my-root-crypt\n',
      [`${block}/dm-3/dm/uuid`]: 'CRYPT-PLAIN-my-root-crypt\n',
      'dev/kvm': 'KVM_GET_API_VERSION 12\n',
      'sys/kernel/config/tsm/report/alice/provider': 'tdx_guest\n',
      'sys/class/tpm/tpm0/tpm_version_major': '2\n',
      'sys/class/iommu/dmar0': '',
    });
    const copy = join(scratch, 'recorded');
    expect(run(['--root', root, '--record', copy])).toMatchObject({ status: 0, stdout: '', stderr: '' });
    const written =
      execFileSync('grep', ['-r', '', copy], { encoding: 'utf8' }) +
      execFileSync('find', [copy], { encoding: 'utf8' });
    for (const secret of secrets) expect(written).not.toContain(secret);
    const states = (from: string) => probe(['--root', from]).facts.map(({ id, state }) => `${id} ${state}`);
    expect(states(copy)).toEqual(states(root));
    const fact = facts(['--root', copy]);
    expect(fact['mem.swap']).toMatchObject({ state: 'present', value: 'encrypted' });
    expect(fact['ec2.instance-id']).toMatchObject({ value: 'i-00000000000000000' });
    expect(fact['attest.tsm']).toMatchObject({ value: 'tdx_guest' });
  });

  test('this host, recorded and read back, is the same machine', () => {
    const copy = join(scratch, 'host');
    expect(run(['--record', copy])).toMatchObject({ status: 0, stderr: '' });
    const states = (args: string[]) =>
      probe(args).facts.map(({ id, state, value }) => `${id} ${state} ${id.startsWith('ec2.') ? '' : value}`);
    expect(states(['--root', copy])).toEqual(states([]));
  });

  test('refuses a directory that has something in it, and says so in one line', () => {
    const { status, stdout, stderr } = run(['--record', machines]);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(/^casemate-probe: .*not an empty directory\n$/);
    expect(readdirSync(machines)).not.toContain('proc');
  });
});
