import { describe, expect, test } from '@jest/globals';
import { createChainCache } from '../../../lib/domain/evidence/chain.ts';
import { parseCertificateTable } from '../../../lib/domain/evidence/snp/certificate-table.ts';
import {
  amdRoots,
  defaultSnpPolicy,
  type SnpInput,
  type SnpPolicy,
  verifySnp,
} from '../../../lib/domain/evidence/snp/index.ts';
import { crl, der, integer, issue, keyPair, type ListFaults, pem } from './forge/pki.ts';
import {
  arkSerial,
  askSerial,
  asvkSerial,
  chip,
  type LeafOptions,
  type Levels,
  makeAmd,
  makeLeaf,
  makeReport,
  milan,
  type ReportOptions,
  turin,
  vlekReport,
} from './forge/snp.ts';
import { expectNoMutationAccepted } from './mutations.ts';
import { recorded, vector, vectorJson } from './vectors.ts';

const amd = makeAmd();
const at = new Date('2026-06-01T12:00:00Z');
const vcekChain = [makeLeaf(amd), amd.ask.Milan.der, amd.ark.Milan.der];
const vlekChain = [makeLeaf(amd, { kind: 'VLEK' }), amd.asvk.Milan.der, amd.ark.Milan.der];

const verifyWith = (report: Buffer, input: Partial<SnpInput> = {}) =>
  verifySnp({ report, certificates: vcekChain, at, roots: amd.roots, ...input });
const withPolicy = (policy: Partial<SnpPolicy>) => ({ policy: { ...defaultSnpPolicy, ...policy } });
const withLeaf = (options: LeafOptions) => ({
  certificates: [makeLeaf(amd, options), amd.ask.Milan.der, amd.ark.Milan.der],
});
const turinReport: ReportOptions = { version: 5, cpu: [0x1a, 0x02, 1], reported: turin };

describe('an SEV-SNP report is accepted', () => {
  test('with a VCEK of Milan, and says what it measured', () => {
    const verdict = verifyWith(makeReport());
    expect(verdict).toMatchObject({ accepted: true, malformed: false, format: 'snp', reasons: [] });
    expect(verdict.claims).toMatchObject({
      product: 'Milan',
      signingKey: 'VCEK',
      measurement: '3e'.repeat(48),
      reportData: 'da'.repeat(64),
      tcb: { reported: milan },
      attestsOperatingSystem: false,
    });
    expect(verdict.trust).toMatchObject({
      root: amd.roots.Milan,
      chain: ['CN=SEV-VCEK', 'CN=SEV-Milan', 'CN=ARK-Milan'],
    });
  });

  test('with a VLEK of AWS, in the expected Region', () => {
    const verdict = verifyWith(makeReport(vlekReport), {
      certificates: vlekChain,
      ...withPolicy({ region: 'eu-west-1' }),
    });
    expect(verdict.reasons).toEqual([]);
    expect(verdict.claims).toMatchObject({ signingKey: 'VLEK', awsRegion: 'eu-west-1' });
  });

  test('of Turin, whose levels stand elsewhere and whose chip id has 8 bytes', () => {
    const certificates = [
      makeLeaf(amd, { product: 'Turin', tcb: turin }),
      amd.ask.Turin.der,
      amd.ark.Turin.der,
    ];
    const verdict = verifyWith(makeReport(turinReport), { certificates });
    expect(verdict.reasons).toEqual([]);
    expect(verdict.claims?.tcb.reported).toEqual(turin);
  });

  test('of version 2, which names no processor', () => {
    expect(verifyWith(makeReport({ version: 2 })).reasons).toEqual([]);
  });

  test('with its certificates as PEM in one file, and with the chain cached', () => {
    const cache = createChainCache();
    const certificates = [Buffer.from(pem(...vcekChain))];
    for (let round = 0; round < 2; round++) {
      expect(verifyWith(makeReport(), { certificates, cache }).reasons).toEqual([]);
    }
  });

  test('of a chip whose hardware id looks as if it was wrapped', () => {
    const id = Buffer.concat([Buffer.of(0x04, 62), chip.subarray(2)]);
    expect(verifyWith(makeReport({ chipId: id }), withLeaf({ hardwareId: id })).reasons).toEqual([]);
  });

  test('with a hardware id that its maker wrapped into an OCTET STRING', () => {
    const hardwareId = Buffer.concat([Buffer.of(0x04, 0x40), chip]);
    expect(verifyWith(makeReport(), withLeaf({ hardwareId })).reasons).toEqual([]);
  });

  test('when report data, measurement, SVN and EC2’s word are as expected', () => {
    const generations = [{ name: 'now', measurements: { measurement: Buffer.alloc(48, 0x3e) } }];
    const verdict = verifyWith(makeReport({ guestSvn: 3 }), {
      ...withPolicy({ generations, minimumGuestSvn: 3, requireAliasCheck: true }),
      expected: { reportData: Buffer.alloc(64, 0xda), amdSevSnpAsserted: true },
    });
    expect(verdict.reasons).toEqual([]);
    expect(verdict.checks.every(({ outcome }) => outcome !== 'fail')).toBe(true);
  });

  test('above a minimum for its model, which goes before the one for its product', () => {
    const minimumTcb = { Milan: { snp: 200 }, '19/01': { snp: 20 } };
    expect(verifyWith(makeReport(), withPolicy({ minimumTcb })).reasons).toEqual([]);
    const other = verifyWith(makeReport({ cpu: [0x19, 0x00, 1] }), withPolicy({ minimumTcb }));
    expect(other.reasons).toEqual(['SNP_TCB_TOO_OLD']);
  });
});

