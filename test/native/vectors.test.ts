import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from '@jest/globals';
import { facts, machines, make, vectors } from './native.ts';

beforeAll(() => make('probe', 'addon'));

interface Expected {
  [name: string]: string | number | boolean | string[] | null;
}

/** What the probe says in the vocabulary of the vectors' expected.json. */
function inVectorTerms(recording: string): Expected {
  const fact = facts(['--cpuid', recording]);
  const of = (id: string) => {
    const found = fact[id];
    if (found === undefined) throw new Error(`no fact ${id}`);
    return found;
  };
  const is = (id: string) => {
    const { state } = of(id);
    if (state === 'unknown') throw new Error(`${id} is unknown: ${of(id).reason}`);
    return state === 'present';
  };
  const number = (id: string) => (is(id) ? (of(id).value as number) : null);
  const sevLeaf = /EAX=0x([0-9a-f]+) EBX=0x([0-9a-f]+) ECX=0x([0-9a-f]+) EDX=0x([0-9a-f]+)/.exec(
    of('contradiction.sev-leaf').evidence,
  );
  return {
    vendor: of('cpu.vendor').value as string,
    max_leaf: of('cpu.max-leaf').value as string,
    max_ext_leaf: of('cpu.max-extended-leaf').value as string,
    signature: of('cpu.signature').value as string,
    family: `0x${(of('cpu.family').value as number).toString(16)}`,
    model: `0x${(of('cpu.model').value as number).toString(16)}`,
    stepping: of('cpu.stepping').value as number,
    hypervisor: is('virt.hypervisor'),
    hypervisor_signature: is('virt.hypervisor') ? (of('virt.hypervisor').value as string) : null,
    vmx: is('virt.vmx.advertised'),
    svm: is('virt.svm.advertised'),
    svm_revision: number('virt.svm.revision'),
    svm_asids: number('virt.svm.asids'),
    svm_nested_paging: is('virt.svm.advertised') && is('virt.nested-paging'),
    svm_lock: is('virt.svm.lock'),
    leaf_8000001f:
      sevLeaf === null ? null : sevLeaf.slice(1).map((hex) => `0x${Number.parseInt(hex, 16).toString(16)}`),
    sme: is('mem.sme.advertised'),
    sev: is('mem.sev.advertised'),
    sev_es: is('mem.sev-es.advertised'),
    sev_snp: is('mem.sev-snp.advertised'),
    vmpl: is('mem.vmpl.advertised'),
    secure_tsc: is('mem.secure-tsc.advertised'),
    vte: is('mem.vte.advertised'),
    cbit_position: number('mem.sev.c-bit'),
    phys_addr_reduction: number('mem.sev.address-reduction'),
    vmpl_count: (of('mem.vmpl.advertised').value as number | undefined) ?? null,
    encrypted_guests: number('mem.sev.asids'),
    min_sev_asid: number('mem.sev.min-asid'),
    sgx_bit: is('mem.sgx.advertised'),
    sgx_launch_control: is('mem.sgx.launch-control'),
    sgx1: is('mem.sgx.sgx1'),
    sgx2: is('mem.sgx.sgx2'),
    tme: is('mem.tme.advertised'),
    pconfig: is('mem.pconfig.advertised'),
    tdx_guest: is('mem.tdx.guest'),
  };
}

if (vectors === undefined) {
  test.skip('reads every shared recording as expected (skipped: ../shared/vectors/cpuid is not here)', () => {});
} else {
  const expected = JSON.parse(readFileSync(`${vectors}/expected.json`, 'utf8')) as Record<
    string,
    { expected: Expected }
  >;
  describe('shared recordings', () => {
    test.each(Object.entries(expected))(
      '%s is read as expected, every value of it',
      (name, { expected: want }) => {
        expect(inVectorTerms(`${vectors}/${name}`)).toEqual(want);
      },
    );
  });
}

test('the composed SEV-SNP guest is one, on EC2 by its own claim, without swap and without contradictions', () => {
  const fact = facts(['--root', `${machines}/epyc-milan-snp-guest`]);
  expect(fact['mem.sev-snp.guest']).toMatchObject({
    state: 'present',
    evidence: 'MSR 0xc0010131 SEV_STATUS=0x7 bit 2 is 1',
  });
  expect(fact['mem.sev.c-bit']).toMatchObject({ state: 'present', value: 51 });
  expect(fact['ec2.instance-type']).toMatchObject({ state: 'present', value: 'm6a.large' });
  expect(fact['ec2.instance-type']?.reason).toContain('the host chooses');
  expect(fact['mem.swap']).toMatchObject({ state: 'absent', value: 'none' });
  const contradictions = Object.values(fact).filter(
    ({ id, state }) => id.startsWith('contradiction.') && state === 'present',
  );
  expect(contradictions).toEqual([]);
});
