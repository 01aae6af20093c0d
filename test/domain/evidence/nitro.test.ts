import { describe, expect, test } from '@jest/globals';
import { encode } from 'cbor2';
import { createChainCache } from '../../../lib/domain/evidence/chain.ts';
import {
  defaultNitroPolicy,
  type NitroInput,
  type NitroPolicy,
  pinsBoot,
  verifyNitro,
} from '../../../lib/domain/evidence/nitro/index.ts';
import { type DocumentOptions, makeDocument, makeNitro, plain, timestamp, usualPcrs } from './forge/nitro.ts';
import { issue, keyPair } from './forge/pki.ts';
import { expectNoMutationAccepted } from './mutations.ts';
import { recorded, vector, vectorJson } from './vectors.ts';

const nitro = makeNitro();
const { root, regional, zonal, instance } = nitro;
const cache = createChainCache();
const verifyWith = (document: Uint8Array, input: Partial<NitroInput> = {}) =>
  verifyNitro({ document, at: timestamp, roots: nitro.roots, ...input });
const reasonsOf = (options: DocumentOptions, input: Partial<NitroInput> = {}) =>
  verifyWith(makeDocument(nitro, options), input).reasons;
const withPolicy = (policy: Partial<NitroPolicy>) => ({ policy: { ...defaultNitroPolicy, ...policy } });
const bytes = (length: number) => new Uint8Array(length).fill(7);

describe('a Nitro document is accepted', () => {
  test('of a NitroTPM, and says which instance booted what', () => {
    const verdict = verifyWith(makeDocument(nitro, { fields: { public_key: bytes(65), nonce: bytes(32) } }));
    expect(verdict).toMatchObject({ accepted: true, format: 'nitro', reasons: [] });
    expect(verdict.claims).toMatchObject({
      kind: 'nitrotpm',
      instanceId: 'i-0123456789abcdef0',
      region: 'eu-west-1',
      timestamp: timestamp.toISOString(),
      publicKey: '07'.repeat(65),
      userData: null,
      nonce: '07'.repeat(32),
    });
    expect(verdict.claims?.pcrs['PCR4']).toBe('05'.repeat(48));
    expect(verdict.trust?.chain).toHaveLength(5);
  });

  test('of an enclave', () => {
    expect(verifyWith(makeDocument(nitro, { kind: 'enclave' })).claims?.kind).toBe('enclave');
  });

  test('when the payload’s map has an indefinite length, as newer ones have', () => {
    const indefinite = (payload: Uint8Array) =>
      Buffer.concat([Buffer.of(0xbf), payload.subarray(1), Buffer.of(0xff)]);
    expect(reasonsOf({ payload: indefinite })).toEqual([]);
  });

  test('when optional fields are left out, or user data is there and empty', () => {
    const fields = { public_key: undefined, nonce: undefined, user_data: new Uint8Array() };
    expect(reasonsOf({ fields })).toEqual([]);
    expect(reasonsOf({ fields }, { expected: { userData: new Uint8Array() } })).toEqual([]);
  });

  test('when nonce, user data, instance and Region are as expected', () => {
    const expected = { nonce: bytes(32), userData: bytes(64), instanceId: 'i-0123456789abcdef0' };
    const fields = { nonce: bytes(32), user_data: bytes(64) };
    expect(reasonsOf({ fields }, { expected, ...withPolicy({ region: 'eu-west-1' }) })).toEqual([]);
  });

  test('in debug mode where the policy says so', () => {
    const pcrs = usualPcrs('enclave')
      .set(0, new Uint8Array(48))
      .set(1, new Uint8Array(48))
      .set(2, new Uint8Array(48));
    expect(reasonsOf({ kind: 'enclave', pcrs }, withPolicy({ allowDebug: true }))).toEqual([]);
  });

  test('while its generation counts: the one before until its date, the next one before it ships', () => {
    const pinned = (byte: number) => ({ PCR4: bytes(48).fill(byte), PCR12: bytes(48).fill(13) });
    const generations = [
      { name: 'last', until: new Date(timestamp.getTime() + 1), measurements: pinned(4) },
      { name: 'current', measurements: pinned(5) },
      { name: 'next', measurements: pinned(6) },
    ];
    const on = (byte: number) =>
      reasonsOf({ pcrs: usualPcrs('nitrotpm').set(4, bytes(48).fill(byte)) }, withPolicy({ generations }));
    expect([on(4), on(5), on(6), on(9)]).toEqual([[], [], [], ['MEASUREMENT_UNKNOWN']]);
    const later = new Date(timestamp.getTime() + 1000);
    const document = makeDocument(nitro, { pcrs: usualPcrs('nitrotpm').set(4, bytes(48).fill(4)) });
    expect(verifyWith(document, { at: later, ...withPolicy({ generations }) }).reasons).toEqual([
      'MEASUREMENT_OUTDATED',
    ]);
  });
});

