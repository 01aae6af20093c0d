import {
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  randomBytes,
  sign,
} from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import {
  credentialFile,
  ephemeralKeyFor,
  makeCredential,
  seedBytes,
} from '../../../lib/domain/evidence/tpm/credential.ts';
import {
  defaultTpmPolicy,
  parsePublicKey,
  type TpmInput,
  type TpmPolicy,
  verifyTpm,
} from '../../../lib/domain/evidence/tpm/index.ts';
import { keyPair } from './forge/pki.ts';
import {
  akKeys,
  attestationAttributes,
  makeAttest,
  makePublicArea,
  makeSerialized,
  makeSignature,
  openWithSeed,
  pcrJson,
  pcrs,
  type QuoteOptions,
  rsaKeys,
  seedByRsa,
  selection,
  sized,
  spki,
  u16,
  u32,
} from './forge/tpm.ts';
import { expectNoMutationAccepted } from './mutations.ts';
import { recorded, vectorJson } from './vectors.ts';

const at = new Date('2026-06-01T12:00:00Z');
const attest = makeAttest();
const usual: TpmInput = {
  attest,
  signature: makeSignature(attest),
  ak: spki(akKeys.publicKey),
  pcrs: pcrJson(),
  at,
};
const verifyWith = (input: Partial<TpmInput> = {}) => verifyTpm({ ...usual, ...input });
const quoted = (options: QuoteOptions): Partial<TpmInput> => {
  const bytes = makeAttest(options);
  return { attest: bytes, signature: makeSignature(bytes) };
};
const withPolicy = (policy: Partial<TpmPolicy>) => ({ policy: { ...defaultTpmPolicy, ...policy } });
const rsa = (scheme: 'rsassa' | 'rsapss') => ({
  ak: spki(rsaKeys.publicKey),
  signature: makeSignature(attest, rsaKeys.privateKey, scheme),
});
const wide = new Map([...pcrs].map(([index]) => [index, Buffer.alloc(48, index + 1)]));

