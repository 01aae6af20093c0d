import { GenerateDataKeyWithoutPlaintextCommand, type KMSClient } from '@aws-sdk/client-kms';

/** KMS answered without the ciphertext that was asked for. */
export class KmsShapeError extends Error {
  override readonly name = 'KmsShapeError';
}

/**
 * A new 64-byte data key (two AES-256 keys, as aes-xts-plain64 takes), wrapped under the CMK and bound to
 * its encryption context. The plaintext never leaves KMS.
 *
 * @returns the ciphertext, base64
 */
export async function generateWrappedKey(
  client: KMSClient,
  keyId: string,
  encryptionContext: Record<string, string>,
): Promise<string> {
  const answer = await client.send(
    new GenerateDataKeyWithoutPlaintextCommand({
      KeyId: keyId,
      NumberOfBytes: 64,
      EncryptionContext: encryptionContext,
    }),
  );
  if (!answer.CiphertextBlob)
    throw new KmsShapeError('GenerateDataKeyWithoutPlaintext gave no CiphertextBlob');
  return Buffer.from(answer.CiphertextBlob).toString('base64');
}
