import { join } from 'node:path';
import { challengeResponse, enrolmentResponse } from '../lib/domain/enrolment.ts';
import { signedBytes } from '../lib/domain/transcript.ts';
import type { Api } from './api.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import { type Identity, readSignedIdentity } from './metadata.ts';
import { readIfThere, writeDurably } from './state.ts';

/** Whether this instance enrolled this key before. */
export function isEnrolled(config: AgentConfig, identity: Identity, key: AgentKey): boolean {
  return readIfThere(join(config.stateDir, 'enrolled')) === enrolledMark(identity, key);
}

function enrolledMark(identity: Identity, key: AgentKey): string {
  return `${identity.instanceId} ${key.publicKey.toString('base64')}\n`;
}

/**
 * Enrols the agent's key: a fresh challenge, signed with the key together with everything that the answer
 * is for, beside the identity document.
 *
 * @throws RefusedError with the reason, UnreachableError when it is worth trying again
 */
export async function enrol(
  api: Api,
  config: AgentConfig,
  identity: Identity,
  key: AgentKey,
  stop?: AbortSignal,
): Promise<'enrolled' | 'already-enrolled'> {
  const { instanceId } = identity;
  const request = { instanceId, purpose: 'enrol' };
  const { nonce } = await api.post('/challenges', request, challengeResponse, stop);
  const bytes = signedBytes({
    purpose: 'enrol',
    apiOrigin: new URL(config.apiUrl).origin,
    accountId: identity.accountId,
    region: identity.region,
    instanceId,
    nonce: Buffer.from(nonce, 'base64'),
    agentPublicKey: key.publicKey,
  });
  const { status } = await api.post(
    '/enrolments',
    {
      instanceId,
      nonce,
      identityDocument: await readSignedIdentity(config.metadataEndpoint),
      agentPublicKey: key.publicKey.toString('base64'),
      signature: (await key.sign(bytes)).toString('base64'),
    },
    enrolmentResponse,
    stop,
  );
  writeDurably(join(config.stateDir, 'enrolled'), enrolledMark(identity, key));
  return status;
}
