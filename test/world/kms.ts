import { randomBytes } from 'node:crypto';
import {
  DecryptCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  InvalidCiphertextException,
  KMSClient,
  ReEncryptCommand,
} from '@aws-sdk/client-kms';
import { parseNitroDocument } from '../../lib/domain/evidence/nitro/bytes.ts';
import { canonicalJson } from '../../lib/domain/vm.ts';
import type { Effects } from './effects.ts';
import { sealForRecipient } from './kms-envelope.ts';

/** KMS at the edge of the client: data keys that unwrap under the context that they were wrapped with. */
export function fakeKms(effects: Effects) {
  const wrapped = new Map<string, { readonly key: Buffer; readonly context: string }>();
  const kmsContexts: Record<string, string>[] = [];
  const kmsCalls: string[] = [];
  const client = Object.create(KMSClient.prototype) as KMSClient;

  const send = async (command: unknown): Promise<unknown> => {
    if (command instanceof GenerateDataKeyWithoutPlaintextCommand) {
      return effects.write('generate data key', () => {
        kmsCalls.push('GenerateDataKeyWithoutPlaintext');
        const context = command.input.EncryptionContext ?? {};
        kmsContexts.push(context);
        const blob = Buffer.from(`wrapped ${kmsContexts.length}`);
        wrapped.set(blob.toString('base64'), {
          key: randomBytes(command.input.NumberOfBytes ?? 0),
          context: canonicalJson(context),
        });
        return { CiphertextBlob: blob };
      });
    }
    if (command instanceof DecryptCommand) {
      return effects.write('decrypt', () => {
        kmsCalls.push('Decrypt');
        const { CiphertextBlob, EncryptionContext } = command.input;
        const found = wrapped.get(Buffer.from(CiphertextBlob ?? []).toString('base64'));
        if (!found || found.context !== canonicalJson(EncryptionContext ?? {}))
          throw new InvalidCiphertextException({ message: 'null', $metadata: {} });
        const { Recipient } = command.input;
        if (Recipient) {
          const { publicKey } = parseNitroDocument(Recipient.AttestationDocument ?? Buffer.of());
          return { CiphertextForRecipient: sealForRecipient(publicKey ?? Buffer.of(), found.key) };
        }
        return { Plaintext: new Uint8Array(found.key) };
      });
    }
    if (command instanceof ReEncryptCommand) {
      return effects.write('re-encrypt', () => {
        kmsCalls.push('ReEncrypt');
        const { CiphertextBlob, SourceEncryptionContext, DestinationEncryptionContext = {} } = command.input;
        const found = wrapped.get(Buffer.from(CiphertextBlob ?? []).toString('base64'));
        if (!found || found.context !== canonicalJson(SourceEncryptionContext ?? {}))
          throw new InvalidCiphertextException({ message: 'null', $metadata: {} });
        kmsContexts.push(DestinationEncryptionContext);
        const blob = Buffer.from(`wrapped ${kmsContexts.length}`);
        const context = canonicalJson(DestinationEncryptionContext);
        wrapped.set(blob.toString('base64'), { key: found.key, context });
        return { CiphertextBlob: blob };
      });
    }
    throw new Error(`KMS here does not know ${(command as object).constructor.name}`);
  };
  client.send = send as typeof client.send;

  return {
    client,
    kmsContexts,
    kmsCalls,
    /** What KMS would give for a wrapped key under its own context; undefined when it never wrapped it. */
    plaintextOf: (wrappedKey: string): Buffer | undefined => wrapped.get(wrappedKey)?.key,
  };
}