describe('a TPM quote is accepted', () => {
  test('and says which PCRs it covers', () => {
    const verdict = verifyWith({ expected: { nonce: Buffer.alloc(32, 0x6e), keyIsBound: () => true } });
    expect(verdict).toMatchObject({ accepted: true, format: 'tpm', reasons: [] });
    expect(verdict.claims).toMatchObject({ nonce: '6e'.repeat(32), clockIsSafe: true });
    expect(Object.keys(verdict.claims?.pcrs.sha256 ?? {})).toEqual(['PCR0', 'PCR4', 'PCR7', 'PCR12']);
    expect(verdict.trust).toMatchObject({ root: verdict.claims?.key, chain: [], notAfter: null });
  });

  test.each<[string, Partial<TpmInput>]>([
    ['signed with RSASSA', rsa('rsassa')],
    ['signed with RSAPSS', rsa('rsapss')],
    ['with a bare RSA signature', { ...rsa('rsassa'), signature: rsa('rsassa').signature.subarray(6) }],
    ['with a length before the attest bytes', { attest: sized(attest) }],
    ['with the key as PEM', { ak: Buffer.from(akKeys.publicKey.export({ format: 'pem', type: 'spki' })) }],
    ['with the key as the TPM’s public area', { ak: makePublicArea() }],
    ['with the key as a sized public area', { ak: sized(makePublicArea()) }],
    ['with an RSA key as the TPM’s public area', { ...rsa('rsassa'), ak: makePublicArea(rsaKeys.publicKey) }],
    ['with PCRs as tpm2_quote writes them', { pcrs: makeSerialized() }],
    ['with PCRs as bare values', { pcrs: Buffer.concat([...pcrs.values()]) }],
    ['with PCRs of an unnamed bank', { pcrs: pcrJson(pcrs, null) }],
    [
      'with PCRs beside the bank’s name',
      { pcrs: Buffer.from(pcrJson().toString().replace('{"sha256":', '{"bank":"sha256","pcrs":')) },
    ],
    [
      'over SHA-384 PCRs, digested with the signature’s SHA-256',
      { ...quoted({ bank: 0x000c, pcrs: wide }), pcrs: pcrJson(wide, 'sha384') },
    ],
    ['with a bare RSAPSS signature', { ...rsa('rsapss'), signature: rsa('rsapss').signature.subarray(6) }],
    [
      'with r and s beside each other',
      { signature: sign('sha256', attest, { key: akKeys.privateKey, dsaEncoding: 'ieee-p1363' }) },
    ],
    ['with r and s in DER', { signature: sign('sha256', attest, akKeys.privateKey) }],
    [
      'listing banks of which nothing was selected, SHA-1, SM3 and SHA-384 among them',
      quoted({
        selections: Buffer.concat([
          u32(4),
          ...[0x0004, 0x0012, 0x000c].map((bank) => selection(bank, Buffer.alloc(3))),
          selection(0x000b, Buffer.of(0x91, 0x10, 0)),
        ]),
      }),
    ],
    [
      'of a generation in one of two banks',
      {
        ...quoted({
          selections: Buffer.concat([
            u32(2),
            selection(0x000b, Buffer.of(0x10, 0, 0)),
            selection(0x000c, Buffer.of(0x10, 0, 0)),
          ]),
          pcrDigest: createHash('sha256').update(Buffer.alloc(32, 5)).update(Buffer.alloc(48, 6)).digest(),
        }),
        pcrs: Buffer.from(JSON.stringify({ sha256: { 4: '05'.repeat(32) }, sha384: { 4: '06'.repeat(48) } })),
        ...withPolicy({ generations: [{ name: 'now', measurements: { PCR4: Buffer.alloc(32, 5) } }] }),
      },
    ],
    ['over exactly the PCRs that the policy names', withPolicy({ pcrs: [12, 7, 4, 0] })],
    [
      'of a generation that counts',
      withPolicy({
        generations: [
          { name: 'now', measurements: { PCR4: Buffer.alloc(32, 5), PCR12: Buffer.alloc(32, 13) } },
        ],
      }),
    ],
  ])('%s', (_, input) => {
    expect(verifyWith(input).reasons).toEqual([]);
  });

  test('of a P-384 key signed with SHA-384', () => {
    const keys = keyPair('P-384');
    const bytes = makeAttest({ hash: 'sha384' });
    const signature = makeSignature(bytes, keys.privateKey, 'ecdsa', 'sha384');
    expect(verifyWith({ attest: bytes, signature, ak: spki(keys.publicKey) }).reasons).toEqual([]);
  });

  test('of a P-384 key signed with SHA-384, with a bare signature', () => {
    const keys = keyPair('P-384');
    const bytes = makeAttest({ hash: 'sha384' });
    for (const dsaEncoding of ['der', 'ieee-p1363'] as const) {
      const signature = sign('sha384', bytes, { key: keys.privateKey, dsaEncoding });
      expect(verifyWith({ attest: bytes, signature, ak: spki(keys.publicKey) }).reasons).toEqual([]);
    }
  });

  test('over more PCRs than one list of tpm2_quote’s file holds', () => {
    const all = new Map(Array.from({ length: 24 }, (_, index) => [index, Buffer.alloc(32, index)]));
    expect(verifyWith({ ...quoted({ pcrs: all }), pcrs: makeSerialized(all) }).reasons).toEqual([]);
  });
});

