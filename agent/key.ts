import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { join } from 'node:path';
import * as z from 'zod';
import { signAsAgent } from '../lib/domain/signature.ts';
import { readIfThere, writeDurably } from './state.ts';
import type { Tpm } from './tpm.ts';

const keyFile = z.union([
  z.strictObject({ instanceId: z.string(), privateKey: z.string() }),
  /** The key is in the TPM; the file only says so, lest a TPM that does not answer be taken for none. */
  z.strictObject({ instanceId: z.string(), keptIn: z.literal('tpm') }),
]);

/** The agent's ECDSA P-256 key, wherever it is kept: who holds one can have it sign, and cannot read it. */
export interface AgentKey {
  /** SPKI DER. */
  readonly publicKey: Buffer;
  /** SHA-256; R || S, 64 bytes. */
  sign(bytes: Uint8Array): Promise<Buffer>;
}

/** The key was made in the TPM, and the TPM cannot be used now. Retryable: another key would be refused. */
export class KeyError extends Error {
  override readonly name = 'KeyError';
}

/**
 * The agent's ECDSA P-256 key, chosen once for each instance: in the TPM when there is one that works, else in a
 * file. A key file that names another instance came with a cloned image or a copied root volume: it is
 * discarded, because the VM it belongs to still has it.
 *
 * @throws KeyError
 */
export function loadOrCreateKey(stateDir: string, instanceId: string, tpm?: Pick<Tpm, 'agentKey'>): AgentKey {
  const path = join(stateDir, 'agent-key.json');
  const text = readIfThere(path);
  const stored = text === undefined ? undefined : keyFile.parse(JSON.parse(text));
  if (stored?.instanceId === instanceId) {
    // A key that was enrolled from a file stays: the pipeline takes no other without an operator.
    if ('privateKey' in stored) return withPublic(createPrivateKey(stored.privateKey));
    if (!tpm) throw new KeyError(`${path}: the key is in the TPM, which cannot be used now`);
    return tpm.agentKey;
  }
  if (tpm) {
    writeDurably(path, JSON.stringify({ instanceId, keptIn: 'tpm' }));
    return tpm.agentKey;
  }
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  writeDurably(path, JSON.stringify({ instanceId, privateKey: pem }));
  return withPublic(privateKey);
}

function withPublic(privateKey: KeyObject): AgentKey {
  return {
    publicKey: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
    sign: async (bytes) => signAsAgent(privateKey, bytes),
  };
}
