import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { SecureMemory } from '../secure-memory.ts';
import { DiskError } from './error.ts';

const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** The key that a BitLocker secret is sealed under: of this disk and generation, and for this alone. */
function escrowKey(diskKey: SecureMemory, disk: string, generation: number): SecureMemory {
  // The UUID has a fixed length, so that no two pairs give the same info.
  const info = `casemate/1 escrow${disk}${generation}`;
  return SecureMemory.from(diskKey.use((key) => new Uint8Array(hkdfSync('sha256', key, '', info, 32))));
}

/** Seals a BitLocker secret under the disk's key: nonce, ciphertext, tag. No function of the pipeline sees it. */
export function sealSecret(
  secret: SecureMemory,
  diskKey: SecureMemory,
  disk: string,
  generation: number,
): Buffer {
  using key = escrowKey(diskKey, disk, generation);
  const nonce = randomBytes(NONCE_BYTES);
  return key.use((k) => {
    const cipher = createCipheriv('aes-256-gcm', k, nonce);
    return secret.use((s) => Buffer.concat([nonce, cipher.update(s), cipher.final(), cipher.getAuthTag()]));
  });
}

/** @throws DiskError when it was sealed under another key, or changed */
export function openSecret(
  sealed: Buffer,
  diskKey: SecureMemory,
  disk: string,
  generation: number,
): SecureMemory {
  using key = escrowKey(diskKey, disk, generation);
  const body = sealed.subarray(NONCE_BYTES, -TAG_BYTES);
  try {
    return key.use((k) => {
      const decipher = createDecipheriv('aes-256-gcm', k, sealed.subarray(0, NONCE_BYTES));
      decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
      const secret = SecureMemory.from(decipher.update(body));
      try {
        decipher.final(); // throws when the tag is another's: what came before it is wiped, not returned
      } catch (error) {
        secret.release();
        throw error;
      }
      return secret;
    });
  } catch (cause) {
    throw new DiskError('KEY_DOES_NOT_OPEN', 'the escrowed BitLocker secret is not sealed under this key', {
      cause,
    });
  }
}
