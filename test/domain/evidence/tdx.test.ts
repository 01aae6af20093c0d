import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { createChainCache } from '../../../lib/domain/evidence/chain.ts';
import {
  defaultTdxPolicy,
  type TdxInput,
  type TdxPolicy,
  verifyTdx,
} from '../../../lib/domain/evidence/tdx/index.ts';
import { crl, issue, keyPair, pem } from './forge/pki.ts';
import {
  at,
  type CollateralOptions,
  makeCollateral,
  makeIntel,
  makeQuote,
  type QuoteOptions,
  septVeDisable,
  sgxExtension,
} from './forge/tdx.ts';
import { expectNoMutationAccepted } from './mutations.ts';
import { recorded, vector } from './vectors.ts';

const intel = makeIntel();
const usualCollateral = makeCollateral(intel);
const verifyWith = (quote: Buffer, input: Partial<TdxInput> = {}) =>
  verifyTdx({ quote, collateral: usualCollateral, at, roots: intel.roots, ...input });
const reasonsOf = (options: QuoteOptions, input: Partial<TdxInput> = {}) =>
  verifyWith(makeQuote(intel, options), input).reasons;
const withPolicy = (policy: Partial<TdxPolicy>) => ({ policy: { ...defaultTdxPolicy, ...policy } });
const withCollateral = (options: CollateralOptions) => ({ collateral: makeCollateral(intel, options) });

describe('a TDX quote is accepted', () => {
  test('with collateral that calls it up to date, and says what it measured', () => {
    const verdict = verifyWith(makeQuote(intel));
    expect(verdict).toMatchObject({ accepted: true, format: 'tdx', reasons: [] });
    expect(verdict.claims).toMatchObject({
      version: 5,
      fmspc: 'b0c06f000000',
      debug: false,
      mrTd: '7d'.repeat(48),
    });
    expect(verdict.trust?.chain).toEqual([
      'CN=Intel SGX PCK Certificate',
      'CN=Intel SGX PCK Platform CA',
      'CN=Intel SGX Root CA',
    ]);
  });

  test.each<[string, QuoteOptions, Partial<TdxInput>]>([
    ['of version 4', { version: 4 }, {}],
    ['filled up with zeros', { trailing: Buffer.alloc(3_000) }, {}],
    [
      'without collateral, where the policy says so',
      {},
      { collateral: undefined, ...withPolicy({ requireCollateral: false }) },
    ],
    [
      'with the service TD that the policy names',
      { serviceTd: Buffer.alloc(48, 5) },
      withPolicy({ serviceTd: Buffer.alloc(48, 5) }),
    ],
    [
      'that may migrate, where the policy says so',
      { attributes: septVeDisable | (1n << 29n) },
      withPolicy({ allowMigratable: true }),
    ],
    ['with the expected report data', {}, { expected: { reportData: Buffer.alloc(64, 0xda) } }],
    [
      'of a generation that counts',
      {},
      withPolicy({
        generations: [
          { name: 'now', measurements: { MRTD: Buffer.alloc(48, 0x7d), RTMR0: Buffer.alloc(48) } },
        ],
      }),
    ],
    [
      'that needs hardening, where the policy says so',
      {},
      {
        ...withCollateral({
          tcbInfo: (info) => ({
            ...info,
            tcbLevels: [{ ...info.tcbLevels[0], tcbStatus: 'SWHardeningNeeded' }],
          }),
        }),
        ...withPolicy({ tcbStatuses: ['UpToDate', 'SWHardeningNeeded'] }),
      },
    ],
    ['of the first module version', { teeTcbSvn: [3, 0, 0] }, {}],
  ])('%s', (_, options, input) => {
    expect(reasonsOf(options, input)).toEqual([]);
  });
});

