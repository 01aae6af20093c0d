import { describe, expect, test } from '@jest/globals';
import { decodeAsn1, smallInteger, tag } from '../../../lib/domain/evidence/asn1.ts';
import {
  encodePem,
  parseCertificate,
  parseCertificates,
  parsePem,
} from '../../../lib/domain/evidence/certificate.ts';
import { createChainCache, verifyChain } from '../../../lib/domain/evidence/chain.ts';
import { EvidenceError } from '../../../lib/domain/evidence/reasons.ts';
import { amdAuthorityOf } from '../../../lib/domain/evidence/snp/collateral.ts';
import { der, type Faults, integer, issue, keyPair, oid, pem } from './forge/pki.ts';

const keys = keyPair('P-384');
const root = issue('root', keys, undefined);

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof EvidenceError) return error.code;
    throw error;
  }
  return 'none';
}

describe('ASN.1', () => {
  const code = (hex: string, encoding: 'der' | 'ber' = 'der') =>
    codeOf(() => decodeAsn1(Buffer.from(hex, 'hex'), encoding));

  test('is read when it is DER, and in BER with indefinite lengths', () => {
    expect(code('3003020105')).toBe('none');
    expect(code('30800201050000', 'ber')).toBe('none');
  });

  test.each([
    ['has an indefinite length', '30800201050000', 'ASN1_INDEFINITE_LENGTH'],
    ['has a length longer than it needs', '308103020105', 'ASN1_LENGTH_NOT_MINIMAL'],
    ['has a length with leading zeros', '30820003020105', 'ASN1_LENGTH_NOT_MINIMAL'],
    ['is followed by something', '300302010500', 'ASN1_MALFORMED'],
    ['is cut short', '30030201', 'ASN1_MALFORMED'],
    ['promises more than there is', '3005020105', 'ASN1_MALFORMED'],
    ['promises more than any evidence has', '30840fffffff', 'ASN1_TOO_COMPLEX'],
    ['is a lone byte', '30', 'ASN1_MALFORMED'],
    ['has an identifier longer than any', `06820100${'01'.repeat(256)}`, 'ASN1_TOO_COMPLEX'],
    ['nests without end', '3002'.repeat(60), 'ASN1_TOO_COMPLEX'],
  ])('is refused when it %s', (_, hex, expected) => {
    expect(code(hex)).toBe(expected);
  });

  test('is refused when it has more identifiers than any evidence', () => {
    const many = der(0x30, ...Array.from({ length: 300 }, () => der(6, Buffer.alloc(60, 1))));
    expect(codeOf(() => decodeAsn1(many, 'der'))).toBe('ASN1_TOO_COMPLEX');
  });

  test('is refused when it has more elements than any evidence', () => {
    const many = der(0x30, ...Array.from({ length: 2_000 }, () => integer(1)));
    expect(codeOf(() => decodeAsn1(many, 'der'))).toBe('ASN1_TOO_COMPLEX');
    let deep = integer(1);
    for (let level = 0; level < 40; level++) deep = der(0x30, deep);
    expect(codeOf(() => decodeAsn1(deep, 'der'))).toBe('ASN1_TOO_COMPLEX');
  });

  test('numbers are small, minimal and not negative', () => {
    const read = (bytes: Buffer) => smallInteger(decodeAsn1(bytes, 'der'));
    expect([read(integer(0)), read(integer(0xdb)), read(integer(70_000))]).toEqual([0, 0xdb, 70_000]);
    for (const content of ['', 'ff', '0005', '00ffffffffff']) {
      const bytes = der(tag.integer, Buffer.from(content, 'hex'));
      expect(codeOf(() => read(bytes))).not.toBe('none');
    }
    expect(codeOf(() => read(der(tag.octetString, Buffer.of(1))))).toBe('ASN1_UNEXPECTED');
  });
});