describe('a TPM quote is refused', () => {
  const p521 = generateKeyPairSync('ec', { namedCurve: 'P-521' });
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 });
  const three = generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 });
  const more = new Map([...pcrs, [13, Buffer.alloc(32)]]);
  const fewer = new Map([...pcrs].slice(1));
  const flipped = new Map([...pcrs, [4, Buffer.alloc(32)]]);
  test.each<[string, Partial<TpmInput>, string]>([
    ['the TPM attested something else', quoted({ type: 0x8017 }), 'TPM_NOT_A_QUOTE'],
    ['it quotes SHA-1 PCRs', quoted({ bank: 0x0004 }), 'TPM_HASH_WEAK'],
    [
      'it is signed with SHA-1',
      { signature: Buffer.concat([u16(0x14), u16(4), sized(Buffer.alloc(256))]) },
      'TPM_HASH_WEAK',
    ],
    ['another key signed it', { ak: spki(keyPair('P-256').publicKey) }, 'TPM_SIGNATURE_INVALID'],
    [
      'its signature is RSA and its key is not',
      { signature: rsa('rsassa').signature },
      'TPM_SIGNATURE_INVALID',
    ],
    ['its signature is ECDSA and its key is not', { ak: spki(rsaKeys.publicKey) }, 'TPM_SIGNATURE_INVALID'],
    [
      'its signature’s numbers are too long',
      {
        signature: Buffer.concat([
          u16(0x18),
          u16(11),
          sized(Buffer.alloc(33, 1)),
          sized(Buffer.alloc(32, 1)),
        ]),
      },
      'TPM_SIGNATURE_INVALID',
    ],
    [
      'its key may leave the TPM',
      { ak: makePublicArea(akKeys.publicKey, attestationAttributes & ~2) },
      'TPM_KEY_NOT_RESTRICTED',
    ],
    [
      'its key signs anything',
      { ak: makePublicArea(akKeys.publicKey, attestationAttributes & ~(1 << 16)) },
      'TPM_KEY_NOT_RESTRICTED',
    ],
    ['its key is of an exotic curve', { ak: spki(p521.publicKey) }, 'TPM_KEY_WEAK'],
    ['its key has 1024 bits', { ak: spki(weak.publicKey) }, 'TPM_KEY_WEAK'],
    ['its key has the exponent 3', { ak: spki(three.publicKey) }, 'TPM_KEY_WEAK'],
    ['nothing binds its key to this VM', { expected: { keyIsBound: () => false } }, 'TPM_KEY_NOT_BOUND'],
    ['it is over another nonce', { expected: { nonce: Buffer.alloc(32) } }, 'NONCE_MISMATCH'],
    ['a quoted PCR is not given', { pcrs: pcrJson(fewer) }, 'TPM_PCR_MISSING'],
    ['the bank is another', { pcrs: Buffer.from(JSON.stringify({ sha256: {} })) }, 'TPM_PCR_MISSING'],
    ['a PCR is given that it does not cover', { pcrs: pcrJson(more) }, 'TPM_PCR_NOT_QUOTED'],
    ['a PCR has another value', { pcrs: pcrJson(flipped) }, 'TPM_PCR_DIGEST_MISMATCH'],
    [
      'its digest is of the bank’s hash',
      { ...quoted({ bank: 0x000c, pcrs: wide, hash: 'sha384' }), pcrs: pcrJson(wide, 'sha384') },
      'TPM_PCR_DIGEST_MISMATCH',
    ],
    ['it quotes a bank that the policy does not allow', withPolicy({ banks: ['sha384'] }), 'TPM_BANK'],
    ['it quotes more PCRs than the policy names', withPolicy({ pcrs: [0, 4, 7] }), 'TPM_PCR_SELECTION'],
    [
      'it quotes fewer PCRs than the policy names',
      withPolicy({ pcrs: [0, 4, 7, 12, 13] }),
      'TPM_PCR_SELECTION',
    ],
    [
      'it selects no PCR',
      { ...quoted({ pcrs: new Map() }), pcrs: Buffer.from('{"sha256":{}}') },
      'TPM_PCR_SELECTION',
    ],
    [
      'a PCR is of no generation',
      withPolicy({ generations: [{ name: 'x', measurements: { PCR4: Buffer.alloc(32) } }] }),
      'MEASUREMENT_UNKNOWN',
    ],
  ])('when %s', (_, input, reason) => {
    expect(verifyWith(input)).toMatchObject({ accepted: false, malformed: false, reasons: [reason] });
  });

  test('when it selects no bank at all', () => {
    const empty = quoted({ selections: u32(0), pcrs: new Map() });
    expect(verifyWith({ ...empty, pcrs: Buffer.from('{"sha256":{}}') }).reasons).toEqual([
      'TPM_BANK',
      'TPM_PCR_SELECTION',
    ]);
  });
});

