import {
  constants,
  createDecipheriv,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  privateDecrypt,
} from 'node:crypto';
import { promisify } from 'node:util';
import { parseRecipientEnvelope } from '../../lib/domain/recipient-envelope.ts';
import { SecureMemory } from '../secure-memory.ts';
import { DiskError } from './error.ts';

/** The RSA key of one request, that KMS seals a disk key to. */
export interface Recipient {
  /** SPKI DER, for the `public_key` of a NitroTPM document. */
  readonly publicKey: Buffer;
  /** Opens `CiphertextForRecipient`. @throws DiskError KEY_ENVELOPE_REFUSED */
  open(envelope: Uint8Array): SecureMemory;
}

const CONTENT_KEY_BYTES = 32;

/** A fresh RSA-2048 key, which KMS takes; its private half never leaves node:crypto, and goes with the request. */
export async function createRecipient(): Promise<Recipient> {
  const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 });
  return {
    publicKey: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
    open: (envelope) => openEnvelope(privateKey, envelope),
  };
}

/**
 * Opens an envelope of KMS. It carries no MAC: that it is KMS's and for this request says the HPKE around it. Whatever
 * is wrong with it, the reason is the same one.
 */
function openEnvelope(privateKey: KeyObject, bytes: Uint8Array): SecureMemory {
  const clear: Buffer[] = [];
  try {
    const { encryptedKey, iv, encryptedContent } = parseRecipientEnvelope(bytes);
    const contentKey = privateDecrypt(
      { key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' },
      encryptedKey,
    );
    clear.push(contentKey);
    if (contentKey.length !== CONTENT_KEY_BYTES) {
      throw new RangeError(`a content key of ${contentKey.length} bytes`);
    }
    const decipher = createDecipheriv('aes-256-cbc', contentKey, iv);
    const first = decipher.update(encryptedContent);
    clear.push(first);
    const last = decipher.final(); // throws when the padding is none
    clear.push(last);
    const key = new SecureMemory(first.length + last.length);
    key.take(first);
    if (last.length > 0) key.take(last, first.length);
    return key;
  } catch (cause) {
    throw new DiskError('KEY_ENVELOPE_REFUSED', cause instanceof Error ? cause.message : String(cause), {
      cause,
    });
  } finally {
    for (const buffer of clear) buffer.fill(0);
  }
}
