import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { facts, machines, make, probe, run } from './native.ts';

const directory = mkdtempSync(join(tmpdir(), 'casemate-recordings-'));
beforeAll(() => make('probe'));
afterAll(() => rmSync(directory, { recursive: true }));

let count = 0;
function recording(content: string | Uint8Array): string {
  const path = join(directory, `${count++}.txt`);
  writeFileSync(path, content);
  return path;
}

const leaf = (number: number, subleaf: number, registers: number[]) => ({ number, subleaf, registers });
const hex = (value: number) => value.toString(16).padStart(8, '0');

// A small Intel processor with VT-x, TME and SGX: the same machine is written in every format below.
const processor = [
  leaf(0, 0, [0x12, 0x756e6547, 0x6c65746e, 0x49656e69]),
  leaf(1, 0, [0x000806f8, 0x00100800, 0x00000020, 0x00000000]),
  leaf(4, 0, [0x04000121, 0x01c0003f, 0x0000003f, 0]),
  leaf(4, 1, [0x04000122, 0x01c0003f, 0x0000003f, 0]),
  leaf(7, 0, [0, 0x00000004, 0x40002000, 0x00040000]),
  leaf(0x12, 0, [3, 0, 0, 0x1f]),
  leaf(0x12, 1, [0x36, 0, 0x1f, 0]),
  leaf(0x12, 2, [0x70180001, 0, 0x0be80001, 0]),
  leaf(0x80000000, 0, [0x80000008, 0, 0, 0]),
  leaf(0x80000001, 0, [0, 0, 0x121, 0x2c100800]),
  leaf(0x80000008, 0, [0x3027, 0, 0, 0]),
];
type Leaf = (typeof processor)[number];

const cpuidR = (leaves: Leaf[]) =>
  leaves
    .map(({ number, subleaf, registers: [a = 0, b = 0, c = 0, d = 0] }) => {
      return `   0x${hex(number)} 0x${subleaf.toString(16).padStart(2, '0')}: eax=0x${hex(a)} ebx=0x${hex(b)} ecx=0x${hex(c)} edx=0x${hex(d)}\n`;
    })
    .join('');
const instlat = (leaves: Leaf[], { numbered = true, separator = ':', indent = '' } = {}) =>
  leaves
    .map(({ number, subleaf, registers }) => {
      const note = numbered && (number === 4 || number === 0x12) ? ` [SL ${hex(subleaf).slice(6)}]` : '';
      return `${indent}CPUID ${hex(number).toUpperCase()}${separator} ${registers.map(hex).join('-').toUpperCase()}${note}\n`;
    })
    .join('');
const fingerprint = (leaves: Leaf[]) =>
  JSON.stringify(
    {
      firecracker_version: '1.11.0',
      kernel_version: '6.1 "quoted" \\ \u00e9',
      guest_cpu_config: {
        kvm_capabilities: [],
        cpuid_modifiers: leaves.map(({ number, subleaf, registers }) => ({
          leaf: `0x${number.toString(16)}`,
          subleaf: `0x${subleaf.toString(16)}`,
          flags: 1,
          modifiers: ['eax', 'ebx', 'ecx', 'edx'].map((register, index) => ({
            register,
            bitmap: `0b${(registers[index] ?? 0).toString(2).padStart(32, '0')}`,
          })),
        })),
        msr_modifiers: [
          { addr: '0x3a', bitmap: `0b${'0'.repeat(61)}101` },
          { addr: '0x10a', bitmap: `0b${'0'.repeat(64)}` },
        ],
      },
    },
    null,
    2,
  );
const reduced = (leaves: Leaf[]) => {
  const cpuid: Record<string, Record<string, string[]>> = {};
  for (const { number, subleaf, registers } of leaves) {
    cpuid[`0x${number.toString(16)}`] = {
      ...cpuid[`0x${number.toString(16)}`],
      [String(subleaf)]: registers.map(hex),
    };
  }
  return JSON.stringify({ note: 'a note', cpuid, msr: { '0x3a': '0x5' } });
};

const second = processor.map((entry) =>
  entry.number === 1 ? leaf(1, 0, [0x000806f8, 0x01100800, 0x00000020, 0]) : entry,
);

