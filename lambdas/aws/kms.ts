import {
  DecryptCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  GetPublicKeyCommand,
  InvalidCiphertextException,
  type KMSClient,
  ReEncryptCommand,
} from '@aws-sdk/client-kms';

/** Two AES-256 keys, as aes-xts-plain64 takes. */
const DISK_KEY_BYTES = 64;

/** KMS answered without the ciphertext that was asked for. */
export class KmsShapeError extends Error {
  override readonly name = 'KmsShapeError';
}

/**
 * KMS refused to unwrap: the ciphertext is not what was wrapped under this encryption context. Not retryable:
 * the row of the table is wrong, or was made wrong.
 */
export class UnwrapRefusedError extends Error {
  override readonly name = 'UnwrapRefusedError';
}

/**
 * A new 64-byte data key, wrapped under the CMK and bound to
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
      NumberOfBytes: DISK_KEY_BYTES,
      EncryptionContext: encryptionContext,
    }),
  );
  if (!answer.CiphertextBlob)
    throw new KmsShapeError('GenerateDataKeyWithoutPlaintext gave no CiphertextBlob');
  return Buffer.from(answer.CiphertextBlob).toString('base64');
}

/**
 * Unwraps a disk key in the function's own memory. KMS refuses under any other encryption context than the
 * one that the key was wrapped with.
 *
 * @returns the 64 bytes; the caller overwrites them when it has sealed them
 * @throws UnwrapRefusedError
 */
export async function unwrapKey(
  client: KMSClient,
  keyId: string,
  wrappedKey: string,
  encryptionContext: Record<string, string>,
): Promise<Uint8Array> {
  const decrypt = new DecryptCommand({
    KeyId: keyId,
    CiphertextBlob: Buffer.from(wrappedKey, 'base64'),
    EncryptionContext: encryptionContext,
  });
  const answer = await client.send(decrypt).catch(refusedAsUnwrap);
  if (answer.Plaintext?.length !== DISK_KEY_BYTES) {
    answer.Plaintext?.fill(0);
    throw new KmsShapeError('Decrypt gave no disk key');
  }
  return answer.Plaintext;
}

/**
 * Wraps a key under another encryption context, inside of KMS: the plaintext never leaves it.
 *
 * @returns the ciphertext, base64
 * @throws UnwrapRefusedError
 */
export async function rewrapKey(
  client: KMSClient,
  keyId: string,
  wrappedKey: string,
  from: Record<string, string>,
  to: Record<string, string>,
): Promise<string> {
  const reEncrypt = new ReEncryptCommand({
    SourceKeyId: keyId,
    SourceEncryptionContext: from,
    DestinationKeyId: keyId,
    DestinationEncryptionContext: to,
    CiphertextBlob: Buffer.from(wrappedKey, 'base64'),
  });
  const answer = await client.send(reEncrypt).catch(refusedAsUnwrap);
  if (!answer.CiphertextBlob) throw new KmsShapeError('ReEncrypt gave no CiphertextBlob');
  return Buffer.from(answer.CiphertextBlob).toString('base64');
}

/**
 * Unwraps a disk key for a NitroTPM alone: KMS seals it to the RSA key of the attestation document, and the
 * plaintext never leaves KMS. KMS looks at the document's signature and PCRs, not at its user data: the caller has
 * verified that.
 *
 * @returns CMS EnvelopedData (`CiphertextForRecipient`)
 * @throws UnwrapRefusedError
 */
export async function unwrapKeyForRecipient(
  client: KMSClient,
  keyId: string,
  wrappedKey: string,
  encryptionContext: Record<string, string>,
  attestationDocument: Uint8Array,
): Promise<Uint8Array> {
  const decrypt = new DecryptCommand({
    KeyId: keyId,
    CiphertextBlob: Buffer.from(wrappedKey, 'base64'),
    EncryptionContext: encryptionContext,
    Recipient: {
      KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      AttestationDocument: attestationDocument,
    },
  });
  const answer = await client.send(decrypt).catch(refusedAsUnwrap);
  // An endpoint that does not know Recipient answers with the plaintext: nobody asked for that.
  answer.Plaintext?.fill(0);
  if (!answer.CiphertextForRecipient || answer.Plaintext)
    throw new KmsShapeError('Decrypt gave no CiphertextForRecipient');
  return answer.CiphertextForRecipient;
}

function refusedAsUnwrap(error: unknown): never {
  if (error instanceof InvalidCiphertextException)
    throw new UnwrapRefusedError('KMS does not unwrap the key under this context', { cause: error });
  throw error;
}

/** The public half of an asymmetric key, SPKI DER. */
export async function publicKeyOf(client: KMSClient, keyId: string): Promise<Buffer> {
  const { PublicKey } = await client.send(new GetPublicKeyCommand({ KeyId: keyId }));
  if (!PublicKey) throw new KmsShapeError('GetPublicKey gave no PublicKey');
  return Buffer.from(PublicKey);
}
