import { describe, expect, test } from '@jest/globals';
import { type HeaderFacts, judgeHeader } from '../../lib/domain/luks-header.ts';

const DISK = '11111111-2222-4333-8444-555555555555';
const MIB = 1024 * 1024;
const facts: HeaderFacts = { disk: DISK, uuid: DISK, deviceBytes: 1024 * MIB, reencrypting: false };

const keyslot = (offset: number) => ({
  type: 'luks2',
  key_size: 64,
  af: { type: 'luks1', stripes: 4000, hash: 'sha256' },
  area: {
    type: 'raw',
    offset: String(offset),
    size: '258048',
    encryption: 'aes-xts-plain64',
    key_size: 64,
  } as Record<string, unknown>,
  kdf: { type: 'pbkdf2', hash: 'sha256', iterations: 1000, salt: 'AAAA' } as Record<string, unknown>,
});
const segment = () =>
  ({
    type: 'crypt',
    offset: '16777216',
    size: 'dynamic',
    iv_tweak: '0',
    encryption: 'aes-xts-plain64',
    sector_size: 4096,
  }) as Record<string, unknown>;

/** What `cryptsetup luksDump --dump-json-metadata` 2.6.1 prints of a disk that the agent formatted, salts shortened. */
const made = () => ({
  keyslots: { '0': keyslot(32_768), '1': keyslot(290_816) } as Record<string, ReturnType<typeof keyslot>>,
  tokens: {
    '0': { type: 'casemate', keyslots: ['0'], disk: DISK, generation: 3, role: 'disk-key' },
    '1': { type: 'casemate', keyslots: ['1'], disk: DISK, generation: 3, role: 'recovery' },
  } as Record<string, Record<string, unknown>>,
  segments: { '0': segment() } as Record<string, Record<string, unknown>>,
  digests: {
    '0': {
      type: 'pbkdf2',
      keyslots: ['0', '1'],
      segments: ['0'],
      hash: 'sha256',
      iterations: 1000,
      salt: 'AAAA',
      digest: 'AAAA',
    },
  } as Record<string, Record<string, unknown>>,
  config: { json_size: '12288', keyslots_size: '2097152' } as Record<string, unknown>,
});
type Header = ReturnType<typeof made>;

/** What the same prints after `reencrypt --init-only`. */
const reencrypting = (h: Header) => {
  h.keyslots['2'] = {
    type: 'reencrypt',
    key_size: 1,
    mode: 'reencrypt',
    direction: 'forward',
    area: { type: 'checksum', offset: '548864', size: '1581056', hash: 'sha256', sector_size: 4096 },
  } as never;
  h.segments['1'] = { ...segment(), flags: ['backup-previous'] };
  h.segments['2'] = { ...segment(), flags: ['backup-final'] };
  h.digests['1'] = { ...h.digests['0'], segments: ['2'] };
  h.config['requirements'] = { mandatory: ['online-reencrypt-v2'] };
};
const judge = (change: (h: Header) => unknown = () => undefined, overrides: Partial<HeaderFacts> = {}) => {
  const header = made();
  change(header);
  return judgeHeader(header, { ...facts, ...overrides });
};
const slot = (h: Header, n = '0') => h.keyslots[n] ?? keyslot(0);
const seg = (h: Header) => h.segments['0'] ?? segment();

