import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CreateKeyCommand, KMSClient } from '@aws-sdk/client-kms';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { CREDENTIALS, type Emulators, REGION, startEmulators } from '../../bin/local/emulators.ts';
import { ensurePython } from '../../bin/local/python.ts';
import {
  generateWrappedKey,
  publicKeyOf,
  rewrapKey,
  UnwrapRefusedError,
  unwrapKey,
} from '../../lambdas/aws/kms.ts';
import { encryptionContext } from '../../lib/domain/disk-key.ts';
import { DISK, VM_ID } from '../world/items.ts';

const folder = mkdtempSync(join(tmpdir(), 'casemate-kms-'));
let emulators: Emulators;
beforeAll(async () => {
  emulators = await startEmulators(await ensurePython(join(folder, 'python.log')), folder);
}, 300_000);
afterAll(async () => {
  await emulators?.stop();
  rmSync(folder, { recursive: true, force: true });
}, 60_000);

/** ministack is what the embedded cloud runs on; moto has a ReEncrypt of its own and refuses what was tampered with. */
describe.each(['ministack', 'moto'] as const)('the KMS of %s', (name) => {
  let kms: KMSClient;
  let keyId: string;
  const own = encryptionContext(DISK, 1, VM_ID);
  const others = encryptionContext(DISK, 1, 'i-0000000b');
  beforeAll(async () => {
    const endpoint = name === 'moto' ? emulators.ec2 : emulators.aws;
    kms = new KMSClient({ endpoint, region: REGION, credentials: CREDENTIALS, maxAttempts: 2 });
    keyId = (await kms.send(new CreateKeyCommand({}))).KeyMetadata?.Arn ?? '';
  });

  test('wraps a key anew for another VM: the same key, and under the old context no more', async () => {
    const wrapped = await generateWrappedKey(kms, keyId, own);
    const rewrapped = await rewrapKey(kms, keyId, wrapped, own, others);
    const [before, after] = [
      await unwrapKey(kms, keyId, wrapped, own),
      await unwrapKey(kms, keyId, rewrapped, others),
    ];
    expect(Buffer.from(after).equals(Buffer.from(before))).toBe(true);
    await expect(unwrapKey(kms, keyId, rewrapped, own)).rejects.toThrow(UnwrapRefusedError);
    await expect(rewrapKey(kms, keyId, wrapped, others, own)).rejects.toThrow(UnwrapRefusedError);
  });

  test('gives the public half of the recovery key', async () => {
    const create = new CreateKeyCommand({ KeySpec: 'RSA_4096', KeyUsage: 'ENCRYPT_DECRYPT' });
    const recovery = (await kms.send(create)).KeyMetadata?.Arn ?? '';
    expect(await publicKeyOf(kms, recovery)).toHaveLength(550);
  });
});

test('a tampered ciphertext is refused by a KMS that authenticates it', async () => {
  const kms = new KMSClient({
    endpoint: emulators.ec2,
    region: REGION,
    credentials: CREDENTIALS,
    maxAttempts: 2,
  });
  const keyId = (await kms.send(new CreateKeyCommand({}))).KeyMetadata?.Arn ?? '';
  const context = encryptionContext(DISK, 1, VM_ID);
  const wrapped = Buffer.from(await generateWrappedKey(kms, keyId, context), 'base64');
  wrapped.writeUInt8(wrapped.readUInt8(wrapped.length - 1) ^ 1, wrapped.length - 1);
  await expect(unwrapKey(kms, keyId, wrapped.toString('base64'), context)).rejects.toThrow(
    UnwrapRefusedError,
  );
});