describe('the same processor', () => {
  const formats: Record<string, string> = {
    'cpuid -1 -r': `CPU:\n${cpuidR(processor)}`,
    'cpuid -r of two processors': `CPU 0:\n${cpuidR(processor)}CPU 1:\n${cpuidR(second)}`,
    'cpuid -r without a heading': cpuidR(processor),
    'cpuid -r with CRLF and comments': `# a host\r\nCPU 0:\r\n${cpuidR(processor).replaceAll('\n', '\r\n')}\r\n`,
    'cpuid -r whose last line has no newline': cpuidR(processor).trimEnd(),
    'InstLatx64 lines': instlat(processor),
    'InstLatx64 with sections, prose and MSRs': [
      '------[ Versions ]------\n\n  Program Version : AIDA64 v7.00\n\n------[ Logical CPU #0 ]------\n',
      'allcpu: Package 0 / Core 0 / Thread 0: Valid\n',
      instlat(processor),
      '\n------[ Logical CPU #1 ]------\n\n',
      instlat(second),
      '\n------[ MSR Registers ]------\n\nMSR 00000017: 0004-0000-0000-0000 [PlatID = 1]\n',
      'MSR 0000003A: 0000-0000-0000-0005\nMSR 00000300: < FAILED >\nMSR 00000300: < FAILED >\n',
    ].join('\n'),
    'InstLatx64 with older headings': `------[ CPUID Registers / Logical CPU #0 ]------\n${instlat(processor)}------[ CPUID Registers / Logical CPU #1 ]------\n${instlat(second)}`,
    'InstLatx64 with affinity headings': `CPU#000 AffMask: 0x00000001\n${instlat(processor)}\nCPU#001 AffMask: 0x00000002\n${instlat(second)}`,
    'InstLatx64 without headings between processors': instlat(processor) + instlat(second),
    'InstLatx64 that does not number its subleaves': instlat(processor, { numbered: false }),
    'InstLatx64 with blanks before the colon and bare notes': instlat(processor, {
      separator: ' :',
    }).replaceAll('\n', ' GenuineIntel\n'),
    'an AIDA64 report': `  CPU Properties:\n    CPUID Manufacturer          GenuineIntel\n    CPUID Revision              000806F8h\n\n    CPUID Registers (CPU #1):\n${instlat(processor, { separator: '                          ', indent: '      ' })}\n    CPUID Registers (CPU #2 Virtual):\n${instlat(second, { separator: '                          ', indent: '      ' })}`,
    'InstLatx64 with a byte order mark and CRLF': `\ufeff${instlat(processor).replaceAll('\n', '\r\n')}`,
    'a Firecracker fingerprint': fingerprint(processor),
    'a reduced fingerprint': reduced(processor),
    'our own recording': `casemate-recording 1\narchitecture x86_64\nCPU 0:\n${cpuidR(processor)}MSR 0x0000003a: 0x0000000000000005\nMSR 0x00000982: EIO\n`,
  };
  test.each(Object.entries(formats))('reads alike as %s', (_name, text) => {
    const path = recording(text);
    const { machine } = probe(['--cpuid', path]);
    expect(machine).toMatchObject({
      vendor: 'GenuineIntel',
      signature: '0x806f8',
      cpuid: 'recording',
      files: 'none',
    });
    const fact = facts(['--cpuid', path]);
    expect(fact['virt.vmx.advertised']).toMatchObject({ state: 'present' });
    expect(fact['mem.tme.advertised']).toMatchObject({ state: 'present' });
    expect(fact['mem.pconfig.advertised']).toMatchObject({ state: 'present' });
    expect(fact['mem.sgx.sgx2']).toMatchObject({ state: 'present' });
    expect(fact['mem.sgx.epc']).toMatchObject({ state: 'present', value: 0x0be80000 });
    expect(fact['virt.hypervisor']).toMatchObject({ state: 'absent' });
    expect(fact['mem.sev.advertised']).toMatchObject({ state: 'absent' });
    const hasMsr = /MSR 0x0000003a|MSR 0000003A|"0x3a"/.test(text);
    expect(fact['virt.vmx.enabled']).toMatchObject({ state: hasMsr ? 'present' : 'unknown' });
  });

  test('says nothing about the files of the host that it is read on', () => {
    const fact = facts(['--cpuid', recording(cpuidR(processor))]);
    for (const id of [
      'mem.swap',
      'virt.kvm.usable',
      'kernel.lockdown',
      'tpm.present',
      'ec2.vm',
      'boot.secure-boot',
    ]) {
      expect(fact[id]).toMatchObject({ state: 'unknown' });
      expect(fact[id]?.reason).toMatch(/no files|not known|is unknown/);
    }
  });
});