describe('a Nitro document is refused by policy', () => {
  const later = new Date(timestamp.getTime() + 301_000);
  const earlier = new Date(timestamp.getTime() - 301_000);
  const only = (register: string, byte: number) => [
    { name: 'x', measurements: { [register]: bytes(48).fill(byte) } },
  ];
  test.each<[string, DocumentOptions, Partial<NitroInput>, string]>([
    ['enclaves do not count', { kind: 'enclave' }, withPolicy({ kinds: ['nitrotpm'] }), 'NITRO_KIND'],
    ['it is older than five minutes', {}, { at: later }, 'NITRO_STALE'],
    ['it is of the future', {}, { at: earlier }, 'NITRO_STALE'],
    [
      'PCR2 is zero',
      { kind: 'enclave', pcrs: usualPcrs('enclave').set(2, new Uint8Array(48)) },
      {},
      'NITRO_DEBUG',
    ],
    ['PCR0 is missing', { pcrs: new Map([...usualPcrs('nitrotpm')].slice(1)) }, {}, 'NITRO_DEBUG'],
    ['it is of another Region', {}, withPolicy({ region: 'us-east-1' }), 'NITRO_REGION_MISMATCH'],
    [
      'it is of another instance',
      {},
      { expected: { instanceId: 'i-0fedcba9876543210' } },
      'NITRO_INSTANCE_MISMATCH',
    ],
    [
      'it carries another nonce',
      { fields: { nonce: bytes(32) } },
      { expected: { nonce: bytes(31) } },
      'NONCE_MISMATCH',
    ],
    ['it carries no nonce', {}, { expected: { nonce: bytes(32) } }, 'NONCE_MISMATCH'],
    [
      'it carries other user data',
      { fields: { user_data: bytes(64) } },
      { expected: { userData: new Uint8Array(64) } },
      'USER_DATA_MISMATCH',
    ],
    [
      'its policy pins PCR4 without PCR12',
      {},
      withPolicy({ generations: only('PCR4', 5) }),
      'NITRO_PCRS_INSUFFICIENT',
    ],
    [
      'it has not the register that its policy pins',
      { kind: 'enclave' },
      withPolicy({ generations: only('PCR20', 0) }),
      'MEASUREMENT_UNKNOWN',
    ],
  ])('when %s', (_, options, input, reason) => {
    const verdict = verifyWith(makeDocument(nitro, options), input);
    expect(verdict).toMatchObject({ accepted: false, malformed: false, reasons: [reason] });
  });

  test('unless PCR7 with Secure Boot, or PCR4 together with PCR12, is pinned', () => {
    expect([
      pinsBoot(['PCR7']),
      pinsBoot(['PCR4', 'PCR12']),
      pinsBoot(['PCR4']),
      pinsBoot(['PCR12']),
    ]).toEqual([true, true, false, false]);
    const measurements = { PCR7: bytes(48).fill(8) };
    expect(reasonsOf({}, withPolicy({ generations: [{ name: 'secure boot', measurements }] }))).toEqual([]);
    const enclave = { generations: [{ name: 'image', measurements: { PCR0: bytes(48).fill(1) } }] };
    expect(reasonsOf({ kind: 'enclave' }, withPolicy(enclave))).toEqual([]);
  });
});

