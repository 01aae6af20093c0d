import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { challengeResponse } from '../lib/domain/enrolment.ts';
import {
  type TpmActivationPayload,
  tpmActivationResponse,
  tpmCredentialResponse,
} from '../lib/domain/tpm-activation.ts';
import { signedBytes } from '../lib/domain/transcript.ts';
import type { Api } from './api.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import type { Identity } from './metadata.ts';
import { readIfThere, writeDurably } from './state.ts';
import type { Tpm } from './tpm.ts';

type ActivatingTpm = Pick<Tpm, 'attestationKey' | 'endorsementKey' | 'activate'>;

/** Whether this instance's attestation key was activated before. */
export function isActivated(config: AgentConfig, identity: Identity, tpm: ActivatingTpm): boolean {
  return readIfThere(join(config.stateDir, 'activated')) === activatedMark(identity, tpm);
}

function activatedMark(identity: Identity, tpm: ActivatingTpm): string {
  return `${identity.instanceId} ${createHash('sha256').update(tpm.attestationKey).digest('hex')}\n`;
}

/**
 * Proves to the pipeline that the attestation key is in the TPM that EC2 reports for this instance: asks for a
 * credential, has the TPM open it, and answers with the secret. The enrolled key signs both requests.
 *
 * @throws RefusedError with the reason, UnreachableError when it is worth trying again, TpmError when the TPM
 * does not open the credential, which is how a TPM that is not this instance's ends
 */
export async function activate(
  api: Api,
  config: AgentConfig,
  identity: Identity,
  key: AgentKey,
  tpm: ActivatingTpm,
): Promise<void> {
  const { instanceId, accountId, region } = identity;
  const request = async (nonce: Uint8Array, payload: TpmActivationPayload) => {
    const text = JSON.stringify(payload);
    const parts = {
      purpose: 'enrol' as const,
      apiOrigin: new URL(config.apiUrl).origin,
      accountId,
      region,
      instanceId,
      nonce,
      agentPublicKey: key.publicKey,
    };
    const signature = (await key.sign(signedBytes(parts, text))).toString('base64');
    return { instanceId, nonce: Buffer.from(nonce).toString('base64'), payload: text, signature };
  };
  const attestationKey = tpm.attestationKey.toString('base64');
  // Before the challenge: a slow TPM takes longer for the RSA key than a challenge lives.
  const endorsementKey = (await tpm.endorsementKey()).toString('base64');
  const { nonce } = await api.post('/challenges', { instanceId, purpose: 'enrol' }, challengeResponse);
  const credential = await api.post(
    '/tpm-activations',
    await request(Buffer.from(nonce, 'base64'), { step: 'credential', attestationKey, endorsementKey }),
    tpmCredentialResponse,
  );
  const secret = await tpm.activate({
    credentialBlob: Buffer.from(credential.credentialBlob, 'base64'),
    encryptedSecret: Buffer.from(credential.encryptedSecret, 'base64'),
  });
  await api.post(
    '/tpm-activations',
    await request(secret, { step: 'activation', attestationKey }),
    tpmActivationResponse,
  );
  writeDurably(join(config.stateDir, 'activated'), activatedMark(identity, tpm));
}
