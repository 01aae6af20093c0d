import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { signedBytes, type TranscriptParts, transcript } from '../../lib/domain/transcript.ts';

const bytes = (from: number, to: number) => Uint8Array.from({ length: to - from }, (_, i) => from + i);
const KEY = bytes(0, 91);
const NONCE = bytes(0, 32);
const BASE = {
  apiOrigin: 'https://api.casemate.example',
  accountId: '123456789012',
  region: 'eu-west-1',
  instanceId: 'i-0a1b2c3d4e5f60718',
  agentPublicKey: KEY,
};

/**
 * Computed apart from this code, with Python 3:
 *
 *   def T(*parts):
 *       h = hashlib.sha512()
 *       for p in (b"casemate/1",) + parts:
 *           h.update(struct.pack(">I", len(p)) + p)
 *       return h.hexdigest()
 *   key, nonce, eph = bytes(range(91)), bytes(range(32)), bytes(range(100, 132))
 *   T(b"report", b"https://api.casemate.example", b"123456789012", b"eu-west-1",
 *     b"i-0a1b2c3d4e5f60718", b"", b"", b"", key, b"")
 */
const VECTORS: readonly (readonly [string, TranscriptParts, string])[] = [
  [
    'a report',
    { ...BASE, purpose: 'report' },
    '67d636342bddc130e190be271fb76763749cadbf040c7fefa96e97e6be646b2a05e30b52808515dedf494c58a287ff42a6055f0d5986112d0726de3ac836594a',
  ],
  [
    'an enrolment',
    { ...BASE, purpose: 'enrol', nonce: NONCE },
    '23287cda3739021a19516b1d242b2522eca0fa6a82ceeb6cf8f566c13d1707259d148e87d454cd601d9e75fb26c424547b91114cececc2dd684a4a0f5806c44d',
  ],
  [
    'a release',
    {
      ...BASE,
      purpose: 'release',
      disk: '3f0f6c0e-9a55-4f5e-8f44-0d2b1c7a9e11',
      generation: 2,
      nonce: NONCE,
      ephemeralPublicKey: bytes(100, 132),
    },
    '1fea68b1dad07f9388fc44bf6ccc5512bb8545b0afbec3dd25559de3d7d22bc51518771b611d67e946ac9b5065eca857fd560554c3243d24a3b47be7fd80acb2',
  ],
  [
    'empty parts',
    {
      purpose: 'enrol',
      apiOrigin: '',
      accountId: '',
      region: '',
      instanceId: '',
      agentPublicKey: new Uint8Array(),
    },
    'c1b1011aea09d6688a929f4548b43c7e9c2b8cab8916b480d5cfa1a11948dda0c1d3bb1694c8311718a6f5b32de707ad91c63a2008e3636171960732447214db',
  ],
];

describe('the transcript', () => {
  test.each(VECTORS)('of %s is what Python computes', (_, parts, expected) => {
    expect(transcript(parts).toString('hex')).toBe(expected);
  });

  const text = fc.string({ unit: fc.constantFrom('a', 'b', '1', ':', '\0'), maxLength: 3 });
  const raw = fc.uint8Array({ maxLength: 3 });
  const anyParts: fc.Arbitrary<TranscriptParts> = fc.record(
    {
      purpose: fc.constantFrom('enrol', 'report', 'release', 'confirm', 'recover', 'rotate'),
      apiOrigin: text,
      accountId: text,
      region: text,
      instanceId: text,
      disk: text,
      generation: fc.integer({ min: 1, max: 12 }),
      nonce: raw,
      agentPublicKey: raw,
      ephemeralPublicKey: raw,
    },
    { requiredKeys: ['purpose', 'apiOrigin', 'accountId', 'region', 'instanceId', 'agentPublicKey'] },
  );
  /** The parts as they are meant: an absent part is an empty one. */
  const meaning = (p: TranscriptParts) =>
    JSON.stringify([
      p.purpose,
      p.apiOrigin,
      p.accountId,
      p.region,
      p.instanceId,
      p.disk ?? '',
      p.generation ?? '',
      [...(p.nonce ?? [])],
      [...p.agentPublicKey],
      [...(p.ephemeralPublicKey ?? [])],
    ]);

  test('is the same for the same parts, and no two different lists of parts share one', () => {
    void fc.assert(
      fc.property(anyParts, anyParts, (a, b) => {
        expect(transcript(a).equals(transcript(b))).toBe(meaning(a) === meaning(b));
      }),
      { numRuns: 1000 },
    );
  });

  test('changes when characters move from one part to the next', () => {
    void fc.assert(
      fc.property(
        fc.string({ minLength: 1, maxLength: 12 }),
        fc.nat(12),
        fc.nat(12),
        (whole, at, elsewhere) => {
          const split = (i: number) =>
            transcript({ ...BASE, purpose: 'enrol', accountId: whole.slice(0, i), region: whole.slice(i) });
          const [a, b] = [Math.min(at, whole.length), Math.min(elsewhere, whole.length)];
          expect(split(a).equals(split(b))).toBe(a === b);
        },
      ),
    );
  });

  test('is 64 bytes, as an SNP report_data is', () => {
    expect(transcript({ ...BASE, purpose: 'report' })).toHaveLength(64);
  });
});

describe('what the agent signs', () => {
  const parts: TranscriptParts = { ...BASE, purpose: 'report' };

  test('is the transcript alone when there is no payload', () => {
    expect(signedBytes(parts).equals(transcript(parts))).toBe(true);
  });

  test('is the transcript and SHA-512 of the payload in UTF-8', () => {
    // hashlib.sha512('{"é":1}'.encode()).hexdigest()
    const digest =
      'fbe52e96b3eaf2fe29962d23625de0d6e7553b4c35ff1845c4a62a97ea6c7158413dee156bd093f8bacbc3b194721a0c8fda3deaf6be26c4faa6b98a9ff3bb97';
    expect(signedBytes(parts, '{"é":1}').toString('hex')).toBe(transcript(parts).toString('hex') + digest);
  });

  test('is longer with an empty payload than without any', () => {
    expect(signedBytes(parts, '')).toHaveLength(128);
  });
});