describe('a LUKS2 header', () => {
  test('as the agent makes it is sound; its tokens say what is in its keyslots', () => {
    expect(judge()).toEqual({
      kind: 'sound',
      reencrypting: false,
      keyslots: [
        { slot: 0, claims: { generation: 3, role: 'disk-key' } },
        { slot: 1, claims: { generation: 3, role: 'recovery' } },
      ],
    });
  });
  test('with a keyslot that a human added, and no token for it, is sound', () => {
    const verdict = judge((h) => {
      h.keyslots['4'] = {
        ...keyslot(548_864),
        kdf: { type: 'argon2id', time: 4, memory: 1_048_576, cpus: 4, salt: 'AAAA' },
      };
    });
    expect(verdict).toMatchObject({ kind: 'sound', keyslots: [{}, {}, { slot: 4, claims: undefined }] });
  });

  test.each<[string, string, (h: Header) => unknown]>([
    ['a null cipher for data', 'HEADER_CIPHER', (h) => (seg(h)['encryption'] = 'cipher_null-ecb')],
    ['another cipher for data', 'HEADER_CIPHER', (h) => (seg(h)['encryption'] = 'aes-cbc-essiv:sha256')],
    [
      'a null cipher for a keyslot',
      'HEADER_CIPHER',
      (h) => (slot(h, '1').area['encryption'] = 'cipher_null-ecb'),
    ],
    ['a short volume key', 'HEADER_CIPHER', (h) => (slot(h).key_size = 16)],
    ['no segment', 'HEADER_SEGMENTS', (h) => (h.segments = {})],
    ['two segments', 'HEADER_SEGMENTS', (h) => (h.segments['1'] = segment())],
    ['a linear segment', 'HEADER_SEGMENTS', (h) => (seg(h)['type'] = 'linear')],
    ['a fixed length', 'HEADER_SEGMENTS', (h) => (seg(h)['size'] = '4096')],
    ['an IV offset', 'HEADER_SEGMENTS', (h) => (seg(h)['iv_tweak'] = '8')],
    ['integrity tags', 'HEADER_SEGMENTS', (h) => (seg(h)['integrity'] = { type: 'hmac(sha256)' })],
    ['data inside the keyslots', 'HEADER_GEOMETRY', (h) => (seg(h)['offset'] = '65536')],
    ['data behind what is copied', 'HEADER_GEOMETRY', (h) => (seg(h)['offset'] = String(32 * MIB))],
    ['sectors of a size that there is not', 'HEADER_GEOMETRY', (h) => (seg(h)['sector_size'] = 65_536)],
    [
      'a keyslot that ends in the data',
      'HEADER_GEOMETRY',
      (h) => (slot(h).area['offset'] = String(17 * MIB)),
    ],
    [
      'a keyslot that costs 4 GiB',
      'HEADER_KEYSLOTS',
      (h) => (slot(h).kdf = { type: 'argon2id', time: 4, memory: 4_194_304, cpus: 4 }),
    ],
    [
      'a keyslot that costs a day',
      'HEADER_KEYSLOTS',
      (h) => (slot(h).kdf = { type: 'argon2i', time: 100_000, memory: 1024, cpus: 1 }),
    ],
    [
      'a keyslot of two thousand million iterations',
      'HEADER_KEYSLOTS',
      (h) => (slot(h).kdf['iterations'] = 2e9),
    ],
    ['a keyslot of another type', 'HEADER_KEYSLOTS', (h) => (slot(h).type = 'luks3')],
    ['no digest', 'HEADER_DIGEST', (h) => (h.digests = {})],
    [
      'a digest that leaves its segment out',
      'HEADER_DIGEST',
      (h) => (h.digests['0'] = { ...h.digests['0'], segments: [] }),
    ],
    [
      'a digest that costs a day',
      'HEADER_DIGEST',
      (h) => (h.digests['0'] = { ...h.digests['0'], iterations: 2e9 }),
    ],
    [
      'a foreign token',
      'HEADER_FOREIGN_TOKEN',
      (h) => (h.tokens['5'] = { type: 'systemd-tpm2', keyslots: ['0'] }),
    ],
    [
      'a token of ours that says where to ask for keys',
      'HEADER_FOREIGN_TOKEN',
      (h) => (h.tokens['0'] = { ...h.tokens['0'], apiOrigin: 'https://evil.example' }),
    ],
    ['a requirement', 'HEADER_REQUIREMENTS', (h) => (h.config['requirements'] = { mandatory: ['opal'] })],
    ['a flag', 'HEADER_REQUIREMENTS', (h) => (h.config['flags'] = ['allow-discards'])],
    ['a re-encryption that nobody here began', 'HEADER_REENCRYPTION', reencrypting],
    [
      'a re-encryption that only its keyslot shows',
      'HEADER_REENCRYPTION',
      (h) => {
        reencrypting(h);
        delete h.config['requirements'];
      },
    ],
    ['no config', 'HEADER_UNREADABLE', (h) => Object.assign(h, { config: null })],
  ])('with %s is refused as %s', (_, reason, change) => {
    expect(judge(change)).toMatchObject({ kind: 'refuse', reason });
  });

  test('of another disk, or of a device that is shorter than its header, is refused', () => {
    expect(judge(undefined, { uuid: '99999999-2222-4333-8444-555555555555' })).toMatchObject({
      reason: 'HEADER_OTHER_DISK',
    });
    expect(judge(undefined, { deviceBytes: 8 * MIB })).toMatchObject({ reason: 'HEADER_GEOMETRY' });
  });

  test('whose re-encryption this agent began is sound; with anything else beside it, it is not', () => {
    expect(judge(reencrypting, { reencrypting: true })).toMatchObject({ kind: 'sound', reencrypting: true });
    const withMore = (h: Header) => {
      reencrypting(h);
      h.config['requirements'] = { mandatory: ['online-reencrypt-v2', 'opal'] };
    };
    expect(judge(withMore, { reencrypting: true })).toMatchObject({ reason: 'HEADER_REENCRYPTION' });
    const nullCipher = (h: Header) => {
      reencrypting(h);
      h.segments['2'] = { ...segment(), encryption: 'cipher_null-ecb', flags: ['backup-final'] };
    };
    expect(judge(nullCipher, { reencrypting: true })).toMatchObject({ reason: 'HEADER_CIPHER' });
  });

  test.each([undefined, null, 1, 'x', [], {}])('that is %j is unreadable', (json) => {
    expect(judgeHeader(json, facts)).toMatchObject({ kind: 'refuse', reason: 'HEADER_UNREADABLE' });
  });
});