describe('a Nitro document is not believed', () => {
  const others = makeNitro();
  const wide = issue('x.eu-west-1.aws.nitro-enclaves', keyPair('P-384'), instance, {});
  const flipped = (signature: Buffer) => {
    signature[95] = (signature[95] ?? 0) ^ 1;
    return signature;
  };
  const bundle = (...parties: { der: Buffer }[]) => ({ cabundle: parties.map((party) => party.der) });
  test.each<[string, DocumentOptions, Partial<NitroInput>, string]>([
    ['its root is not pinned', {}, { roots: others.roots }, 'ROOT_NOT_PINNED'],
    ['its bundle stands leaf-first', bundle(instance, zonal, regional, root), {}, 'CHAIN_OUT_OF_ORDER'],
    ['two authorities changed places', bundle(root, zonal, regional, instance), {}, 'CHAIN_OUT_OF_ORDER'],
    ['an authority is missing', bundle(root, regional, instance), {}, 'CHAIN_OUT_OF_ORDER'],
    [
      'an authority is another hierarchy’s',
      bundle(root, regional, others.zonal, instance),
      {},
      'CERTIFICATE_SIGNATURE_INVALID',
    ],
    [
      'there is one authority more than the path length allows',
      { leafFaults: { issuerName: wide.name }, ...bundle(root, regional, zonal, instance, wide) },
      {},
      'CERTIFICATE_PATH_TOO_LONG',
    ],
    ['its leaf may not sign', { leafFaults: { keyUsage: 'none' } }, {}, 'CERTIFICATE_USAGE_WRONG'],
    [
      'its leaf is an authority',
      { leafFaults: { ca: true, keyUsage: 'digitalSignature' } },
      {},
      'CERTIFICATE_USAGE_WRONG',
    ],
    [
      'its leaf is signed with SHA-256',
      { leafFaults: { signature: 'ecdsaSha256' } },
      {},
      'CERTIFICATE_ALGORITHM_WEAK',
    ],
    ['its leaf has expired', { leafFaults: { notAfter: '20260601115959Z' } }, {}, 'CERTIFICATE_EXPIRED'],
    [
      'its leaf is not valid yet',
      { leafFaults: { notBefore: '20260601120001Z' } },
      {},
      'CERTIFICATE_NOT_YET_VALID',
    ],
    [
      'its leaf’s signature is wrong',
      { leafFaults: { flipSignature: true } },
      {},
      'CERTIFICATE_SIGNATURE_INVALID',
    ],
    [
      'its leaf has a P-256 key',
      { leafKeys: keyPair('P-256'), signature: () => Buffer.alloc(96, 1) },
      {},
      'NITRO_ALGORITHM_UNKNOWN',
    ],
    [
      'its protected header names another algorithm',
      { protectedHeader: Uint8Array.of(0xa1, 0x01, 0x26) },
      {},
      'NITRO_ALGORITHM_UNKNOWN',
    ],
    ['its signature is wrong', { signature: flipped }, {}, 'NITRO_SIGNATURE_INVALID'],
    [
      'its leaf is another module’s',
      { leafName: 'i-0123456789abcdef1-tpm0000000000000000.eu-west-1.aws' },
      {},
      'NITRO_MODULE_MISMATCH',
    ],
    [
      'its leaf names no Region',
      { leafName: 'i-0123456789abcdef0-tpm0000000000000000.aws' },
      {},
      'NITRO_MODULE_MISMATCH',
    ],
  ])('when %s', (_, options, input, reason) => {
    const verdict = verifyWith(makeDocument(nitro, options), input);
    expect(verdict).toMatchObject({ accepted: false, reasons: [reason], claims: null });
  });

  test('when an authority that may not issue certificates did', () => {
    const weak = issue('i.eu-west-1.aws.nitro-enclaves', instance, zonal, { keyUsage: 'digitalSignature' });
    expect(reasonsOf(bundle(root, regional, zonal, weak))).toEqual(['CERTIFICATE_USAGE_WRONG']);
    const notCa = issue('i.eu-west-1.aws.nitro-enclaves', instance, zonal, {
      ca: false,
      keyUsage: 'keyCertSign',
    });
    expect(reasonsOf(bundle(root, regional, zonal, notCa))).toEqual(['CERTIFICATE_USAGE_WRONG']);
  });
});