test('a leaf that the processor has and the recording does not is unknown, not absent', () => {
  const fact = facts(['--cpuid', recording(cpuidR(processor.filter(({ number }) => number !== 7)))]);
  expect(fact['mem.tme.advertised']).toMatchObject({
    state: 'unknown',
    reason: 'the recording has no leaf 0x00000007 subleaf 0x0',
  });
  expect(fact['mem.tme.enabled']).toMatchObject({ state: 'unknown' });
});

describe('a recording is refused with one line that names the place, exit 2 and no output, when it', () => {
  const good = cpuidR(processor);
  const lines = good.split('\n');
  const replaced = (index: number, line: string) =>
    [...lines.slice(0, index), line, ...lines.slice(index + 1)].join('\n');
  const cases: [string, string | Uint8Array, RegExp][] = [
    ['is empty', '', /: empty$/],
    ['is prose', 'root:x:0:0::/root:/bin/sh\nnobody:x:1:1::/:/bin/sh\n', /:2: no CPUID leaf/],
    ['is binary', new Uint8Array([0x7f, 0x45, 0x4c, 0x46, 0, 0, 0, 10]), /:1: a NUL byte/],
    ['ends within a line', good.slice(0, good.length - 20), new RegExp(`:${processor.length}: not eax=`)],
    [
      'repeats a leaf',
      `${good}${lines[1]}\n`,
      new RegExp(`:${processor.length + 1}: leaf 0x00000001 subleaf 0x0 a second time`),
    ],
    ['repeats leaf 0', `${good}${lines[0]}\n`, /leaf 0x00000000 subleaf 0x0 a second time/],
    ['repeats a leaf with other data', `${good}${cpuidR([leaf(7, 0, [0, 0, 0, 0])])}`, /a second time/],
    [
      'has a register of nine digits',
      replaced(1, lines[1]?.replace('eax=0x', 'eax=0x1') ?? ''),
      /:2: not eax=/,
    ],
    [
      'has a register that is not hexadecimal',
      replaced(1, lines[1]?.replace('eax=0x0', 'eax=0xg') ?? ''),
      /:2: not eax=/,
    ],
    ['has registers in another order', replaced(1, lines[1]?.replace('eax', 'edx') ?? ''), /:2: not eax=/],
    [
      'has a leaf of nine digits',
      replaced(1, lines[1]?.replace('0x00000001', '0x100000001') ?? ''),
      /:2: leaf number/,
    ],
    ['has something after a leaf', replaced(1, `${lines[1]} rm -rf`), /:2: something after edx/],
    ['lacks leaf 0', lines.slice(1).join('\n'), /no leaf 0x00000000/],
    ['lacks leaf 1', [lines[0], ...lines.slice(2)].join('\n'), /ends before leaf 0x00000001/],
    [
      'has a second processor that is cut off',
      `CPU 0:\n${good}CPU 1:\n${lines[0]}\n`,
      /processor 1 ends before leaf/,
    ],
    ['has a line of two thousand bytes', `${'#'.repeat(2000)}\n${good}`, /:1: a line of more than/],
    [
      'mixes formats',
      good + instlat(processor),
      new RegExp(`:${processor.length + 1}: two recording formats`),
    ],
    ['has a strange line among leaves', replaced(3, 'eax ebx'), /:4: not a line of cpuid -r/],
    [
      'has a thousand leaves',
      `${good}${Array.from({ length: 1000 }, (_, i) => cpuidR([leaf(0x20000000 + i, 0, [0, 0, 0, 0])])).join('')}`,
      /more than 512 leaves/,
    ],
    [
      'repeats an InstLatx64 leaf',
      `${instlat(processor)}CPUID 00000001: 000806F8-00100800-00000021-00000000\n`,
      new RegExp(`:${processor.length + 1}: leaf 0x00000001`),
    ],
    [
      'repeats InstLatx64 leaf 0 and stops',
      `${instlat(processor)}${instlat(processor.slice(0, 1))}`,
      /ends before leaf 0x00000001/,
    ],
    [
      'has an InstLatx64 register of seven digits',
      instlat(processor).replace('000806F8', '00806F8'),
      /:2: (register 1|cut off)/,
    ],
    [
      'has an InstLatx64 register of nine digits',
      instlat(processor).replace('-00000020-00000000', '-00000020-000000000'),
      /:2: more than 8 digits/,
    ],
    [
      'has three InstLatx64 registers',
      instlat(processor).replace('-00000020-00000000', '-00000020'),
      /:2: cut off after register 3/,
    ],
    [
      'has an InstLatx64 leaf number with letters',
      instlat(processor).replace('CPUID 00000007', 'CPUID 0000000Z'),
      /:5: leaf number/,
    ],
    [
      'has an InstLatx64 subleaf that is not a number',
      instlat(processor).replace('[SL 01]', '[SL zz]'),
      /:4: subleaf/,
    ],
    [
      'has an InstLatx64 MSR of 15 digits',
      `${instlat(processor)}MSR 0000003A: 0000-0000-0000-005\n`,
      /MSR value/,
    ],
    ['is of a later version', `casemate-recording 2\n${good}`, /:1: a recording of a version/],
    ['has an unknown architecture', `casemate-recording 1\narchitecture vax\n${good}`, /:2: architecture/],
    [
      'has an MSR twice with different values',
      `casemate-recording 1\nCPU 0:\n${good}MSR 0x0000003a: 0x5\nMSR 0x0000003a: 0x1\n`,
      /a second time, with another value/,
    ],
    ['is JSON without leaves', '{"cpuid": {}}', /no CPUID leaf 0x00000000/],
    ['is cut-off JSON', fingerprint(processor).slice(0, 2000), /JSON/],
    ['is JSON with something after it', `${reduced(processor)}{}`, /something after the JSON object/],
    ['is JSON nested without end', `{"a":${'['.repeat(100000)}`, /nested deeper/],
    [
      'is JSON with three registers',
      reduced(processor).replace('"00000004","40002000",', '"40002000",'),
      /3 registers, not four/,
    ],
    [
      'is JSON with five registers',
      reduced(processor).replace('"00000004",', '"00000004","00000004",'),
      /more than four registers/,
    ],
    [
      'is JSON with a register that is a number',
      reduced(processor).replace('"00000004"', '4'),
      /JSON: expected '"'/,
    ],
    [
      'is JSON with a leaf twice',
      reduced(processor).replace('"0x7":{"0":', '"0x7":{"0":["0","0","0","0"],"0x0":'),
      /a second time/,
    ],
    [
      'is a template that leaves bits open',
      fingerprint(processor).replace('0b0000', '0bxxxx'),
      /:\d+: a bitmap that is not 32 given bits/,
    ],
    ['is a fingerprint without ECX', fingerprint(processor).replace('"ecx"', '"eax"'), /a register twice/],
    [
      'is an Arm fingerprint',
      JSON.stringify({
        guest_cpu_config: { reg_modifiers: [{ addr: '0x6030000000100000', bitmap: '0b0' }] },
      }),
      /no CPUID leaf/,
    ],
  ];
  test.each(cases)('%s', (_name, content, message) => {
    const path = recording(content);
    const { status, stdout, stderr } = run(['--json', '--cpuid', path]);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(stderr.trimEnd()).toMatch(message);
    expect(stderr).toContain(path);
  });

  test('is not there, is a directory, or is without end', () => {
    for (const path of [join(directory, 'none'), directory, '/dev/zero']) {
      const { status, stdout, stderr } = run(['--json', '--cpuid', path]);
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
      expect(stderr).toMatch(/^casemate-probe: .*(ENOENT|EISDIR|larger than 8 MiB)\n$/);
    }
  });

  test('is cut off at any byte whatsoever, or reads as part of the same machine', () => {
    for (const text of [cpuidR(processor), instlat(processor), reduced(processor)]) {
      for (let end = 0; end < text.length; end += 7) {
        const { status, stdout, stderr } = run(['--json', '--cpuid', '/dev/stdin'], {
          input: text.slice(0, end),
        });
        if (status === 2)
          expect({ stdout, lines: stderr.trimEnd().split('\n').length }).toEqual({ stdout: '', lines: 1 });
        else
          expect({ status, vendor: JSON.parse(stdout).machine.vendor }).toEqual({
            status: 0,
            vendor: 'GenuineIntel',
          });
      }
    }
  });
});