describe('a TDX quote is refused by policy', () => {
  const qe = (offset: number, value: number) => (report: Buffer) => {
    report[offset] = value;
  };
  test.each<[string, QuoteOptions, Partial<TdxInput>, readonly string[]]>([
    ['it may be debugged', { attributes: septVeDisable | 1n }, {}, ['TDX_DEBUG']],
    ['reserved attributes are set', { attributes: septVeDisable | 4n }, {}, ['TDX_ATTRIBUTES']],
    [
      'attributes are set that no module has',
      { attributes: septVeDisable | (1n << 24n) },
      {},
      ['TDX_ATTRIBUTES'],
    ],
    ['its features lack SSE', { xfam: 1n }, {}, ['TDX_ATTRIBUTES']],
    ['SEPT_VE_DISABLE is not set', { attributes: 0n }, {}, ['TDX_SEPT_VE']],
    ['it may migrate', { attributes: septVeDisable | (1n << 29n) }, {}, ['TDX_MIGRATABLE']],
    [
      'its module is another maker’s',
      { mrSignerSeam: Buffer.alloc(48, 1) },
      {},
      ['TDX_MODULE', 'TDX_TCB_UNKNOWN'],
    ],
    ['a service TD is bound', { serviceTd: Buffer.alloc(48, 1) }, {}, ['TDX_SERVICE_TD']],
    [
      'the named service TD is not bound',
      {},
      withPolicy({ serviceTd: Buffer.alloc(48, 1) }),
      ['TDX_SERVICE_TD'],
    ],
    [
      'its quoting enclave is another maker’s',
      { qe: qe(128, 0) },
      {},
      ['TDX_QE_IDENTITY', 'TDX_TCB_UNKNOWN'],
    ],
    [
      'its quoting enclave is another product',
      { qe: qe(256, 1) },
      {},
      ['TDX_QE_IDENTITY', 'TDX_TCB_UNKNOWN'],
    ],
    [
      'its quoting enclave is a debug build',
      { qe: qe(48, 0x17) },
      {},
      ['TDX_QE_IDENTITY', 'TDX_TCB_UNKNOWN'],
    ],
    ['its quoting enclave is too old', { qe: qe(258, 3) }, {}, ['TDX_TCB_UNKNOWN']],
    ['no collateral is given', {}, { collateral: undefined }, ['TDX_COLLATERAL_MISSING']],
    ['its module is older than up to date', { teeTcbSvn: [3, 1, 0] }, {}, ['TDX_TCB_UNKNOWN']],
    ['its module’s version has no identity', { teeTcbSvn: [3, 9, 0] }, {}, ['TDX_TCB_UNKNOWN']],
    [
      'it carries other report data',
      {},
      { expected: { reportData: Buffer.alloc(64) } },
      ['REPORT_DATA_MISMATCH'],
    ],
    [
      'it is of no generation',
      {},
      withPolicy({ generations: [{ name: 'x', measurements: { MRTD: Buffer.alloc(48) } }] }),
      ['MEASUREMENT_UNKNOWN'],
    ],
    [
      'the platform reaches an old level only',
      {},
      withCollateral({ tcbInfo: (info) => ({ ...info, tcbLevels: info.tcbLevels.slice(1) }) }),
      ['TDX_TCB_STATUS'],
    ],
    [
      'the platform reaches no level',
      {},
      withCollateral({ tcbInfo: (info) => ({ ...info, tcbLevels: [] }) }),
      ['TDX_TCB_UNKNOWN'],
    ],
    [
      'the collateral is for another platform',
      {},
      withCollateral({ tcbInfo: (info) => ({ ...info, fmspc: '000000000000' }) }),
      ['TDX_TCB_UNKNOWN'],
    ],
    [
      'Intel revoked the level',
      {},
      withCollateral({
        tcbInfo: (info) => ({ ...info, tcbLevels: [{ ...info.tcbLevels[0], tcbStatus: 'Revoked' }] }),
      }),
      ['TDX_TCB_STATUS'],
    ],
    [
      'hardening is needed',
      {},
      withCollateral({
        tcbInfo: (info) => ({
          ...info,
          tcbLevels: [{ ...info.tcbLevels[0], tcbStatus: 'SWHardeningNeeded' }],
        }),
      }),
      ['TDX_TCB_STATUS'],
    ],
  ])('when %s', (_, options, input, reasons) => {
    expect(verifyWith(makeQuote(intel, options), input)).toMatchObject({
      accepted: false,
      malformed: false,
      reasons,
    });
  });
});

