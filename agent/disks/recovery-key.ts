import { constants, createPublicKey, publicEncrypt } from 'node:crypto';
import { SecureMemory } from '../secure-memory.ts';

/**
 * Sixteen letters that lie in the same place on every keyboard layout, as systemd's recovery keys have them: one must
 * be able to type it at an emergency prompt (https://www.freedesktop.org/wiki/ systemd-cryptenroll, "modhex").
 */
const MODHEX = Buffer.from('cbdefghijklnrtuv');
const RANDOM_BYTES = 32;
const GROUPS = 8;
const GROUP_BYTES = RANDOM_BYTES / GROUPS;
const DASH = 0x2d;
/** Eight groups of eight letters, and the dashes between. */
export const RECOVERY_KEY_BYTES = RANDOM_BYTES * 2 + GROUPS - 1;

/** A new recovery key: 256 random bits as text, which never is a string. */
export function createRecoveryKey(): SecureMemory {
  using random = new SecureMemory(RANDOM_BYTES);
  random.randomize();
  const key = new SecureMemory(RECOVERY_KEY_BYTES);
  random.use((bits) =>
    key.use((text) => {
      let at = 0;
      for (let i = 0; i < RANDOM_BYTES; i++) {
        if (i > 0 && i % GROUP_BYTES === 0) text[at++] = DASH;
        const byte = bits[i] ?? 0;
        text[at++] = MODHEX[byte >> 4] ?? 0;
        text[at++] = MODHEX[byte & 15] ?? 0;
      }
    }),
  );
  return key;
}

/**
 * Seals a recovery key for its escrow: RSAES-OAEP with SHA-256, which is what KMS opens with RSAES_OAEP_SHA_256. No
 * function of the pipeline may.
 *
 * @param publicKey SPKI DER
 */
export function sealRecoveryKey(key: SecureMemory, publicKey: Uint8Array): Buffer {
  const recipient = createPublicKey({ key: Buffer.from(publicKey), format: 'der', type: 'spki' });
  return key.use((bytes) =>
    publicEncrypt({ key: recipient, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }, bytes),
  );
}