describe('an SEV leaf', () => {
  const amd = (sev: number[], leafD = [7, 0x340, 0x340, 0]) =>
    facts([
      '--cpuid',
      recording(
        cpuidR([
          leaf(0, 0, [0xd, 0x68747541, 0x444d4163, 0x69746e65]),
          leaf(1, 0, [0x00a20f12, 0, 0, 0]),
          leaf(0xd, 0, leafD),
          leaf(0x80000000, 0, [0x8000001f, 0x68747541, 0x444d4163, 0x69746e65]),
          leaf(0x80000001, 0, [0, 0, 4, 0]),
          leaf(0x8000001f, 0, sev),
        ]),
      ),
    ]);

  test('that repeats another leaf within the maximum is not believed', () => {
    const fact = amd([7, 0x340, 0x340, 0]);
    expect(fact['mem.sev.advertised']).toMatchObject({
      state: 'unknown',
      reason: expect.stringContaining('data of leaf 0xd'),
    });
    expect(fact['mem.sev.guest']).toMatchObject({ state: 'absent' });
    expect(fact['contradiction.sev-leaf']).toMatchObject({ state: 'present' });
  });

  test.each([
    ['without C-bit and ASIDs, as on some Ryzens', [0x2, 0, 0, 0]],
    ['without ASIDs on a host', [0x2, 0x33, 0, 0]],
    ['with SEV-ES and no SEV', [0x8, 0x33, 5, 1]],
    ['with SEV-SNP and no SEV-ES', [0x12, 0x33, 5, 1]],
  ])('%s is a contradiction', (_name, registers) => {
    expect(amd(registers)['contradiction.sev-leaf']).toMatchObject({ state: 'present' });
  });

  test('that holds together is believed, and is no proof that the host can run such guests', () => {
    const fact = amd([0x1780f, 0x173, 0x1fd, 1]);
    expect(fact['contradiction.sev-leaf']).toMatchObject({ state: 'absent' });
    expect(fact['mem.sev-es.advertised']).toMatchObject({ state: 'present' });
    expect(fact['mem.sev.enabled']).toMatchObject({ state: 'unknown' });
  });
});