describe('AMD’s revocation list', () => {
  const listOf = (serials: number[], faults: ListFaults = {}) =>
    crl(amd.ark.Milan, serials, { signature: 'pssSha384', ...faults });
  const withList = (list: Buffer, input: Partial<SnpInput> = {}) =>
    verifyWith(makeReport(), { crl: list, ...input });
  const critical = [{ oid: '2.5.29.27', critical: true, value: Buffer.of(2, 1, 1) }];
  const numbered = [{ oid: '2.5.29.20', value: Buffer.of(2, 1, 1) }];

  test.each<[string, Buffer]>([
    ['names nothing', listOf([])],
    ['names other authorities', listOf([1, 2, 3, asvkSerial])],
    ['has a number, and reasons', listOf([1], { extensions: numbered, entryExtensions: numbered })],
  ])('lets a report pass that %s', (_, list) => {
    const verdict = withList(list, withPolicy({ requireRevocationList: true }));
    expect(verdict.reasons).toEqual([]);
    expect(verdict.checks).toContainEqual({ name: 'authority is not revoked', outcome: 'pass' });
  });

  test('is said not to have been looked at where there is none', () => {
    const { checks, accepted } = verifyWith(makeReport());
    expect(accepted).toBe(true);
    expect(checks).toContainEqual(expect.objectContaining({ name: 'revocation', outcome: 'skipped' }));
  });

  test('is read anew for each report and each time, with and without a cache', () => {
    const cache = createChainCache();
    for (const [serial, reasons] of [
      [askSerial, ['CERTIFICATE_REVOKED']],
      [1, []],
      [askSerial, ['CERTIFICATE_REVOKED']],
    ] as const) {
      expect(withList(listOf([serial]), { cache }).reasons).toEqual(reasons);
      expect(withList(listOf([serial]), { cache, at: new Date('2026-07-02') }).reasons).toEqual([
        'REVOCATION_LIST_EXPIRED',
      ]);
    }
  });

  test.each<[string, Buffer, string]>([
    ['it names the ASK', listOf([1, askSerial]), 'CERTIFICATE_REVOKED'],
    ['it names the ARK', listOf([arkSerial]), 'CERTIFICATE_REVOKED'],
    ['it is over', listOf([], { until: '20260601115959Z' }), 'REVOCATION_LIST_EXPIRED'],
    ['it has not begun', listOf([], { from: '20260601120001Z' }), 'REVOCATION_LIST_EXPIRED'],
    [
      'it is another product’s',
      crl(amd.ark.Genoa, [], { signature: 'pssSha384' }),
      'REVOCATION_LIST_INVALID',
    ],
    ['the ASK signed it', crl(amd.ask.Milan, [], { signature: 'pssSha384' }), 'REVOCATION_LIST_INVALID'],
    [
      'another ARK of the same name signed it',
      crl(makeAmd().ark.Milan, [], { signature: 'pssSha384' }),
      'REVOCATION_LIST_INVALID',
    ],
    [
      'it is signed with an algorithm that AMD does not use',
      crl({ ...amd.ark.Milan, privateKey: keyPair('P-256').privateKey }, []),
      'CERTIFICATE_ALGORITHM_WEAK',
    ],
    [
      'it is for some certificates alone',
      listOf([], { extensions: critical }),
      'CERTIFICATE_CRITICAL_EXTENSION',
    ],
    [
      'an entry of it is another issuer’s',
      listOf([1], { entryExtensions: critical }),
      'CERTIFICATE_CRITICAL_EXTENSION',
    ],
    ['it is of version 1', listOf([], { version: 0 }), 'REVOCATION_LIST_MALFORMED'],
    ['it names two algorithms', listOf([], { outerSignature: 'ecdsaSha384' }), 'REVOCATION_LIST_MALFORMED'],
    ['its signature has unused bits', listOf([], { unusedBits: 1 }), 'REVOCATION_LIST_MALFORMED'],
    ['its time is no time', listOf([], { until: '20261301000000Z' }), 'REVOCATION_LIST_MALFORMED'],
    [
      'a date in it is no time',
      listOf([1], { date: der(0x17, Buffer.from('260101000000+0100')) }),
      'REVOCATION_LIST_MALFORMED',
    ],
    [
      'something stands behind its extensions',
      listOf([1], { extensions: numbered, after: integer(1) }),
      'REVOCATION_LIST_MALFORMED',
    ],
    ['it is PEM', Buffer.from('-----BEGIN X509 CRL-----'), 'ASN1_MALFORMED'],
    ['it is empty', Buffer.alloc(0), 'INPUT_EMPTY'],
    ['it is larger than any', Buffer.alloc(131_073, 0x30), 'INPUT_TOO_LARGE'],
  ])('refuses a report when %s', (_, list, reason) => {
    expect(withList(list)).toMatchObject({ accepted: false, reasons: [reason] });
  });

  test('names the ASVK of a VLEK', () => {
    const verdict = verifyWith(makeReport(vlekReport), {
      certificates: vlekChain,
      crl: listOf([asvkSerial]),
    });
    expect(verdict.reasons).toEqual(['CERTIFICATE_REVOKED']);
  });

  test('is missed where the policy demands one', () => {
    const verdict = verifyWith(makeReport(), withPolicy({ requireRevocationList: true }));
    expect(verdict.reasons).toEqual(['REVOCATION_LIST_MISSING']);
  });

  test('stops counting however it is changed', () => {
    expectNoMutationAccepted(listOf([1, 2], { extensions: numbered }), withList, { runs: 300 });
  });
});