describe('a TPM quote is malformed', () => {
  const point = makePublicArea();
  const one = selection(0x000b, Buffer.alloc(3));
  const serialized = (edit: (file: Buffer) => void) => {
    const file = makeSerialized();
    edit(file);
    return { pcrs: file };
  };
  test.each<[string, Partial<TpmInput>, string]>([
    ['it was not made inside a TPM', quoted({ magic: 0xff544348 }), 'TPM_MAGIC_WRONG'],
    ['its nonce is too long', quoted({ nonce: Buffer.alloc(65) }), 'TPM_QUOTE_MALFORMED'],
    ['something follows it', { attest: Buffer.concat([attest, Buffer.of(0)]) }, 'TPM_QUOTE_MALFORMED'],
    ['it is cut short', { attest: attest.subarray(0, -1) }, 'TPM_QUOTE_MALFORMED'],
    ['its clock is neither safe nor unsafe', quoted({ safe: 2 }), 'TPM_QUOTE_MALFORMED'],
    [
      'it selects a bank twice',
      quoted({ selections: Buffer.concat([u32(2), one, one]) }),
      'TPM_QUOTE_MALFORMED',
    ],
    ['it promises a million selections', quoted({ selections: u32(1_000_000) }), 'TPM_QUOTE_MALFORMED'],
    [
      'its selection has two bytes',
      quoted({ selections: Buffer.concat([u32(1), selection(0x000b, Buffer.alloc(2))]) }),
      'TPM_QUOTE_MALFORMED',
    ],
    ['its bank is unknown', quoted({ bank: 0x0012 }), 'TPM_HASH_UNKNOWN'],
    ['it lists more banks than there can be', quoted({ selections: u32(17) }), 'TPM_QUOTE_MALFORMED'],
    [
      'a PCR is there twice',
      { pcrs: Buffer.from(`${pcrJson()}`.replace('"0":', '"0":"ee","0":')) },
      'JSON_DUPLICATE_KEY',
    ],
    [
      'a bank is there twice',
      { pcrs: Buffer.from(`${pcrJson()}`.replace('{', '{"sha256":{},')) },
      'JSON_DUPLICATE_KEY',
    ],
    [
      'a name would be passed over',
      { pcrs: Buffer.from(`${pcrJson()}`.replace('{', '{"__proto__":"evil",')) },
      'JSON_DUPLICATE_KEY',
    ],
    ['its signature is cut short', { signature: usual.signature.subarray(0, -1) }, 'TPM_SIGNATURE_MALFORMED'],
    [
      'something follows its signature',
      { signature: Buffer.concat([usual.signature, Buffer.of(0)]) },
      'TPM_SIGNATURE_MALFORMED',
    ],
    ['there is no signature', { signature: Buffer.alloc(0) }, 'INPUT_EMPTY'],
    ['its key is noise', { ak: Buffer.alloc(40, 9) }, 'TPM_KEY_MALFORMED'],
    ['its key is of another type', { ak: Buffer.concat([u16(8), point.subarray(2)]) }, 'TPM_KEY_MALFORMED'],
    ['something follows its key', { ak: Buffer.concat([point, Buffer.of(0)]) }, 'TPM_KEY_MALFORMED'],
    [
      'its key is no point of the curve',
      { ak: Buffer.concat([point.subarray(0, -1), Buffer.of((point.at(-1) ?? 0) ^ 1)]) },
      'TPM_KEY_MALFORMED',
    ],
    ['its key is empty PEM', { ak: Buffer.from('-----BEGIN PUBLIC KEY-----\n') }, 'TPM_KEY_MALFORMED'],
    ['its PCRs are not JSON', { pcrs: Buffer.from('{"sha256":') }, 'TPM_PCRS_MALFORMED'],
    ['its PCRs are of no bank', { pcrs: Buffer.from('{"sha1":{}}') }, 'TPM_PCRS_MALFORMED'],
    [
      'a PCR’s number is too high',
      { pcrs: Buffer.from(JSON.stringify({ sha256: { 24: '00'.repeat(32) } })) },
      'TPM_PCRS_MALFORMED',
    ],
    ['a PCR is too long for its bank', { pcrs: pcrJson(wide) }, 'TPM_PCRS_MALFORMED'],
    ['its PCR file is cut short', { pcrs: makeSerialized().subarray(0, -1) }, 'TPM_PCRS_MALFORMED'],
    [
      'its PCR file has something in unused bytes',
      serialized((file) => file.writeUInt8(1, 667)),
      'TPM_PCRS_MALFORMED',
    ],
    [
      'its PCR file has something in unused selections',
      serialized((file) => file.writeUInt8(1, 100)),
      'TPM_PCRS_MALFORMED',
    ],
    [
      'its PCR file has more digests than PCRs',
      serialized((file) => file.writeUInt32LE(5, 136)),
      'TPM_PCRS_MALFORMED',
    ],
    [
      'its PCR file has a hundred digests',
      serialized((file) => file.writeUInt32LE(100, 136)),
      'TPM_PCRS_MALFORMED',
    ],
    ['its PCR file is of SHA-1', serialized((file) => file.writeUInt16LE(4, 4)), 'TPM_PCRS_MALFORMED'],
    [
      'its PCR file promises a hundred selections',
      serialized((file) => file.writeUInt32LE(100, 0)),
      'TPM_PCRS_MALFORMED',
    ],
    [
      'its PCR file selects with two bytes',
      serialized((file) => file.writeUInt8(2, 6)),
      'TPM_PCRS_MALFORMED',
    ],
  ])('when %s', (_, input, reason) => {
    expect(verifyWith(input)).toMatchObject({ accepted: false, malformed: true, reasons: [reason] });
  });

  test('or refused when its attest bytes, signature or PCRs are changed in any way', () => {
    const verify = (name: 'attest' | 'signature' | 'pcrs') => (bytes: Buffer) =>
      verifyWith({ [name]: bytes });
    expectNoMutationAccepted(attest, verify('attest'), { runs: 400 });
    expectNoMutationAccepted(Buffer.from(usual.signature), verify('signature'), { runs: 400 });
    const file = makeSerialized();
    expectNoMutationAccepted(file, (bytes) => verifyWith({ pcrs: bytes }), { runs: 400 });
    const key = spki(akKeys.publicKey);
    expectNoMutationAccepted(key, (bytes) => verifyWith({ ak: bytes }), { runs: 200 });
    expectNoMutationAccepted(pcrJson(), (bytes) => verifyWith({ pcrs: bytes }), { runs: 400 });
  });
});

