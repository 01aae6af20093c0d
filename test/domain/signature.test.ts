import { ECDH, generateKeyPairSync, randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { parseAgentPublicKey, signAsAgent, verifyAgentSignature } from '../../lib/domain/signature.ts';

const pair = (namedCurve: string) => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
  return { privateKey, publicKey, spki: publicKey.export({ type: 'spki', format: 'der' }) };
};
const { privateKey, publicKey, spki } = pair('P-256');
const BYTES = Buffer.from('what is signed');

/** SPKI with the point of our key in another form. */
function withPoint(form: 'compressed' | 'hybrid'): Buffer {
  const point = ECDH.convertKey(spki.subarray(26), 'prime256v1', undefined, undefined, form) as Buffer;
  const algorithm = spki.subarray(2, 23);
  const bits = Buffer.concat([Buffer.of(3, point.length + 1, 0), point]);
  return Buffer.concat([Buffer.of(0x30, algorithm.length + bits.length), algorithm, bits]);
}

/**
 * P-256 with its parameters spelt out in place of the curve's name:
 * openssl ecparam -name prime256v1 -genkey -noout -param_enc explicit | openssl ec -pubout -outform DER
 */
const EXPLICIT_PARAMETERS = Buffer.from(
  'MIIBSzCCAQMGByqGSM49AgEwgfcCAQEwLAYHKoZIzj0BAQIhAP////8AAAABAAAAAAAAAAAAAAAA////////////////MFsEIP////8AAAABAAAAAAAAAAAAAAAA///////////////8BCBaxjXYqjqT57PrvVV2mIa8ZR0GsMxTsPY7zjw+J9JgSwMVAMSdNgiG5wSTamZ44ROdJreBn36QBEEEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9QIhAP////8AAAAA//////////+85vqtpxeehPO5ysL8YyVRAgEBA0IABIC/QLoC8Vu09bbVt0DAjyHm4hWTm+t/uXfBAYIHv8yzdzK5s9AKRl7NiFHCaHVMh3TesMg0100mAYXTmG4K1/Y=',
  'base64',
);

describe('an agent key', () => {
  test('is ECDSA P-256 with an uncompressed point', () => {
    const key = parseAgentPublicKey(spki);
    expect(key?.equals(publicKey)).toBe(true);
  });

  test.each<[string, Buffer]>([
    ['P-384', pair('P-384').spki],
    ['secp256k1', pair('secp256k1').spki],
    [
      'RSA',
      generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ type: 'spki', format: 'der' }),
    ],
    ['Ed25519', generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'der' })],
    ['a private key', privateKey.export({ type: 'pkcs8', format: 'der' })],
    ['PEM', Buffer.from(publicKey.export({ type: 'spki', format: 'pem' }))],
    ['a bare point', spki.subarray(26)],
    ['nothing', Buffer.alloc(0)],
    ['random bytes', randomBytes(91)],
  ])('is not %s', (_, der) => {
    expect(parseAgentPublicKey(der)).toBeUndefined();
  });

  test.each<[string, Buffer]>([
    ['a compressed point', withPoint('compressed')],
    ['a hybrid point', withPoint('hybrid')],
    ['the parameters of the curve spelt out', EXPLICIT_PARAMETERS],
    ['a byte behind it', Buffer.concat([spki, Buffer.of(0)])],
    ['a length in two bytes', Buffer.concat([Buffer.of(0x30, 0x81, 0x59), spki.subarray(2)])],
  ])('has one encoding: not %s', (_, der) => {
    expect(parseAgentPublicKey(der)).toBeUndefined();
  });

  test('is a point on the curve', () => {
    const off = Buffer.from(spki);
    off.writeUInt8((off.readUInt8(90) + 1) % 256, 90);
    expect(parseAgentPublicKey(off)).toBeUndefined();
  });
});

describe('an agent signature', () => {
  const signature = signAsAgent(privateKey, BYTES);

  test('is R and S, 64 bytes, and verifies', () => {
    expect(signature).toHaveLength(64);
    expect(verifyAgentSignature(publicKey, BYTES, signature)).toBe(true);
  });

  test('does not verify for other bytes or another key', () => {
    expect(verifyAgentSignature(publicKey, Buffer.from('something else'), signature)).toBe(false);
    expect(verifyAgentSignature(pair('P-256').publicKey, BYTES, signature)).toBe(false);
  });

  test.each([0, 1, 32, 63, 65, 128])('of %i bytes does not verify, and does not throw', (length) => {
    expect(verifyAgentSignature(publicKey, BYTES, Buffer.alloc(length, 1))).toBe(false);
  });
});