test('a hypervisor behind another is found, and Hyper-V that isolates an SNP guest is believed with a reason', () => {
  const guest = (ebx: number) => [
    leaf(0, 0, [0xd, 0x68747541, 0x444d4163, 0x69746e65]),
    leaf(1, 0, [0x00a00f11, 0, 0x80000000, 0]),
    leaf(0x40000000, 0, [0x4000000c, 0x7263694d, 0x666f736f, 0x76482074]),
    leaf(0x40000003, 0, [0, ebx, 0, 0]),
    leaf(0x4000000c, 0, [0, 2, 0, 0]),
    leaf(0x40000100, 0, [0x40000101, 0x4b4d564b, 0x564b4d56, 0x4d]),
    leaf(0x80000000, 0, [0x80000008, 0, 0, 0]),
  ];
  const isolated = facts(['--cpuid', recording(cpuidR(guest(1 << 22)))]);
  expect(isolated['virt.hypervisor']).toMatchObject({ value: 'Microsoft Hv' });
  expect(isolated['virt.hypervisor.nested']).toMatchObject({
    state: 'present',
    value: 'KVMKVMKVM at 0x40000100',
  });
  expect(isolated['virt.hyperv.isolation']).toMatchObject({ state: 'present', value: 'snp' });
  expect(isolated['mem.sev-snp.guest']).toMatchObject({
    state: 'present',
    reason: expect.stringContaining('Hyper-V says'),
  });
  const plain = facts(['--cpuid', recording(cpuidR(guest(0)))]);
  expect(plain['virt.hyperv.isolation']).toMatchObject({ state: 'absent' });
  expect(plain['mem.sev-snp.guest']).toMatchObject({ state: 'absent' });
});

