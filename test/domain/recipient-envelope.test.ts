import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  EnvelopeError,
  parseRecipientEnvelope,
  type RecipientEnvelope,
} from '../../lib/domain/recipient-envelope.ts';
import { element, oaep, oid, openEnded, sealForRecipient } from '../world/kms-envelope.ts';
import { effort } from './evidence/mutations.ts';
import { recorded, vector } from './evidence/vectors.ts';

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const publicKey = rsa.publicKey.export({ type: 'spki', format: 'der' });
const plaintext = randomBytes(64);
const seal = (parts?: Parameters<typeof sealForRecipient>[2]) =>
  sealForRecipient(publicKey, plaintext, parts);

const SHA1 = Buffer.from('06052b0e03021a', 'hex');
const RSA_PKCS1 = Buffer.from('06092a864886f70d010101', 'hex');
const AES_128_CBC = Buffer.from('0609608648016503040102', 'hex');
const AES_256_GCM = Buffer.from('060960864801650304012e', 'hex');
const ONE = element(0x02, Buffer.of(1));
const textOf = (envelope: RecipientEnvelope) =>
  Object.values(envelope)
    .map((bytes) => Buffer.from(bytes).toString('hex'))
    .join(' ');

describe('an envelope of KMS', () => {
  recorded('is read in both forms that were recorded', () => {
    const [inOctets, implicit] = ['explicit', 'implicit'].map((form) =>
      parseRecipientEnvelope(vector(`kms-cms/aws-sdk-c-${form}-octets.der`)),
    );
    expect([inOctets?.encryptedContent.length, implicit?.encryptedContent.length]).toEqual([48, 16]);
    expect(Buffer.from(inOctets?.iv ?? []).toString('hex')).toBe('688c6d5f7f31b0fecedf09f2e7c99ac9');
    expect(Buffer.from(implicit?.encryptedKey ?? []).toString('hex')).toMatch(/^4a1ca122.*5dc5f8$/);
  });

  test.each<[string, (encrypted: Buffer) => Buffer]>([
    ['in one piece', (bytes) => element(0x80, bytes)],
    ['as one string', (bytes) => openEnded(0xa0, element(0x04, bytes))],
    [
      'as several strings',
      (bytes) =>
        openEnded(0xa0, ...[0, 16, 48].map((at, i, all) => element(0x04, bytes.subarray(at, all[i + 1])))),
    ],
    ['with a definite length', (bytes) => element(0xa0, element(0x04, bytes))],
  ])('has the same content %s', (_, content) => {
    const contentKey = randomBytes(32);
    const iv = randomBytes(16);
    const made = { contentKey, iv, encryptedKey: randomBytes(256) };
    expect(parseRecipientEnvelope(seal({ ...made, content }))).toEqual(parseRecipientEnvelope(seal(made)));
  });

  test('may leave out the parameters of its hashes', () => {
    const bare = element(
      0x30,
      oid('rsaesOaep'),
      element(
        0x30,
        element(0xa0, element(0x30, oid('sha256'))),
        element(0xa1, element(0x30, oid('mgf1'), element(0x30, oid('sha256')))),
      ),
    );
    expect(parseRecipientEnvelope(seal({ keyAlgorithm: bare })).encryptedKey).toHaveLength(256);
  });
});

describe('refused is an envelope', () => {
  test.each<[string, Buffer]>([
    ['of no bytes', Buffer.of()],
    ['with bytes behind it', Buffer.concat([seal(), Buffer.of(0)])],
    ['that is cut short', seal().subarray(0, -2)],
    ['of another content type', openEnded(0x30, oid('data'), openEnded(0xa0, element(0x04, plaintext)))],
    ['of version 1', seal({ version: ONE })],
    ['for a recipient of version 1', seal({ recipientVersion: ONE })],
    ['for a recipient by issuer and serial', seal({ keyIdentifier: element(0x30, ONE) })],
    ['for two recipients', seal({ moreRecipients: element(0x30, ONE) })],
    ['with RSA of PKCS #1 v1.5', seal({ keyAlgorithm: element(0x30, RSA_PKCS1, element(0x05)) })],
    [
      'with OAEP of its defaults, SHA-1',
      seal({ keyAlgorithm: element(0x30, oid('rsaesOaep'), element(0x30)) }),
    ],
    ['with OAEP of SHA-1', seal({ keyAlgorithm: oaep(SHA1) })],
    ['with a mask of SHA-1', seal({ keyAlgorithm: oaep(oid('sha256'), SHA1) })],
    ['with a label', seal({ keyAlgorithm: oaep(undefined, undefined, element(0xa2, element(0x04))) })],
    ['with a key for another RSA size', seal({ encryptedKey: randomBytes(384) })],
    ['around another content type', seal({ contentType: oid('envelopedData') })],
    ['with AES-128', seal({ cipher: AES_128_CBC })],
    ['with AES-GCM', seal({ cipher: AES_256_GCM })],
    ['without content', seal({ content: () => Buffer.of() })],
    ['of empty content', seal({ content: () => openEnded(0xa0) })],
    ['of content that is not whole blocks', seal({ content: () => element(0x80, randomBytes(33)) })],
    [
      'of content in strings of strings',
      seal({ content: (b) => openEnded(0xa0, openEnded(0x24, element(0x04, b))) }),
    ],
    ['with unprotected attributes', seal({ attributes: element(0xa1, element(0x30)) })],
    ['that is larger than any', seal({ content: () => element(0x80, randomBytes(16_384)) })],
    [
      'with a NULL that is none',
      seal({ keyAlgorithm: Buffer.from(oaep().toString('hex').replace('0500', '0501'), 'hex') }),
    ],
  ])('%s', (_, bytes) => {
    expect(() => parseRecipientEnvelope(bytes)).toThrow(EnvelopeError);
  });

  test('that differs in any byte, or else it says something else', () => {
    const keyIdentifier = element(0x80, randomBytes(32));
    const genuine = seal({ keyIdentifier });
    const said = textOf(parseRecipientEnvelope(genuine));
    const unread = genuine.indexOf(keyIdentifier) + 2;
    fc.assert(
      fc.property(fc.nat(genuine.length - 1), fc.integer({ min: 1, max: 255 }), (index, change) => {
        fc.pre(index < unread || index >= unread + 32);
        const changed = Buffer.from(genuine);
        changed[index] = (changed[index] ?? 0) ^ change;
        try {
          return textOf(parseRecipientEnvelope(changed)) !== said;
        } catch (error) {
          return error instanceof EnvelopeError;
        }
      }),
      { numRuns: 1_000 * effort },
    );
  });

  test('that is noise, in bounded time', () => {
    const refuses = (bytes: Uint8Array) => expect(() => parseRecipientEnvelope(bytes)).toThrow(EnvelopeError);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 512 }), (noise) => void refuses(noise)),
      { numRuns: 500 * effort },
    );
    refuses(Buffer.alloc(12_288, Buffer.of(0x30, 0x80)));
    refuses(Buffer.alloc(64 * 1024 * 1024, 0x30));
  });
});