describe('the minimum TCB by default', () => {
  const levelsOn = (product: 'Genoa' | 'Turin', cpu: [number, number, number], tcb: Levels) =>
    verifyWith(
      makeReport({ version: product === 'Turin' ? 5 : 3, cpu, reported: tcb, current: tcb, committed: tcb }),
      {
        certificates: [makeLeaf(amd, { product, tcb }), amd.ask[product].der, amd.ark[product].der],
      },
    ).reasons;
  const genoa = { bootloader: 9, tee: 0, snp: 23, microcode: 84 };
  const tooOld = ['SNP_TCB_TOO_OLD'];

  test.each<[string, 'Genoa' | 'Turin', [number, number, number], Levels, string[]]>([
    ['Genoa with repaired microcode', 'Genoa', [0x19, 0x11, 1], genoa, []],
    ['Genoa-X with repaired microcode', 'Genoa', [0x19, 0x11, 2], { ...genoa, microcode: 0x4f }, []],
    ['Genoa below', 'Genoa', [0x19, 0x11, 1], { ...genoa, microcode: 0x4e }, tooOld],
    [
      'Genoa with SEV firmware that does not attest it',
      'Genoa',
      [0x19, 0x11, 1],
      { ...genoa, snp: 22 },
      tooOld,
    ],
    ['Bergamo, which counts from elsewhere', 'Genoa', [0x19, 0xa0, 2], { ...genoa, microcode: 0x19 }, []],
    ['Bergamo below', 'Genoa', [0x19, 0xa0, 2], { ...genoa, microcode: 0x18 }, tooOld],
    ['Turin with repaired microcode', 'Turin', [0x1a, 0x02, 1], { ...turin, microcode: 0x47 }, []],
    ['Turin below', 'Turin', [0x1a, 0x02, 1], { ...turin, microcode: 0x46 }, tooOld],
  ])('%s', (_, product, cpu, tcb, reasons) => {
    expect(levelsOn(product, cpu, tcb)).toEqual(reasons);
  });
});

