import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createIdentityIssuer } from '../../../bin/local/identity-issuer.ts';
import { awsIdentityIssuers } from '../../../lib/domain/evidence/identity/aws-issuers.ts';
import { parseIdentity } from '../../../lib/domain/evidence/identity/bytes.ts';
import { verifyIdentityDocument } from '../../../lib/domain/evidence/identity/index.ts';
import { verifyIdentitySignature } from '../../../lib/domain/evidence/identity/verify.ts';
import { issue, keyPair, pem } from './forge/pki.ts';
import { effort } from './mutations.ts';
import { recorded, vector } from './vectors.ts';

const region = 'eu-central-1';
const issuer = await createIdentityIssuer(region);
const issuers = new Map([[region, [issuer.certificatePem]]]);
const document = {
  accountId: '111122223333',
  architecture: 'x86_64',
  availabilityZone: 'eu-central-1a',
  billingProducts: null,
  devpayProductCodes: null,
  imageId: 'ami-0123456789abcdef0',
  instanceId: 'i-0123456789abcdef0',
  instanceType: 'm6a.large',
  kernelId: null,
  marketplaceProductCodes: null,
  pendingTime: '2026-11-01T08:00:00Z',
  privateIp: '10.0.0.7',
  ramdiskId: null,
  region,
  version: '2017-09-30',
};
const genuine = await issuer.issue(document);
const reasonOf = (text: string, options: Partial<Parameters<typeof verifyIdentityDocument>[1]> = {}) => {
  const verdict = verifyIdentityDocument(text, { issuers, ...options });
  return verdict.ok ? 'accepted' : verdict.reason;
};
const relined = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
const der = Buffer.from(genuine, 'base64');