describe('a credential', () => {
  const akName = parsePublicKey(makePublicArea()).area?.name ?? Buffer.alloc(0);
  const secret = randomBytes(32);

  test('is opened by the TPM that holds the endorsement key and the attestation key', () => {
    const ek = parsePublicKey(spki(rsaKeys.publicKey));
    const made = makeCredential(ek, akName, secret, { seed: randomBytes(seedBytes(ek)) });
    expect(openWithSeed(seedByRsa(made.encryptedSecret), 'sha256', 128, akName, made.credentialBlob)).toEqual(
      secret,
    );
    expect(Buffer.from(credentialFile(made)).subarray(0, 8).toString('hex')).toBe('badcc0de00000001');
  });

  test('is not opened for another attestation key, so a second TPM cannot answer', () => {
    const ek = parsePublicKey(makePublicArea(rsaKeys.publicKey, 1 << 17));
    expect(ek.area?.symmetricBits).toBe(128);
    const made = makeCredential(ek, akName, secret, { seed: randomBytes(seedBytes(ek)) });
    const seed = seedByRsa(made.encryptedSecret);
    const other = parsePublicKey(makePublicArea(keyPair('P-256').publicKey)).area?.name ?? Buffer.alloc(0);
    expect(() => openWithSeed(seed, 'sha256', 128, other, made.credentialBlob)).toThrow('TPM_RC_INTEGRITY');
  });

  test.each([
    ['P-256', 'sha256', 128],
    ['P-384', 'sha384', 256],
  ] as const)('for an endorsement key on %s is opened by Diffie-Hellman', (curve, hash, bits) => {
    const keys = keyPair(curve);
    const ek = parsePublicKey(spki(keys.publicKey));
    const made = makeCredential(ek, akName, secret, {
      seed: Buffer.alloc(0),
      ephemeral: ephemeralKeyFor(ek),
    });
    const encrypted = Buffer.from(made.encryptedSecret).subarray(2);
    const size = encrypted.readUInt16BE(0);
    const [x, y] = [encrypted.subarray(2, 2 + size), encrypted.subarray(4 + size)];
    const jwk = { kty: 'EC', crv: curve, x: x.toString('base64url'), y: y.toString('base64url') };
    const shared = diffieHellman({
      privateKey: keys.privateKey,
      publicKey: createPublicKey({ key: jwk, format: 'jwk' }),
    });
    const mine = Buffer.from(keys.publicKey.export({ format: 'jwk' }).x ?? '', 'base64url');
    const seed = createHash(hash)
      .update(u32(1))
      .update(shared)
      .update('IDENTITY\0')
      .update(x)
      .update(mine)
      .digest();
    expect(openWithSeed(seed, hash, bits, akName, made.credentialBlob)).toEqual(secret);
  });

  test('is not made from too little randomness or for too long a secret', () => {
    const ek = parsePublicKey(spki(rsaKeys.publicKey));
    expect(() => makeCredential(ek, akName, secret, { seed: Buffer.alloc(16) })).toThrow(RangeError);
    expect(() => makeCredential(ek, akName, Buffer.alloc(33), { seed: randomBytes(32) })).toThrow(RangeError);
    const onCurve = parsePublicKey(spki(akKeys.publicKey));
    expect(() => makeCredential(onCurve, akName, secret, { seed: randomBytes(32) })).toThrow(
      'no ephemeral key',
    );
  });
});