describe('an SEV-SNP report is refused by policy', () => {
  test.each<[string, ReportOptions, Partial<SnpInput>, string]>([
    ['it may be debugged', { policy: 0xb0000n }, {}, 'SNP_DEBUG'],
    ['it has a migration agent', { policy: 0x70000n }, {}, 'SNP_MIGRATION_AGENT'],
    ['SMT is allowed and must not be', {}, withPolicy({ allowSmt: false }), 'SNP_SMT'],
    ['it was asked for at VMPL 1', { vmpl: 1 }, {}, 'SNP_VMPL'],
    ['VCEKs do not count', {}, withPolicy({ keys: ['VLEK'] }), 'SNP_KEY_KIND'],
    ['its guest SVN is too low', { guestSvn: 1 }, withPolicy({ minimumGuestSvn: 2 }), 'SNP_GUEST_SVN'],
    [
      'memory was not checked for aliases',
      { platform: 0x05n },
      withPolicy({ requireAliasCheck: true }),
      'SNP_ALIAS_CHECK',
    ],
    [
      'a level is too old though others are newer',
      {},
      withPolicy({ minimumTcb: { Milan: { bootloader: 5 } } }),
      'SNP_TCB_TOO_OLD',
    ],
    [
      'a level is demanded that its product has not',
      {},
      withPolicy({ minimumTcb: { Milan: { fmc: 1 } } }),
      'SNP_TCB_TOO_OLD',
    ],
    [
      'it carries other report data',
      {},
      { expected: { reportData: Buffer.alloc(64) } },
      'REPORT_DATA_MISMATCH',
    ],
    [
      'the expected report data is cut short',
      {},
      { expected: { reportData: Buffer.alloc(32, 0xda) } },
      'REPORT_DATA_MISMATCH',
    ],
    [
      'EC2 does not say that the instance has it',
      {},
      { expected: { amdSevSnpAsserted: false } },
      'SNP_NOT_ASSERTED',
    ],
    [
      'its VLEK is of another Region',
      vlekReport,
      { certificates: vlekChain, ...withPolicy({ region: 'us-east-2' }) },
      'SNP_REGION_MISMATCH',
    ],
    [
      'its VLEK is of another cloud',
      vlekReport,
      {
        certificates: [
          makeLeaf(amd, { kind: 'VLEK', csp: 'CN=cc-eu-west-1.amazonaws.com.example' }),
          ...vlekChain.slice(1),
        ],
      },
      'SNP_VLEK_NOT_AWS',
    ],
  ])('when %s', (_, report, input, reason) => {
    const verdict = verifyWith(makeReport(report), input);
    expect(verdict).toMatchObject({ accepted: false, malformed: false, reasons: [reason] });
    expect(verdict.claims).not.toBeNull();
  });

  test('when its measurement is of no generation, of a past one, or of one that has not begun', () => {
    const generation = (name: string, byte: number, dates: { from?: Date; until?: Date }) => ({
      name,
      measurements: { measurement: Buffer.alloc(48, byte) },
      ...dates,
    });
    const verdictOn = (byte: number, dates = {}) =>
      verifyWith(makeReport(), withPolicy({ generations: [generation('one', byte, dates)] })).reasons;
    expect(verdictOn(0x3f)).toEqual(['MEASUREMENT_UNKNOWN']);
    expect(verdictOn(0x3e, { until: at })).toEqual(['MEASUREMENT_OUTDATED']);
    expect(verdictOn(0x3e, { from: new Date(at.getTime() + 1) })).toEqual(['MEASUREMENT_EARLY']);
    expect(verdictOn(0x3e, { from: at, until: new Date(at.getTime() + 1) })).toEqual([]);
  });

  test('with every reason at once, so that one round of repair is enough', () => {
    const { reasons } = verifyWith(makeReport({ policy: 0xf0000n, vmpl: 3 }));
    expect(reasons).toEqual(['SNP_DEBUG', 'SNP_MIGRATION_AGENT', 'SNP_VMPL']);
  });
});

