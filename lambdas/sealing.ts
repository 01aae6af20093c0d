import type { webcrypto } from 'node:crypto';
import { Aes256Gcm, CipherSuite, DhkemP256HkdfSha256, HkdfSha256 } from '@hpke/core';

const suite = new CipherSuite({
  kem: new DhkemP256HkdfSha256(),
  kdf: new HkdfSha256(),
  aead: new Aes256Gcm(),
});

/** Reads a raw P-256 point; undefined when it is none, or not on the curve. */
export async function readRecipientKey(point: Uint8Array): Promise<webcrypto.CryptoKey | undefined> {
  try {
    return await suite.kem.importKey('raw', new Uint8Array(point).buffer, true);
  } catch {
    return undefined; // not on the curve: the caller refuses it by name
  }
}

/** HPKE base mode (RFC 9180 §5.1.1); `info` is T, so that what is sealed opens for this request alone. */
export async function seal(
  recipientPublicKey: webcrypto.CryptoKey,
  info: Uint8Array,
  plaintext: Uint8Array,
): Promise<{ readonly enc: Buffer; readonly ciphertext: Buffer }> {
  const sender = await suite.createSenderContext({ recipientPublicKey, info });
  const ciphertext = await sender.seal(plaintext);
  return { enc: Buffer.from(sender.enc), ciphertext: Buffer.from(ciphertext) };
}