test('a TDX guest shows itself in leaf 0x21', () => {
  const guest = (maximum: number) => [
    leaf(0, 0, [maximum, 0x756e6547, 0x6c65746e, 0x49656e69]),
    leaf(1, 0, [0x000806f8, 0, 0x80000000, 0]),
    leaf(7, 0, [0, 0, 0, 0]),
    leaf(0x21, 0, [0, 0x65746e49, 0x20202020, 0x5844546c]),
    leaf(0x80000000, 0, [0x80000008, 0, 0, 0]),
  ];
  expect(facts(['--cpuid', recording(cpuidR(guest(0x21)))])['mem.tdx.guest']).toMatchObject({
    state: 'present',
  });
  expect(facts(['--cpuid', recording(cpuidR(guest(0x20)))])['mem.tdx.guest']).toMatchObject({
    state: 'absent',
  });
});

describe('recorded machines of our own', () => {
  test.each(['qemu-tcg-epyc', 'qemu-tcg-epyc-milan'])(
    '%s lies in the SEV leaf and is not believed',
    (name) => {
      const fact = facts(['--root', `${machines}/${name}`]);
      expect(readFileSync(`${machines}/${name}/cpuid.txt`, 'utf8')).toMatch(
        /0x8000001f 0x00: eax=0x00000[02]07/,
      );
      for (const id of ['mem.sme', 'mem.sev', 'mem.sev-es', 'mem.sev-snp', 'mem.vmpl', 'mem.secure-tsc']) {
        expect(fact[`${id}.advertised`]).toMatchObject({
          state: 'absent',
          reason: 'the processor has no leaf 0x8000001f',
        });
      }
      expect(fact['mem.sev.guest']).toMatchObject({ state: 'absent' });
      expect(fact['contradiction.sev-leaf']).toMatchObject({ state: 'present' });
      expect(fact['contradiction.sev-leaf']?.reason).toContain('answers with the data of leaf 0xd');
      expect(fact['virt.hypervisor']).toMatchObject({ state: 'present', value: 'TCGTCGTCGTCG' });
      expect(fact['virt.svm.enabled']).toMatchObject({
        state: 'present',
        evidence: 'MSR 0xc0010114 VM_CR=0x0: SVMDIS is 0, LOCK is 0',
      });
      expect(fact['virt.kvm.usable']).toMatchObject({ state: 'present', value: 12 });
    },
  );

  test('qemu-tcg-epyc-milan has a software TPM 2.0 made by IBM', () => {
    const fact = facts(['--root', `${machines}/qemu-tcg-epyc-milan`]);
    expect(fact['tpm.version']).toMatchObject({ state: 'present', value: 2 });
    expect(fact['tpm.manufacturer']).toMatchObject({ state: 'present', value: 'IBM' });
  });

  test('qemu-tcg-icelake-server swaps to a plain disk', () => {
    const fact = facts(['--root', `${machines}/qemu-tcg-icelake-server`]);
    expect(fact['mem.swap']).toMatchObject({ state: 'present', value: 'plain' });
    expect(fact['mem.swap.plain']).toMatchObject({ state: 'present' });
    expect(fact['mem.swap.plain']?.hint).toContain('dm-crypt');
    expect(fact['virt.vmx.advertised']).toMatchObject({ state: 'absent' });
    expect(fact['mem.sev.advertised']).toMatchObject({ state: 'absent' });
  });

  test('firecracker-guest-genoa has a KVM that its processor cannot explain', () => {
    const fact = facts(['--root', `${machines}/firecracker-guest-genoa`]);
    expect(fact['virt.kvm.usable']).toMatchObject({ state: 'present', value: 12 });
    expect(fact['virt.svm.advertised']).toMatchObject({ state: 'absent' });
    expect(fact['contradiction.kvm']).toMatchObject({ state: 'present' });
    expect(fact['mem.sev.c-bit']).toMatchObject({ value: 0 });
    expect(fact['ec2.vm']).toMatchObject({ state: 'unknown' });
  });
});