describe('a certificate', () => {
  const bool = (value: number) => der(1, Uint8Array.of(value));
  const extension = (value: Buffer) => [{ oid: '2.5.29.35', value }];
  const constraints = (value: Buffer) => ({ oid: '2.5.29.19', critical: true, value });

  test('is read with its names, dates, usages and fingerprint', () => {
    const parsed = parseCertificate(
      issue('leaf', keys, root, { ca: false, notAfter: '20300102030405Z' }).der,
    );
    expect(parsed).toMatchObject({
      commonName: 'leaf',
      basicConstraints: { ca: false },
      keyUsage: { digitalSignature: true, keyCertSign: false },
      notAfter: new Date('2030-01-02T03:04:05Z'),
    });
    expect(parsed.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  test.each<[string, Faults]>([
    ['it is of version 1', { version: 0 }],
    ['it names one algorithm inside and another outside', { outerSignature: 'ecdsaSha256' }],
    ['its signature has unused bits', { unusedBits: 1 }],
    ['an extension stands twice', { extensions: [...extension(integer(1)), ...extension(integer(1))] }],
    ['basic constraints stand twice', { extensions: [constraints(der(0x30, bool(0xff)))] }],
  ])('is malformed when %s', (_, faults) => {
    expect(codeOf(() => parseCertificate(issue('leaf', keys, root, faults).der))).toBe(
      'CERTIFICATE_MALFORMED',
    );
  });

  test('is malformed when OpenSSL does not read it, or it is none at all', () => {
    const keyless = { ...keys, publicKey: { export: () => der(0x30, oid('1.2.3')) } as never };
    expect(codeOf(() => parseCertificate(issue('leaf', keyless, root).der))).toBe('CERTIFICATE_MALFORMED');
    expect(codeOf(() => parseCertificate(der(0x30, der(0x30))))).toBe('ASN1_UNEXPECTED');
    expect(codeOf(() => parseCertificate(Buffer.alloc(10_000, 0x30)))).toBe('INPUT_TOO_LARGE');
  });

  test('is read from PEM that holds nothing else', () => {
    const text = pem(root.der, root.der);
    expect(parsePem(text)).toHaveLength(2);
    expect(parseCertificates(Buffer.from(text.replaceAll('\n', '\r\n')))).toHaveLength(2);
    expect(encodePem(parsePem(text))).toBe(text);
    expect(codeOf(() => parsePem(`x${text}`))).toBe('CERTIFICATE_MALFORMED');
    expect(codeOf(() => parsePem(`${text}x`))).toBe('CERTIFICATE_MALFORMED');
    expect(codeOf(() => parsePem(text.replace(/[A-Z]\n/, '\n')))).toBe('BASE64_INVALID');
  });
});

describe('a chain', () => {
  const rules = {
    at: new Date('2026-06-01'),
    roots: [parseCertificate(root.der).fingerprint],
    algorithms: ['300a06082a8648ce3d040303'],
    leafKeyUsage: 'digitalSignature' as const,
  };
  const leaf = parseCertificate(issue('leaf', keyPair('P-384'), root, { ca: false }).der);

  test('is verified once where its links are cached, and only then', () => {
    let computed = 0;
    const counted = {
      ...leaf,
      isSignedBy: (key: Parameters<typeof leaf.isSignedBy>[0]) => ++computed > 0 && leaf.isSignedBy(key),
    };
    const cache = createChainCache();
    const chain = [counted, parseCertificate(root.der)];
    verifyChain(chain, { ...rules, cache });
    verifyChain(chain, { ...rules, cache });
    expect(computed).toBe(1);
    verifyChain(chain, rules);
    expect(computed).toBe(2);
    expect(codeOf(() => verifyChain(chain, { ...rules, cache, at: new Date('2060-01-01') }))).toBe(
      'CERTIFICATE_EXPIRED',
    );
    expect(codeOf(() => verifyChain(chain, { ...rules, cache, roots: [] }))).toBe('ROOT_NOT_PINNED');
  });

  test('of one certificate or none is incomplete', () => {
    expect(codeOf(() => verifyChain([parseCertificate(root.der)], rules))).toBe('CHAIN_INCOMPLETE');
    expect(codeOf(() => verifyChain([], rules))).toBe('CHAIN_INCOMPLETE');
  });

  test('cache stays small however many certificates pass by', () => {
    const cache = createChainCache(2);
    const certificates = ['a', 'b', 'c'].map((name) => issue(name, keys, root).der);
    const [first = Buffer.alloc(0), ...others] = certificates;
    const read = cache.read(first);
    expect(cache.read(first)).toBe(read);
    for (const other of others) cache.read(other);
    expect(cache.read(first)).not.toBe(read);
    for (const link of ['1', '2', '3']) cache.addLink(link);
    expect(['1', '2', '3'].map(cache.hasLink)).toEqual([false, true, true]);
  });
});

describe('a certificate that no authority of the vendors would issue', () => {
  test('with an empty subject is read, and has no name', () => {
    const { der: bytes } = issue('none', keys, root, { subjectName: Buffer.from('3000', 'hex') });
    expect(parseCertificate(bytes)).toMatchObject({ subjectText: '', commonName: undefined });
    expect(amdAuthorityOf(bytes)).toBeUndefined();
  });

  test('valid until a time that is none is refused', () => {
    const { der: bytes } = issue('odd', keys, root, { notAfter: '20491301000000Z' });
    expect(codeOf(() => parseCertificate(bytes))).toBe('CERTIFICATE_MALFORMED');
  });
});