describe('an SEV-SNP report is not believed', () => {
  const other = makeAmd();
  const rogue = issue('SEV-Milan', keyPair('RSA'), undefined, { signature: 'pssSha384' });
  const named = (faults: LeafOptions) => withLeaf(faults);

  test.each<[string, ReportOptions, Partial<SnpInput>, string]>([
    ['its root is not pinned', {}, { roots: amdRoots }, 'ROOT_NOT_PINNED'],
    [
      'its root is another product’s',
      {},
      { certificates: [vcekChain[0] as Buffer, amd.ask.Milan.der, amd.ark.Genoa.der] },
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'its key stands last',
      {},
      { certificates: [amd.ark.Milan.der, amd.ask.Milan.der, vcekChain[0] as Buffer] },
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'its intermediate and root changed places',
      {},
      { certificates: [vcekChain[0] as Buffer, amd.ark.Milan.der, amd.ask.Milan.der] },
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'the intermediate is missing',
      {},
      { certificates: [vcekChain[0] as Buffer, amd.ark.Milan.der] },
      'CHAIN_INCOMPLETE',
    ],
    ['there are no certificates', {}, { certificates: [] }, 'CHAIN_INCOMPLETE'],
    [
      'there are more certificates than any chain has',
      {},
      { certificates: Array.from({ length: 5 }, () => Buffer.alloc(8_000, 0x30)) },
      'INPUT_TOO_LARGE',
    ],
    ['the time is none', {}, { at: new Date(Number.NaN) }, 'CERTIFICATE_NOT_YET_VALID'],
    [
      'the intermediate is another hierarchy’s',
      {},
      { certificates: [vcekChain[0] as Buffer, other.ask.Milan.der, amd.ark.Milan.der] },
      'CERTIFICATE_SIGNATURE_INVALID',
    ],
    [
      'the intermediate signed itself',
      {},
      { certificates: [vcekChain[0] as Buffer, rogue.der, amd.ark.Milan.der] },
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'a VLEK’s intermediate stands over a VCEK',
      {},
      { certificates: [vcekChain[0] as Buffer, amd.asvk.Milan.der, amd.ark.Milan.der] },
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'ASK issued a VLEK',
      vlekReport,
      {
        certificates: [
          makeLeaf(amd, { kind: 'VLEK', issuer: amd.ask.Milan }),
          amd.ask.Milan.der,
          amd.ark.Milan.der,
        ],
      },
      'SNP_AUTHORITY_MISMATCH',
    ],
    ['the leaf has expired', {}, { at: new Date('2050-01-01') }, 'CERTIFICATE_EXPIRED'],
    [
      'the leaf is not valid yet',
      {},
      named({ faults: { notBefore: '20270101000000Z' } }),
      'CERTIFICATE_NOT_YET_VALID',
    ],
    ['the leaf is an authority', {}, named({ faults: { ca: true } }), 'CERTIFICATE_USAGE_WRONG'],
    [
      'the leaf has an unknown critical extension',
      {},
      named({ faults: { extensions: [{ oid: '1.2.3.4', critical: true, value: Buffer.of(5, 0) }] } }),
      'CERTIFICATE_CRITICAL_EXTENSION',
    ],
    [
      'report and certificate are of different products',
      { cpu: [0x19, 0x11, 1] },
      {},
      'SNP_PRODUCT_MISMATCH',
    ],
    ['the processor is unknown', { cpu: [0x1a, 0x50, 0] }, {}, 'SNP_PRODUCT_UNKNOWN'],
    ['the certificate’s product is unknown', {}, named({ productName: 'Venice' }), 'SNP_PRODUCT_UNKNOWN'],
    [
      'it is of version 2 and Turin',
      { version: 2 },
      {
        certificates: [makeLeaf(amd, { product: 'Turin', tcb: turin }), amd.ask.Turin.der, amd.ark.Turin.der],
      },
      'SNP_PRODUCT_UNKNOWN',
    ],
    ['the host masked the chip key', { keyInfo: 2 }, {}, 'SNP_NOT_SIGNED'],
    ['the host asked for no signature', { keyInfo: 7 << 2 }, {}, 'SNP_NOT_SIGNED'],
    ['it names another algorithm', { algorithm: 2 }, {}, 'SNP_ALGORITHM_UNKNOWN'],
    ['it says VLEK and comes with a VCEK', { keyInfo: 1 << 2 }, {}, 'SNP_KEY_KIND_MISMATCH'],
    ['another key signed it', {}, named({ keys: keyPair('P-384') }), 'SNP_SIGNATURE_INVALID'],
    ['its levels are not the key’s', { reported: { ...milan, microcode: 220 } }, {}, 'SNP_TCB_MISMATCH'],
    ['it reports levels above the current', { current: { ...milan, snp: 23 } }, {}, 'SNP_TCB_INCONSISTENT'],
    [
      'it has committed levels above the current',
      { committed: { ...milan, microcode: 255 }, current: milan },
      {},
      'SNP_TCB_INCONSISTENT',
    ],
    ['another chip made it', { chipId: Buffer.alloc(64, 0xc2) }, {}, 'SNP_CHIP_MISMATCH'],
    ['the chip is masked under a VCEK', { chipId: Buffer.alloc(64) }, {}, 'SNP_CHIP_MISMATCH'],
  ])('when %s', (_, report, input, reason) => {
    const verdict = verifyWith(makeReport(report), input);
    expect(verdict).toMatchObject({ accepted: false, reasons: [reason], claims: null, evidenceId: null });
    expect(verdict.checks.at(-1)).toMatchObject({ name: 'policy', outcome: 'skipped' });
  });
});