describe('a TDX quote is not believed', () => {
  const others = makeIntel();
  const flip = (offset: number) => (bytes: Buffer) => {
    bytes[offset] = (bytes[offset] ?? 0) ^ 1;
  };
  const chainOf = (...parties: { der: Buffer }[]) => pem(...parties.map(({ der }) => der));
  const leafSigner = issue('Intel SGX TCB Signing', keyPair('P-256'), others.root, {
    signature: 'ecdsaSha256',
    ca: false,
  });
  const wrongName = issue('Intel SGX PCK Certificate', keyPair('P-256'), intel.root, {
    signature: 'ecdsaSha256',
    ca: false,
  });

  test.each<[string, QuoteOptions, Partial<TdxInput>, string]>([
    ['its root is not pinned', {}, { roots: others.roots }, 'ROOT_NOT_PINNED'],
    [
      'its chain stands root-first',
      { chain: chainOf(intel.pck, intel.root, intel.platformCa) },
      {},
      'CHAIN_OUT_OF_ORDER',
    ],
    [
      'its chain is another Intel’s',
      { chain: chainOf(intel.pck, others.platformCa, intel.root) },
      {},
      'CERTIFICATE_SIGNATURE_INVALID',
    ],
    ['the PCK did not sign the enclave’s report', { qeAfterwards: flip(0) }, {}, 'TDX_QE_SIGNATURE_INVALID'],
    ['the enclave vouches for another key', { qe: flip(320) }, {}, 'TDX_KEY_NOT_BOUND'],
    ['the enclave’s report data goes on', { qe: flip(383) }, {}, 'TDX_KEY_NOT_BOUND'],
    ['another attestation key is put in', { attestationKey: flip(0) }, {}, 'TDX_KEY_NOT_BOUND'],
    ['its body was changed', { edit: flip(150) }, {}, 'TDX_SIGNATURE_INVALID'],
    ['its quoting enclave is another vendor’s', { edit: flip(12) }, {}, 'TDX_QE_VENDOR'],
    [
      'its collateral is signed by another Intel',
      {},
      { collateral: makeCollateral(intel, { signer: leafSigner }) },
      'CERTIFICATE_SIGNATURE_INVALID',
    ],
    [
      'its collateral is signed by a PCK',
      {},
      { collateral: makeCollateral(intel, { signer: wrongName }) },
      'TDX_COLLATERAL_INVALID',
    ],
    [
      'its collateral was changed',
      {},
      withCollateral({
        file: (file) => Object.assign(file, { tcb_info: file['tcb_info']?.replace('OutOfDate', 'UpToDate') }),
      }),
      'TDX_COLLATERAL_INVALID',
    ],
    [
      'its collateral is not current',
      {},
      withCollateral({ tcbInfo: (info) => ({ ...info, nextUpdate: '2026-06-01T00:00:00Z' }) }),
      'TDX_COLLATERAL_EXPIRED',
    ],
    [
      'its collateral is of the future',
      {},
      withCollateral({ qeIdentity: (identity) => ({ ...identity, issueDate: '2026-06-02T00:00:00Z' }) }),
      'TDX_COLLATERAL_EXPIRED',
    ],
    [
      'a revocation list is not current',
      {},
      withCollateral({ crlUntil: '20260601000000Z' }),
      'REVOCATION_LIST_EXPIRED',
    ],
    [
      'a revocation list is another issuer’s',
      {},
      withCollateral({ file: (file) => Object.assign(file, { pck_crl: file['root_ca_crl'] }) }),
      'REVOCATION_LIST_INVALID',
    ],
    [
      'a revocation list’s signature is wrong',
      {},
      withCollateral({
        file: (file) => Object.assign(file, { pck_crl: crl(others.platformCa, []).toString('hex') }),
      }),
      'REVOCATION_LIST_INVALID',
    ],
    [
      'the chain of a revocation list is another Intel’s',
      {},
      withCollateral({
        file: (file) =>
          Object.assign(file, { pck_crl_issuer_chain: chainOf(others.platformCa, others.root) }),
      }),
      'ROOT_NOT_PINNED',
    ],
    ['its PCK is revoked', {}, withCollateral({ revokedByPlatform: [99, 23] }), 'CERTIFICATE_REVOKED'],
    ['its platform authority is revoked', {}, withCollateral({ revokedByRoot: [21] }), 'CERTIFICATE_REVOKED'],
    [
      'the signer of its collateral is revoked',
      {},
      withCollateral({ revokedByRoot: [22] }),
      'CERTIFICATE_REVOKED',
    ],
  ])('when %s', (_, options, input, reason) => {
    expect(verifyWith(makeQuote(intel, options), input)).toMatchObject({
      accepted: false,
      reasons: [reason],
      claims: null,
    });
  });
});