describe('an instance identity document', () => {
  test('is accepted when the pinned certificate of its own Region signed it', () => {
    const verdict = verifyIdentityDocument(genuine, { issuers, region, instanceId: document.instanceId });
    expect(verdict).toMatchObject({ ok: true, document: { instanceId: document.instanceId, region } });
  });

  test('of the embedded cloud has the shape of EC2’s: indefinite lengths, 64 columns, no armour', () => {
    expect(genuine.split('\n').every((line) => /^[A-Za-z0-9+/=]{1,64}$/.test(line))).toBe(true);
    expect(der.subarray(0, 2).toString('hex')).toBe('3080');
    expect(der.includes(Buffer.from('a0802480', 'hex'))).toBe(true);
  });

  test.each([
    ['another Region is expected', { region: 'us-east-1' }, 'IDENTITY_REGION_MISMATCH'],
    ['another instance is expected', { instanceId: 'i-0fedcba9876543210' }, 'IDENTITY_INSTANCE_MISMATCH'],
    ['another account is expected', { accountId: '444455556666' }, 'IDENTITY_ACCOUNT_MISMATCH'],
    [
      'nobody is trusted for its Region',
      { issuers: awsIdentityIssuersWithout(region) },
      'IDENTITY_REGION_UNKNOWN',
    ],
    [
      'AWS’s certificate is pinned and another signed',
      { issuers: awsIdentityIssuers() },
      'IDENTITY_SIGNER_NOT_PINNED',
    ],
    ['the issuer is not valid yet', { at: new Date('2001-01-01') }, 'CERTIFICATE_NOT_YET_VALID'],
    ['the issuer is no longer valid', { at: new Date('2201-01-01') }, 'CERTIFICATE_EXPIRED'],
    [
      'a pinned issuer is no certificate',
      { issuers: new Map([[region, ['nonsense']]]) },
      'CERTIFICATE_MALFORMED',
    ],
  ])('is refused when %s', (_, options, reason) => {
    expect(reasonOf(genuine, options)).toBe(reason);
  });

  test('is refused when a second issuer of the same name signed it', async () => {
    const other = await createIdentityIssuer(region);
    expect(reasonOf(await other.issue(document))).toBe('IDENTITY_SIGNER_NOT_PINNED');
  });

  test('is refused when its content is exchanged for another VM’s', () => {
    const swapped = Buffer.from(
      der.toString('latin1').replace('0123456789abcdef0', '0123456789abcdef1'),
      'latin1',
    );
    expect(reasonOf(relined(swapped))).toBe('IDENTITY_DIGEST_MISMATCH');
  });

  test('is refused when its signed attributes are exchanged to fit another content', () => {
    const content = JSON.stringify(document, null, 2);
    const longer = content.replace('0123456789abcdef0"', '0123456789abcdef1"');
    const digestOf = (text: string) => createHash('sha256').update(text).digest().toString('latin1');
    const forged = der
      .toString('latin1')
      .replaceAll(content, longer)
      .replace(digestOf(content), digestOf(longer));
    expect(reasonOf(relined(Buffer.from(forged, 'latin1')))).toBe('IDENTITY_SIGNATURE_INVALID');
  });

  test('is refused when the signature endpoint’s bare RSA-1024 value is sent instead', () => {
    expect(reasonOf(relined(Buffer.alloc(128, 7)))).toBe('IDENTITY_NOT_RSA2048');
  });

  test('is refused when the pinned key of the signer is too weak, or of another kind', () => {
    const parsed = parseIdentity(genuine);
    const weak = issue('weak', keyPair('P-256'), undefined);
    const lookalike = { ...parsed, signerIssuer: weak.name, signerSerial: Buffer.of(7) };
    const issuersWithWeak = new Map([[region, [pem(weak.der)]]]);
    expect(() => verifyIdentitySignature(lookalike, issuersWithWeak)).toThrow('IDENTITY_NOT_RSA2048');
  });

  test('is refused when it names another digest than SHA-256', () => {
    const sha256 = Buffer.from('0609608648016503040201', 'hex');
    const sha1like = Buffer.from('0609608648016503040204', 'hex');
    const weaker = Buffer.from(der);
    weaker.set(sha1like, weaker.lastIndexOf(sha256));
    expect(reasonOf(relined(weaker))).toBe('IDENTITY_NOT_RSA2048');
  });

  test('is malformed when its algorithm is not the one that was signed', () => {
    const spelled = Buffer.from(der);
    // The last object identifier in it names the signature's algorithm, outside what is signed.
    spelled[spelled.lastIndexOf(Buffer.from('06092a864886f70d01010b', 'hex')) + 10] = 1;
    expect(reasonOf(relined(spelled))).toBe('IDENTITY_MALFORMED');
  });

  test.each([
    ['nothing', '', 'INPUT_EMPTY'],
    ['more than any document', 'A'.repeat(20_000), 'INPUT_TOO_LARGE'],
    ['PEM armour', `-----BEGIN PKCS7-----\n${genuine}`, 'BASE64_INVALID'],
    ['spaces', genuine.replace('\n', ' \n'), 'BASE64_INVALID'],
    ['wrong padding', `${genuine.replaceAll('=', '')}A===`, 'BASE64_INVALID'],
    ['text that is no ASN.1', relined(Buffer.from('hello, world')), 'ASN1_MALFORMED'],
    ['one more byte', relined(Buffer.concat([der, Buffer.of(0)])), 'ASN1_MALFORMED'],
    [
      'another CMS type',
      relined(replaced(der, '2a864886f70d010702', '2a864886f70d010703')),
      'IDENTITY_MALFORMED',
    ],
    ['a tag of another class', relined(replaced(der, '3080', 'b080')), 'ASN1_UNEXPECTED'],
    ['an end of contents that hides a byte', relined(hiddenByte(der)), 'ASN1_NOT_CANONICAL'],
    ['a length with a leading zero', relined(longLength(der)), 'ASN1_LENGTH_NOT_MINIMAL'],
    ['deep nesting', relined(Buffer.from('3080'.repeat(200), 'hex')), 'ASN1_TOO_COMPLEX'],
  ])('is malformed when it is %s', (_, text, reason) => {
    expect(reasonOf(text)).toBe(reason);
  });

  test.each([
    ['is not JSON', 'hello'],
    ['lacks the instance', JSON.stringify({ ...document, instanceId: undefined })],
    ['names an impossible account', JSON.stringify({ ...document, accountId: '12' })],
  ])('is malformed when its signed content %s', async (_, content) => {
    // The issuer writes objects only; a string with toJSON gives any content.
    const text = await issuer.issue(content === 'hello' ? { toJSON: () => 'hello' } : JSON.parse(content));
    expect(reasonOf(text)).toBe('IDENTITY_DOCUMENT_MALFORMED');
  });

  test('is never accepted after any single byte of it has changed', () => {
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (index, change) => {
        const changed = Buffer.from(der);
        changed[index] = (changed[index] ?? 0) ^ change;
        expect(reasonOf(relined(changed))).not.toBe('accepted');
      }),
      { numRuns: 500 * effort },
    );
  });

  test('is never accepted when cut short or when a character is exchanged', () => {
    for (let length = 0; length < der.length; length += 7) {
      expect(reasonOf(relined(der.subarray(0, length)))).not.toBe('accepted');
    }
    fc.assert(
      fc.property(fc.nat(genuine.length - 1), fc.integer({ min: 0, max: 127 }), (index, code) => {
        const character = String.fromCharCode(code);
        fc.pre(genuine[index] !== character);
        const changed = genuine.slice(0, index) + character + genuine.slice(index + 1);
        expect(reasonOf(changed)).not.toBe('accepted');
      }),
      { numRuns: 500 * effort },
    );
  });
});