describe('an SEV-SNP report is malformed', () => {
  test.each<[string, ReportOptions, string]>([
    ['its version is unknown', { version: 6 }, 'SNP_VERSION_UNKNOWN'],
    ['bits of its policy are reserved', { policy: 0x30000n | (1n << 26n) }, 'SNP_RESERVED_NOT_ZERO'],
    ['bit 17 of its policy is not set', { policy: 0x10000n }, 'SNP_RESERVED_NOT_ZERO'],
    ['its key info has reserved bits', { keyInfo: 1 << 5 }, 'SNP_RESERVED_NOT_ZERO'],
    ['its signing key is reserved', { keyInfo: 3 << 2 }, 'SNP_RESERVED_NOT_ZERO'],
    [
      'reserved bytes are not zero',
      { edit: (report) => report.writeUInt8(1, 0x190) },
      'SNP_RESERVED_NOT_ZERO',
    ],
    [
      'mitigation vectors stand in version 3',
      { edit: (report) => report.writeUInt8(1, 0x1f8) },
      'SNP_RESERVED_NOT_ZERO',
    ],
    [
      'R is longer than P-384 has it',
      { afterwards: (report) => report.writeUInt8(1, 0x2a0 + 48) },
      'SNP_RESERVED_NOT_ZERO',
    ],
    [
      'bytes follow the signature',
      { afterwards: (report) => report.writeUInt8(1, 1183) },
      'SNP_RESERVED_NOT_ZERO',
    ],
  ])('when %s', (_, report, reason) => {
    expect(verifyWith(makeReport(report))).toMatchObject({
      malformed: true,
      reasons: [reason],
      claims: null,
    });
  });

  test('when it is empty, too short or too long', () => {
    expect(verifyWith(Buffer.alloc(0)).reasons).toEqual(['INPUT_EMPTY']);
    expect(verifyWith(makeReport().subarray(1)).reasons).toEqual(['SNP_SIZE_WRONG']);
    expect(verifyWith(Buffer.concat([makeReport(), Buffer.of(0)])).reasons).toEqual(['INPUT_TOO_LARGE']);
  });

  test('when its first certificate is neither VCEK nor VLEK', () => {
    for (const options of [
      { without: '4' },
      { without: '3.1' },
      { keys: keyPair('P-256') },
      { tcb: { ...milan, snp: 256 } },
    ]) {
      expect(verifyWith(makeReport(), withLeaf(options)).reasons).toEqual(['SNP_KEY_CERTIFICATE_MALFORMED']);
    }
  });
});

