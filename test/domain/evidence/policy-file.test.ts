import { describe, expect, test } from '@jest/globals';
import {
  defaultPolicies,
  PolicyFileError,
  parsePolicyFile,
} from '../../../lib/domain/evidence/policy-file.ts';
import { matchGeneration } from '../../../lib/domain/evidence/rollout.ts';

const digest = 'ab'.repeat(48);

describe('a policy file', () => {
  test('that says nothing leaves the safe defaults in place', () => {
    expect(parsePolicyFile({})).toEqual(defaultPolicies);
    expect(defaultPolicies).toMatchObject({
      snp: { allowDebug: false, allowMigrationAgent: false, vmpl: [0] },
      nitro: { allowDebug: false, maxAgeSeconds: 300 },
      tdx: { allowDebug: false, requireCollateral: true, tcbStatuses: ['UpToDate'] },
    });
  });

  test('changes what it names and nothing else', () => {
    const policies = parsePolicyFile({
      snp: { vmpl: [0, 1], region: 'eu-west-1', minimumTcb: { Genoa: { snp: 20 } } },
      tpm: { pcrs: [4, 7] },
      identity: { accountId: '111122223333' },
    });
    expect(policies.snp).toEqual({
      ...defaultPolicies.snp,
      vmpl: [0, 1],
      region: 'eu-west-1',
      minimumTcb: { ...defaultPolicies.snp.minimumTcb, Genoa: { snp: 20 } },
    });
    expect(policies.nitro).toEqual(defaultPolicies.nitro);
    expect(policies.tpm.pcrs).toEqual([4, 7]);
    expect(policies.identity).toEqual({ accountId: '111122223333' });
  });

  test('names generations with their dates', () => {
    const { nitro } = parsePolicyFile({
      nitro: {
        generations: [
          { name: 'last', until: '2026-07-01T00:00:00Z', measurements: { PCR4: digest, PCR12: digest } },
          { name: 'current', measurements: { PCR7: digest } },
        ],
      },
    });
    expect(nitro.generations[0]).toMatchObject({ name: 'last', until: new Date('2026-07-01T00:00:00Z') });
    const measured = { PCR4: Buffer.from(digest, 'hex'), PCR12: Buffer.from(digest, 'hex') };
    expect(matchGeneration(nitro.generations, measured, new Date('2026-06-30'))).toEqual({
      kind: 'match',
      generation: 'last',
    });
  });

  test.each<[string, unknown, string]>([
    ['a format that nobody knows', { sgx: {} }, 'sgx'],
    ['an option that nobody knows', { snp: { allowdebug: true } }, 'allowdebug'],
    ['a privilege level that does not exist', { snp: { vmpl: [4] } }, 'snp.vmpl.0'],
    ['a model in capitals', { snp: { minimumTcb: { '19/A0': {} } } }, 'snp.minimumTcb'],
    ['a level that nobody knows', { snp: { minimumTcb: { Milan: { ucode: 1 } } } }, 'ucode'],
    [
      'a measurement of another length',
      { nitro: { generations: [{ name: 'x', measurements: { PCR4: 'abcd' } }] } },
      'nitro.generations.0.measurements.PCR4',
    ],
    [
      'a register that the format has not',
      { nitro: { generations: [{ name: 'x', measurements: { MRTD: digest } }] } },
      'MRTD',
    ],
    [
      'a generation that pins nothing',
      { tdx: { generations: [{ name: 'x', measurements: {} }] } },
      'pins nothing',
    ],
    [
      'a generation that ends before it starts',
      {
        tdx: {
          generations: [
            {
              name: 'x',
              from: '2027-01-01T00:00:00Z',
              until: '2026-01-01T00:00:00Z',
              measurements: { MRTD: digest },
            },
          ],
        },
      },
      'ends before it starts',
    ],
    [
      'a date without a zone',
      { tdx: { generations: [{ name: 'x', from: '2027-01-01T00:00:00', measurements: { MRTD: digest } }] } },
      'from',
    ],
    ['a status that cannot be allowed', { tdx: { tcbStatuses: ['OutOfDate'] } }, 'tdx.tcbStatuses.0'],
    ['no object', [], 'the file'],
    ['nothing at all', null, 'the file'],
  ])('is refused when it has %s', (_, file, problem) => {
    expect(() => parsePolicyFile(file)).toThrow(PolicyFileError);
    expect(() => parsePolicyFile(file)).toThrow(problem);
  });
});