interface RecordedQuote {
  readonly attest_hex: string;
  readonly signature_hex: string;
  readonly tpmt_signature_hex?: string;
  readonly ak_spki_der_b64: string;
  readonly pcrs: Record<string, string>;
  readonly expected_nonce_hex: string;
}

describe('recorded TPM quotes', () => {
  for (const name of ['nitrotpm-ecc-quote', 'swtpm-rsa-quote', 'vtpm-rsa-quote-24']) {
    recorded(`${name} is accepted over its own nonce alone`, () => {
      const quote = vectorJson<RecordedQuote>(`tpm/${name}.json`);
      for (const signature of [quote.signature_hex, quote.tpmt_signature_hex ?? quote.signature_hex]) {
        const input = {
          attest: Buffer.from(quote.attest_hex, 'hex'),
          signature: Buffer.from(signature, 'hex'),
          ak: Buffer.from(quote.ak_spki_der_b64, 'base64'),
          pcrs: Buffer.from(JSON.stringify(quote.pcrs)),
          at,
        };
        const nonce = Buffer.from(quote.expected_nonce_hex, 'hex');
        expect(verifyTpm({ ...input, expected: { nonce } }).reasons).toEqual([]);
        expect(verifyTpm({ ...input, expected: { nonce: nonce.subarray(1) } }).reasons).toEqual([
          'NONCE_MISMATCH',
        ]);
      }
    });
  }
});