describe('the certificate table of an extended report', () => {
  const vcek = '63da758de6644564adc5f4b93be8accd';
  const ask = '4ab7b379bbac4fe4a02f05aef327c782';
  const ark = 'c0b406a4a803495297433fb6014cd0ae';
  /** Entries as GUID, offset and length (the certificates' own where left out), then the certificates. */
  const table = (entries: readonly [guid: string, certificate: Buffer, length?: number][]) => {
    const header = Buffer.alloc(24 * (entries.length + 1));
    let offset = header.length;
    entries.forEach(([guid, certificate, length = certificate.length], index) => {
      Buffer.from(guid, 'hex').copy(header, 24 * index);
      header.writeUInt32LE(offset, 24 * index + 16);
      header.writeUInt32LE(length, 24 * index + 20);
      offset += certificate.length;
    });
    return Buffer.concat([header, ...entries.map(([, certificate]) => certificate)]);
  };
  const [leaf = Buffer.alloc(0)] = vcekChain;

  test('gives the chain in order, whatever the order and the other entries of the table', () => {
    const bytes = table([
      [ark, amd.ark.Milan.der],
      ['ff'.repeat(16), Buffer.of(1)],
      [ask, amd.ask.Milan.der],
      [vcek, leaf],
    ]);
    const certificates = parseCertificateTable(bytes);
    expect(certificates).toEqual(vcekChain);
    expect(verifyWith(makeReport(), { certificates }).reasons).toEqual([]);
  });

  test('is empty when its host gave none', () => {
    expect(parseCertificateTable(table([]))).toEqual([]);
  });

  test.each<[string, Buffer]>([
    ['ends without its last entry', table([[vcek, leaf]]).subarray(0, 24)],
    ['has an entry outside', table([[vcek, leaf, leaf.length + 1]])],
    ['has an empty entry', table([[vcek, leaf, 0]])],
    [
      'has two leaves',
      table([
        [vcek, leaf],
        [vcek, leaf],
      ]),
    ],
    [
      'has more entries than kinds',
      table(Array.from({ length: 17 }, () => ['ff'.repeat(16), Buffer.of(1)] as [string, Buffer])),
    ],
  ])('is malformed when it %s', (_, bytes) => {
    expect(() => parseCertificateTable(bytes)).toThrow(
      expect.objectContaining({ code: 'SNP_CERTIFICATE_TABLE_MALFORMED' }),
    );
  });
});