describe('a Nitro document is malformed', () => {
  const raw = (hex: string) => ({ payload: () => Buffer.from(hex, 'hex') });
  const prefixed = (prefix: string) => Buffer.concat([Buffer.from(prefix, 'hex'), makeDocument(nitro)]);

  test.each<[string, DocumentOptions, string]>([
    ['a key stands twice in its payload', raw('a2616101616102'), 'CBOR_DUPLICATE_KEY'],
    ['a PCR stands twice in its payload', raw('a16470637273a200010002'), 'CBOR_DUPLICATE_KEY'],
    ['a text is longer than it says', raw('a17801610100'), 'CBOR_LENGTH_NOT_MINIMAL'],
    ['a text has an indefinite length', raw('a17f6161ff01'), 'CBOR_INDEFINITE_LENGTH'],
    ['an inner map has an indefinite length', raw('a16161bf0102ff'), 'CBOR_INDEFINITE_LENGTH'],
    ['it holds a float', raw('a16161f93c00'), 'CBOR_TYPE_UNKNOWN'],
    ['it holds a boolean', raw('a16161f5'), 'CBOR_TYPE_UNKNOWN'],
    ['it holds a tag', raw('a16161c100'), 'CBOR_TYPE_UNKNOWN'],
    ['it holds a negative number', raw('a1616120'), 'CBOR_TYPE_UNKNOWN'],
    ['it holds a number beyond what a double has', raw('a161611bffffffffffffffff'), 'CBOR_TYPE_UNKNOWN'],
    ['a key is a map', raw('a1a001'), 'CBOR_TYPE_UNKNOWN'],
    ['it nests too deep', raw('a1616181818181818101'), 'CBOR_TOO_DEEP'],
    ['it nests without end', raw('81'.repeat(5_000)), 'CBOR_TOO_DEEP'],
    ['it ends in the middle of a map', raw('a16161'), 'CBOR_MALFORMED'],
    ['it promises a billion entries', raw('ba3fffffff'), 'CBOR_MALFORMED'],
    [
      'it has a thousand entries',
      raw(
        `b903e8${Array.from({ length: 1000 }, (_, n) => `19${(n + 256).toString(16).padStart(4, '0')}00`).join('')}`,
      ),
      'CBOR_MALFORMED',
    ],
    ['its payload is not a map', raw('01'), 'NITRO_MALFORMED'],
    ['something follows its payload’s map', raw('a1616101f6'), 'CBOR_MALFORMED'],
    ['an unprotected header is there', { unprotected: new Map([[4, 1]]) }, 'NITRO_MALFORMED'],
    ['its signature is too short', { signature: (bytes) => bytes.subarray(1) }, 'NITRO_MALFORMED'],
    ['it has both kinds of PCRs', { fields: { pcrs: usualPcrs('enclave') } }, 'NITRO_MALFORMED'],
    ['it has no PCRs', { fields: { nitrotpm_pcrs: new Map() } }, 'NITRO_MALFORMED'],
    ['a PCR is too short', { pcrs: new Map([[0, bytes(32)]]) }, 'NITRO_MALFORMED'],
    ['a PCR’s number is too high', { pcrs: new Map([[32, bytes(48)]]) }, 'NITRO_MALFORMED'],
    ['its digest is another', { fields: { digest: 'SHA256' } }, 'NITRO_MALFORMED'],
    ['its module id is empty', { fields: { module_id: '' } }, 'NITRO_MALFORMED'],
    [
      'its module id is an enclave’s and its PCRs a TPM’s',
      { fields: { module_id: 'i-0123456789abcdef0-enc0' } },
      'NITRO_MALFORMED',
    ],
    ['its time is text', { fields: { timestamp: 'now' } }, 'NITRO_MALFORMED'],
    [
      'its time is beyond all calendars',
      { fields: { timestamp: Number.MAX_SAFE_INTEGER } },
      'NITRO_MALFORMED',
    ],
    ['its bundle is empty', { cabundle: [] }, 'NITRO_MALFORMED'],
    [
      'its bundle has nine certificates',
      { cabundle: Array.from({ length: 9 }, () => root.der) },
      'NITRO_MALFORMED',
    ],
    ['its nonce is too long', { fields: { nonce: bytes(1025) } }, 'NITRO_MALFORMED'],
    ['its public key is empty', { fields: { public_key: bytes(0) } }, 'NITRO_MALFORMED'],
    ['its certificate is text', { fields: { certificate: 'x' } }, 'NITRO_MALFORMED'],
    ['its certificate is no ASN.1', { fields: { certificate: bytes(100) } }, 'ASN1_MALFORMED'],
  ])('when %s', (_, options, reason) => {
    expect(verifyWith(makeDocument(nitro, options))).toMatchObject({ malformed: true, reasons: [reason] });
  });

  test('when it is tagged, followed by something, empty, too large or another type', () => {
    expect(verifyWith(prefixed('d2')).reasons).toEqual(['CBOR_TYPE_UNKNOWN']);
    expect(verifyWith(Buffer.concat([makeDocument(nitro), Buffer.of(0xf6)])).reasons).toEqual([
      'CBOR_MALFORMED',
    ]);
    expect(verifyWith(Buffer.alloc(0)).reasons).toEqual(['INPUT_EMPTY']);
    expect(verifyWith(Buffer.alloc(20_000)).reasons).toEqual(['INPUT_TOO_LARGE']);
    expect(verifyWith(encode('document')).reasons).toEqual(['NITRO_MALFORMED']);
    expect(verifyWith(encode([1, 2, 3, 4])).reasons).toEqual(['NITRO_ALGORITHM_UNKNOWN']);
    expect(
      verifyWith(encode([plain(Buffer.from('a1013822', 'hex')), new Map(), bytes(17_000), bytes(96)]))
        .malformed,
    ).toBe(true);
  });
});

