import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { join } from 'node:path';
import * as z from 'zod';
import { signAsAgent } from '../lib/domain/signature.ts';
import { readIfThere, writeDurably } from './state.ts';

const keyFile = z.strictObject({ instanceId: z.string(), privateKey: z.string() });

/** The agent's ECDSA P-256 key, wherever it is kept: who holds one can have it sign, and cannot read it. */
export interface AgentKey {
  /** SPKI DER. */
  readonly publicKey: Buffer;
  /** SHA-256; R || S, 64 bytes. */
  sign(bytes: Uint8Array): Promise<Buffer>;
}

/**
 * The agent's ECDSA P-256 key, made once for each instance. A key file that names another instance came
 * with a cloned image or a copied root volume: it is discarded, because the VM it belongs to still has it.
 */
export function loadOrCreateKey(stateDir: string, instanceId: string): AgentKey {
  const path = join(stateDir, 'agent-key.json');
  const text = readIfThere(path);
  if (text !== undefined) {
    const stored = keyFile.parse(JSON.parse(text));
    if (stored.instanceId === instanceId) return withPublic(createPrivateKey(stored.privateKey));
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
