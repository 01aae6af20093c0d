import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import {
  type KeyProof,
  verifyNitroFor,
  verifySnpFor,
  verifyTpmFor,
} from '../../../lib/domain/evidence/binding.ts';
import { isEvidenceFresh } from '../../../lib/domain/evidence/freshness.ts';
import { makeDocument, makeNitro, plain, timestamp, usualPcrs } from './forge/nitro.ts';
import { keyPair } from './forge/pki.ts';
import { makeAmd, makeLeaf, makeReport, vlekReport } from './forge/snp.ts';
import { akKeys, makeAttest, makePublicArea, makeSignature, pcrJson, spki } from './forge/tpm.ts';

const transcript = randomBytes(64);
const other = randomBytes(64);
const context = { transcript, instanceId: 'i-0123456789abcdef0', region: 'eu-west-1', at: timestamp };

describe('an SNP report for a VM', () => {
  const amd = makeAmd();
  const certificates = [makeLeaf(amd, { kind: 'VLEK' }), amd.asvk.Milan.der, amd.ark.Milan.der];
  const sent = (reportData: Buffer) => ({
    report: makeReport({ ...vlekReport, reportData }),
    certificates,
    roots: amd.roots,
  });

  test('counts when its report data is the transcript and EC2 says that the instance has it', () => {
    expect(verifySnpFor(context, sent(transcript), true).reasons).toEqual([]);
  });

  test('does not count over another transcript: borrowed from another VM, or replayed', () => {
    expect(verifySnpFor(context, sent(other), true).reasons).toEqual(['REPORT_DATA_MISMATCH']);
  });

  test('does not count when EC2 does not say that this very instance has it', () => {
    expect(verifySnpFor(context, sent(transcript), false).reasons).toEqual(['SNP_NOT_ASSERTED']);
  });

  test('does not count from another Region', () => {
    expect(verifySnpFor({ ...context, region: 'us-east-2' }, sent(transcript), true).reasons).toEqual([
      'SNP_REGION_MISMATCH',
    ]);
  });

  test('never attests the operating system', () => {
    expect(verifySnpFor(context, sent(transcript), true).claims?.attestsOperatingSystem).toBe(false);
  });
});

describe('a Nitro document for a VM', () => {
  const nitro = makeNitro();
  const sent = (userData: Uint8Array, instanceId = context.instanceId) => ({
    document: makeDocument(nitro, { instanceId, fields: { user_data: plain(userData) } }),
    roots: nitro.roots,
  });

  test('counts when its module is the instance’s and its user data the transcript', () => {
    expect(verifyNitroFor(context, sent(transcript)).reasons).toEqual([]);
  });

  test('does not count over another transcript', () => {
    expect(verifyNitroFor(context, sent(other)).reasons).toEqual(['USER_DATA_MISMATCH']);
    expect(verifyNitroFor(context, sent(transcript.subarray(0, 32))).reasons).toEqual(['USER_DATA_MISMATCH']);
  });

  test('does not count when it was borrowed from another VM', () => {
    expect(verifyNitroFor(context, sent(transcript, 'i-0fedcba9876543210')).reasons).toEqual([
      'NITRO_INSTANCE_MISMATCH',
    ]);
  });

  test('does not count of an enclave, which says nothing of what its parent booted', () => {
    const document = makeDocument(nitro, { kind: 'enclave', fields: { user_data: plain(transcript) } });
    expect(verifyNitroFor(context, { document, roots: nitro.roots }).reasons).toEqual(['NITRO_KIND']);
  });

  test('does not count from another Region', () => {
    expect(verifyNitroFor({ ...context, region: 'us-east-1' }, sent(transcript)).reasons).toEqual([
      'NITRO_REGION_MISMATCH',
    ]);
  });

  test('cannot be bound to anything but a whole transcript', () => {
    expect(() => verifyNitroFor({ ...context, transcript: Buffer.alloc(0) }, sent(transcript))).toThrow(
      RangeError,
    );
  });
});