test('a TDX quote that brings no certificates says so, and is not called broken', () => {
  const verdict = verifyWith(makeQuote(intel, { pckType: 3 }));
  expect(verdict).toMatchObject({ malformed: false, reasons: ['TDX_CERTIFICATION_TYPE'] });
});

test('a TDX quote with its root first is out of order', () => {
  const chain = `${pem(intel.root.der, intel.platformCa.der, intel.pck.der)}\0`;
  expect(verifyWith(makeQuote(intel, { chain })).reasons).toEqual(['CHAIN_OUT_OF_ORDER']);
});

test('a TDX quote under a key of another kind is refused, not stumbled over', () => {
  const keys = generateKeyPairSync('ed25519');
  const extensions = [{ oid: '1.2.840.113741.1.13.1', value: sgxExtension() }];
  const leaf = { signature: 'ecdsaSha256', ca: false, serial: 23, extensions } as const;
  const pck = issue('Intel SGX PCK Certificate', keys, intel.platformCa, leaf);
  const chain = `${pem(pck.der, intel.platformCa.der, intel.root.der)}\0`;
  expect(verifyWith(makeQuote(intel, { chain })).reasons).toEqual(['TDX_QE_SIGNATURE_INVALID']);
});

test('a TDX quote is not accepted at a time that is none', () => {
  expect(verifyWith(makeQuote(intel), { at: new Date(Number.NaN) }).accepted).toBe(false);
});