describe('the bytes of a Nitro document', () => {
  test('cannot be changed, cut, extended or made up', () => {
    const document = makeDocument(nitro, { fields: { nonce: bytes(32) } });
    expectNoMutationAccepted(document, (changed) => verifyWith(changed, { cache }), { runs: 500 });
  });
});

interface ExpectedDocuments {
  readonly documents: Readonly<
    Record<string, { validate_at: string; pcrs: Record<string, string>; module_id: string }>
  >;
}

describe('recorded Nitro documents', () => {
  const outcomes: Readonly<Record<string, readonly string[]>> = {
    'nitrotpm-us-east-1-2026-02.cbor': [],
    'enclave-us-east-1-2022-10.cbor': [],
    'enclave-debug-2022-10.cbor': ['NITRO_DEBUG'],
  };
  for (const [name, reasons] of Object.entries(outcomes)) {
    recorded(`${name} is ${reasons.length === 0 ? 'accepted' : `refused: ${reasons.join(', ')}`}`, () => {
      const entry = vectorJson<ExpectedDocuments>('nitro/expected.json').documents[name];
      const verdict = verifyNitro({
        document: vector(`nitro/${name}`),
        at: new Date(entry?.validate_at ?? 0),
      });
      expect(verdict.reasons).toEqual(reasons);
      const pcrs = Object.fromEntries(
        Object.entries(entry?.pcrs ?? {}).map(([index, value]) => [`PCR${index}`, value]),
      );
      expect(verdict.claims).toMatchObject({ moduleId: entry?.module_id, pcrs });
    });
  }

  recorded('no change to one is accepted', () => {
    const document = vector('nitro/nitrotpm-us-east-1-2026-02.cbor');
    const at = new Date('2026-02-03T10:12:02.437Z');
    expectNoMutationAccepted(document, (changed) => verifyNitro({ document: changed, at, cache }), {
      runs: 500,
    });
  });

  recorded('one is refused when its three hours are over', () => {
    const document = vector('nitro/nitrotpm-us-east-1-2026-02.cbor');
    const verdict = verifyNitro({ document, at: new Date('2026-02-03T13:12:03Z') });
    expect(verdict.reasons).toEqual(['CERTIFICATE_EXPIRED']);
  });
});