describe('a TPM quote for a VM', () => {
  const nitro = makeNitro();
  // The document's own PCRs 4 and 12, as a quote of the same moment has them.
  const said = new Map([4, 12].map((index) => [index, usualPcrs('nitrotpm').get(index) ?? Buffer.alloc(0)]));
  const sent = (over: Buffer, keys = akKeys, values = said, bank: 'sha256' | 'sha384' = 'sha384') => {
    const attest = makeAttest({
      nonce: createHash('sha256').update(over).digest(),
      bank: bank === 'sha384' ? 0x000c : 0x000b,
      pcrs: values,
    });
    return {
      attest,
      signature: makeSignature(attest, keys.privateKey),
      ak: makePublicArea(keys.publicKey),
      pcrs: pcrJson(values, bank),
    };
  };
  const enrolled: KeyProof = { kind: 'credential', enrolledKey: spki(akKeys.publicKey) };
  const documentWith = (
    publicKey: Uint8Array | null,
    options: { instanceId?: string; kind?: 'enclave' } = {},
  ): KeyProof => {
    const document = makeDocument(nitro, {
      ...options,
      fields: { user_data: plain(transcript), public_key: publicKey && plain(publicKey) },
    });
    return { kind: 'nitrotpm', verdict: verifyNitroFor(context, { document, roots: nitro.roots }) };
  };
  const point = () => {
    const { x = '', y = '' } = akKeys.publicKey.export({ format: 'jwk' });
    return Buffer.concat([Buffer.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')]);
  };

  test('counts when its nonce is the transcript’s and its key was enrolled by credential activation', () => {
    expect(verifyTpmFor(context, sent(transcript), [enrolled]).reasons).toEqual([]);
  });

  test('counts when a NitroTPM document of the same VM and transcript carries its key', () => {
    expect(verifyTpmFor(context, sent(transcript), [documentWith(spki(akKeys.publicKey))]).reasons).toEqual(
      [],
    );
    expect(verifyTpmFor(context, sent(transcript), [documentWith(point())]).reasons).toEqual([]);
  });

  test('does not count on a document’s key, which the guest chose, beyond what the document says itself', () => {
    const proof = documentWith(spki(akKeys.publicKey));
    const changed = new Map([...said, [4, Buffer.alloc(48, 0xcc)]]);
    const short = new Map([[4, Buffer.alloc(32, 0xcc)]]);
    for (const quote of [sent(transcript, akKeys, changed), sent(transcript, akKeys, short, 'sha256')]) {
      expect(verifyTpmFor(context, quote, [proof]).reasons).toEqual(['TPM_KEY_NOT_BOUND']);
      // A key that was activated is the TPM's own, whatever the document says.
      expect(verifyTpmFor(context, quote, [proof, enrolled]).reasons).toEqual([]);
    }
  });

  test('does not count over another transcript', () => {
    expect(verifyTpmFor(context, sent(other), [enrolled]).reasons).toEqual(['NONCE_MISMATCH']);
  });

  test('does not count from a second TPM, however genuine', () => {
    const second = keyPair('P-256');
    expect(verifyTpmFor(context, sent(transcript, second), [enrolled]).reasons).toEqual([
      'TPM_KEY_NOT_BOUND',
    ]);
    const proof = documentWith(spki(akKeys.publicKey));
    expect(verifyTpmFor(context, sent(transcript, second), [proof]).reasons).toEqual(['TPM_KEY_NOT_BOUND']);
  });

  test('counts when one of several proofs binds its key', () => {
    expect(verifyTpmFor(context, sent(transcript), [documentWith(null), enrolled]).reasons).toEqual([]);
  });

  test.each<[string, KeyProof[]]>([
    ['nothing', []],
    ['a document without a key', [documentWith(null)]],
    ['a document with another key', [documentWith(Buffer.alloc(65, 4))]],
    [
      'a document of another VM',
      [documentWith(spki(akKeys.publicKey), { instanceId: 'i-0fedcba9876543210' })],
    ],
    [
      'a document of an enclave, whose code its parent chose',
      [documentWith(spki(akKeys.publicKey), { kind: 'enclave' })],
    ],
  ])('does not count when its key is bound by %s', (_, proofs) => {
    expect(verifyTpmFor(context, sent(transcript), proofs).reasons).toEqual(['TPM_KEY_NOT_BOUND']);
  });
});

describe('the age of evidence', () => {
  const later = (seconds: number) => new Date(timestamp.getTime() + 1000 * seconds);

  test('keeps it fresh up to its limit, and stale beyond it or when time ran backwards', () => {
    expect([0, 60, 61, -1].map((seconds) => isEvidenceFresh(timestamp, later(seconds), 60))).toEqual([
      true,
      true,
      false,
      false,
    ]);
  });
});