describe('a TDX quote is malformed', () => {
  const at16 = (offset: number, value: number) => ({
    edit: (quote: Buffer) => void quote.writeUInt16LE(value, offset),
  });
  const noExtension = makeIntel({ extensions: [] });
  const odd = makeIntel({
    extensions: [{ oid: '1.2.840.113741.1.13.1', value: sgxExtension().subarray(0, -20) }],
  });

  test.each<[string, QuoteOptions, Partial<TdxInput>, string]>([
    ['its version is 3', at16(0, 3), {}, 'TDX_VERSION_UNKNOWN'],
    ['its key is of another type', at16(2, 3), {}, 'TDX_VERSION_UNKNOWN'],
    ['it is of SGX', at16(4, 0), {}, 'TDX_VERSION_UNKNOWN'],
    ['its body is of SGX', at16(48, 1), {}, 'TDX_VERSION_UNKNOWN'],
    ['its body is of a later TDX', at16(48, 4), {}, 'TDX_VERSION_UNKNOWN'],
    ['its body’s size does not fit its type', at16(50, 584), {}, 'TDX_MALFORMED'],
    ['its certification data is of another type', { certificationType: 5 }, {}, 'TDX_MALFORMED'],
    ['something follows it', { trailing: Buffer.of(0, 0, 1) }, {}, 'TDX_TRAILING_BYTES'],
    [
      'something follows the end of its certificates',
      { chain: `${pem(intel.pck.der, intel.platformCa.der, intel.root.der)}\0x` },
      {},
      'TDX_MALFORMED',
    ],
    [
      'text stands between its certificates',
      { chain: `${pem(intel.pck.der)}text\n${pem(intel.platformCa.der, intel.root.der)}` },
      {},
      'CERTIFICATE_MALFORMED',
    ],
    [
      'its certificates have no line end at the end',
      { chain: pem(intel.pck.der, intel.platformCa.der, intel.root.der).slice(0, -1) },
      {},
      'TDX_MALFORMED',
    ],
    ['it has no certificates', { chain: '\0' }, {}, 'INPUT_EMPTY'],
    [
      'its collateral says something that nobody reads',
      {},
      withCollateral({ file: (file) => Object.assign(file, { note: 'x' }) }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'its collateral begins with a byte order mark',
      {},
      { collateral: Buffer.concat([Buffer.of(0xef, 0xbb, 0xbf), usualCollateral]) },
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'its collateral has hex in both cases',
      {},
      withCollateral({
        file: (file) => Object.assign(file, { pck_crl: `${file['pck_crl']}`.replace(/[a-f]/, 'A') }),
      }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'its collateral says a text twice',
      {},
      { collateral: Buffer.from(`${usualCollateral}`.replace('{', '{"tcb_info":"{}",')) },
      'JSON_DUPLICATE_KEY',
    ],
    [
      'its collateral has a member that would be passed over',
      {},
      { collateral: Buffer.from(`${usualCollateral}`.replace('{', '{"__proto__":"x",')) },
      'JSON_DUPLICATE_KEY',
    ],
    [
      'its collateral has more levels than a schema should describe the faults of',
      {},
      withCollateral({
        tcbInfo: (info) => ({ ...info, tcbLevels: Array.from({ length: 25_000 }, () => 0) }),
      }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    ['its collateral is not JSON', {}, { collateral: Buffer.from('x') }, 'TDX_COLLATERAL_MALFORMED'],
    [
      'its collateral lacks a text',
      {},
      withCollateral({ file: (file) => void delete file['qe_identity'] }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'its collateral has 15 components',
      {},
      withCollateral({
        tcbInfo: (info) => ({
          ...info,
          tcbLevels: [{ ...info.tcbLevels[0], tcb: { sgxtcbcomponents: [] } }],
        }),
      }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'its collateral is of SGX',
      {},
      withCollateral({ tcbInfo: (info) => ({ ...info, id: 'SGX' }) }),
      'TDX_COLLATERAL_MALFORMED',
    ],
    [
      'a revocation list is of version 1',
      {},
      withCollateral({
        file: (file) =>
          Object.assign(file, { pck_crl: crl(intel.platformCa, [], { version: 0 }).toString('hex') }),
      }),
      'REVOCATION_LIST_MALFORMED',
    ],
    ['a revocation list has no date', {}, withCollateral({ crlUntil: 'someday' }), 'ASN1_MALFORMED'],
  ])('when %s', (_, options, input, reason) => {
    expect(verifyWith(makeQuote(intel, options), input)).toMatchObject({
      malformed: true,
      reasons: [reason],
    });
  });

  test('when its first certificate says nothing, or too little, of a platform', () => {
    expect(verifyTdx({ quote: makeQuote(noExtension), at, roots: noExtension.roots }).reasons).toEqual([
      'TDX_PCK_MALFORMED',
    ]);
    expect(verifyTdx({ quote: makeQuote(odd), at, roots: odd.roots }).malformed).toBe(true);
  });
});

describe('the bytes of a TDX quote and its collateral', () => {
  const cache = createChainCache();

  test('cannot be changed, cut, extended or made up', () => {
    const policy = withPolicy({ requireCollateral: false });
    const verify = (changed: Buffer) => verifyWith(changed, { collateral: undefined, cache, ...policy });
    expectNoMutationAccepted(makeQuote(intel), verify, { runs: 500 });
  });

  test('of its collateral neither', () => {
    const quote = makeQuote(intel);
    const verify = (changed: Buffer) => verifyWith(quote, { collateral: changed, cache });
    expectNoMutationAccepted(Buffer.from(usualCollateral), verify, { runs: 300 });
  });
});

describe('recorded TDX quotes', () => {
  recorded('an up-to-date one is accepted with its collateral, while that is current', () => {
    const input = {
      quote: vector('tdx/v4-uptodate.dat'),
      collateral: vector('tdx/v4-uptodate.collateral.json'),
    };
    expect(verifyTdx({ ...input, at: new Date('2025-06-20T00:00:00Z') }).reasons).toEqual([]);
    expect(verifyTdx({ ...input, at: new Date('2025-07-20T00:00:00Z') }).reasons).toEqual([
      'TDX_COLLATERAL_EXPIRED',
    ]);
  });

  recorded('one whose levels match nothing is refused', () => {
    const input = {
      quote: vector('tdx/v5-tcb-outdated.dat'),
      collateral: vector('tdx/v5-tcb-outdated.collateral.json'),
    };
    const verdict = verifyTdx({ ...input, at: new Date('2026-02-20T00:00:00Z') });
    expect(verdict.reasons).toEqual(['TDX_TCB_UNKNOWN']);
    expect(verdict.claims?.version).toBe(5);
  });

  recorded('one that may be debugged is refused', () => {
    const verdict = verifyTdx({ quote: vector('tdx/v4-debug-td.dat'), at: new Date('2023-02-08T12:00:00Z') });
    expect(verdict.reasons).toEqual(['TDX_DEBUG', 'TDX_COLLATERAL_MISSING']);
  });

  recorded('collateral of one platform is refused for another', () => {
    const input = {
      quote: vector('tdx/v4-uptodate.dat'),
      collateral: vector('tdx/v5-tcb-outdated.collateral.json'),
    };
    expect(verifyTdx({ ...input, at: new Date('2026-02-20T00:00:00Z') }).reasons).toContain(
      'TDX_TCB_UNKNOWN',
    );
  });
});