describe('the signature of an SEV-SNP report', () => {
  test('has a twin, which is remembered as the same evidence', () => {
    const report = makeReport();
    const order = BigInt(
      '0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973',
    );
    const twin = Buffer.from(report);
    const s = BigInt(`0x${Buffer.from(report.subarray(0x2e8, 0x318)).reverse().toString('hex')}`);
    Buffer.from((order - s).toString(16).padStart(96, '0'), 'hex')
      .reverse()
      .copy(twin, 0x2e8);
    expect(twin.equals(report)).toBe(false);
    const [first, second] = [verifyWith(report), verifyWith(twin)];
    expect(second.accepted).toBe(true);
    expect(second.evidenceId).toBe(first.evidenceId);
  });

  test('and everything beside it keep a changed report from being accepted', () => {
    const cache = createChainCache();
    expectNoMutationAccepted(makeReport(), (report) => verifyWith(report, { cache }), { runs: 600 });
  });

  test('and every byte of a certificate keep a changed one from being accepted', () => {
    const report = makeReport();
    vcekChain.forEach((certificate, index) => {
      const cache = createChainCache();
      const verify = (bytes: Buffer) =>
        verifyWith(report, { certificates: vcekChain.with(index, bytes), cache });
      expectNoMutationAccepted(certificate, verify, { runs: 120 });
    });
  });
});

interface ExpectedReports {
  readonly reports: Readonly<
    Record<
      string,
      {
        file: string;
        leaf: string;
        ca: string;
        root: string;
        validate_at: string;
        report: { measurement: string };
      }
    >
  >;
}

describe('recorded SEV-SNP reports', () => {
  const outcomes: Readonly<Record<string, readonly string[]>> = {
    'milan-v2-vcek-debug': ['SNP_DEBUG', 'SNP_TCB_TOO_OLD'],
    'milan-v2-vcek': [],
    'milan-v3-vcek': [],
    'turin-v5-vcek': [],
    'aws-milan-v3-vlek-vmpl1': ['SNP_VMPL'],
  };
  const inputOf = (name: string): SnpInput & { measurement: string } => {
    const entry = vectorJson<ExpectedReports>('snp/expected.json').reports[name];
    if (!entry) throw new Error(`no vector ${name}`);
    return {
      report: vector(`snp/${entry.file}`),
      certificates: [entry.leaf, entry.ca, entry.root].map((file) => vector(`snp/${file}`)),
      at: new Date(entry.validate_at),
      measurement: entry.report.measurement,
    };
  };

  for (const [name, reasons] of Object.entries(outcomes)) {
    recorded(`${name} is ${reasons.length === 0 ? 'accepted' : `refused: ${reasons.join(', ')}`}`, () => {
      const input = inputOf(name);
      const verdict = verifySnp(input);
      expect(verdict.reasons).toEqual(reasons);
      expect(verdict.claims?.measurement).toBe(input.measurement);
    });
  }

  recorded('the one of AWS is accepted where VMPL 1 is allowed, in its own Region alone', () => {
    const input = inputOf('aws-milan-v3-vlek-vmpl1');
    const policy = { ...defaultSnpPolicy, vmpl: [1] };
    expect(verifySnp({ ...input, policy: { ...policy, region: 'us-east-2' } }).reasons).toEqual([]);
    expect(verifySnp({ ...input, policy: { ...policy, region: 'eu-west-1' } }).reasons).toEqual([
      'SNP_REGION_MISMATCH',
    ]);
  });

  recorded('a self-made VCEK is refused', () => {
    const input = inputOf('milan-v3-vcek');
    const leaf = vector('snp/negative/test-vcek-invalid-legacy.der');
    expect(verifySnp({ ...input, certificates: [leaf, ...input.certificates.slice(1)] }).accepted).toBe(
      false,
    );
  });

  recorded('no change to one is accepted', () => {
    const input = inputOf('turin-v5-vcek');
    const cache = createChainCache();
    expectNoMutationAccepted(Buffer.from(input.report), (report) => verifySnp({ ...input, report, cache }), {
      runs: 200,
    });
  });
});