describe('the issuers of AWS', () => {
  test('are pinned for every Region of the package', () => {
    expect(awsIdentityIssuers().size).toBe(36);
  });
});

describe('recorded identity documents', () => {
  const verdictOf = (name: string) =>
    verifyIdentityDocument(vector(`ec2-iid/${name}`).toString('latin1'), { issuers: awsIdentityIssuers() });

  recorded('the rsa2048 form of 2018 is accepted', () => {
    expect(verdictOf('us-west-2-2018.rsa2048.b64')).toMatchObject({
      ok: true,
      document: { instanceId: 'i-0a30e04d85e6f8793', accountId: '692406183521', region: 'us-west-2' },
    });
  });

  recorded('the DSA and RSA-1024 forms are refused', () => {
    for (const name of [
      'us-west-2-2018.pkcs7-dsa.b64',
      'us-west-2-2018.signature-rsa1024.b64',
      'us-west-2-2019.signature-rsa1024.b64',
      'us-west-2-2019.signature-bad.b64',
    ]) {
      expect(verdictOf(name)).toMatchObject({ ok: false, reason: 'IDENTITY_NOT_RSA2048' });
    }
  });

  recorded('the certificates of the package are the recorded ones', () => {
    for (const [name, [pem]] of awsIdentityIssuers()) {
      expect(vector(`ec2-iid/certs/rsa2048/${name}.pem`).toString('latin1').trim()).toBe(pem?.trim());
    }
  });
});

function awsIdentityIssuersWithout(name: string) {
  return new Map([...awsIdentityIssuers()].filter(([key]) => key !== name));
}

function replaced(bytes: Buffer, from: string, to: string): Buffer {
  const copy = Buffer.from(bytes);
  copy.set(Buffer.from(to, 'hex'), copy.indexOf(Buffer.from(from, 'hex')));
  return copy;
}

function hiddenByte(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy[copy.length - 1] = 1;
  return copy;
}

/** INTEGER 1 at the start of SignedData with its length spelled in two octets. */
function longLength(bytes: Buffer): Buffer {
  const at = bytes.indexOf(Buffer.from('020101', 'hex'));
  return Buffer.concat([bytes.subarray(0, at), Buffer.from('02810101', 'hex'), bytes.subarray(at + 3)]);
}
