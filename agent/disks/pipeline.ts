import { Aes256Gcm, CipherSuite, DhkemP256HkdfSha256, HkdfSha256 } from '@hpke/core';
import type * as z from 'zod';
import {
  adoptionResponse,
  type confirmationPayload,
  confirmationResponse,
  type DiskListResponse,
  diskListResponse,
  headerResponse,
  releaseResponse,
  rotationResponse,
} from '../../lib/domain/disk-api.ts';
import { challengeResponse } from '../../lib/domain/enrolment.ts';
import { VOLUME_KEY_BYTES } from '../../lib/domain/luks-header.ts';
import { type Purpose, signedBytes, type TranscriptParts, transcript } from '../../lib/domain/transcript.ts';
import { type Api, UnreachableError } from '../api.ts';
import type { AgentConfig } from '../config.ts';
import type { AgentKey } from '../key.ts';
import { explain, log } from '../log.ts';
import type { Identity } from '../metadata.ts';
import { type NitroTpm, NitroTpmError } from '../nitro-tpm.ts';
import { SecureMemory } from '../secure-memory.ts';

/** Who asks. */
export interface Caller {
  readonly config: AgentConfig;
  readonly identity: Identity;
  readonly key: AgentKey;
  readonly api: Api;
  /** There when this instance has a NitroTPM: KMS then seals keys to it. */
  readonly nitroTpm?: NitroTpm | undefined;
}

interface Subject {
  readonly disk?: string;
  readonly generation?: number;
  readonly ephemeralPublicKey?: Uint8Array;
}

/** The members that every request has, over a fresh challenge, and T that they were signed over. */
async function sign(caller: Caller, purpose: Purpose, subject: Subject = {}, payload?: string) {
  const { instanceId, accountId, region } = caller.identity;
  const { nonce } = await caller.api.post('/challenges', { instanceId, purpose }, challengeResponse);
  const parts: TranscriptParts = {
    purpose,
    apiOrigin: new URL(caller.config.apiUrl).origin,
    accountId,
    region,
    instanceId,
    ...subject,
    nonce: Buffer.from(nonce, 'base64'),
    agentPublicKey: caller.key.publicKey,
  };
  const signature = (await caller.key.sign(signedBytes(parts, payload))).toString('base64');
  return { members: { instanceId, nonce, signature }, parts };
}

/** Which disks are this VM's. */
export async function listDisks(caller: Caller): Promise<DiskListResponse> {
  const { members } = await sign(caller, 'release');
  return caller.api.post('/disks', members, diskListResponse);
}

export interface ReleasedKey extends Disposable {
  readonly key: SecureMemory;
  /** BitLocker alone: the escrowed secret, sealed under the key. */
  readonly escrow: Buffer | null;
}

const suite = new CipherSuite({
  kem: new DhkemP256HkdfSha256(),
  kdf: new HkdfSha256(),
  aead: new Aes256Gcm(),
});

/**
 * A key for KMS to seal to, and what has the NitroTPM sign T with it. When the NitroTPM gives no document the request
 * goes without: whether a key may be given so is for the pipeline and for the key policy in KMS to say
 * (kms:RecipientAttestation), and a broken tool must not lock a machine out of its disks.
 */
async function prepareAttestation(nitroTpm: NitroTpm) {
  // Loaded where it is needed alone: its parser would be in the memory of every agent.
  const { createRecipient } = await import('./recipient.ts');
  const recipient = await createRecipient();
  return async (userData: Uint8Array) => {
    try {
      return { recipient, document: await nitroTpm({ userData, publicKey: recipient.publicKey }) };
    } catch (error) {
      if (!(error instanceof NitroTpmError)) throw error;
      log(`asking for a key without a document of the NitroTPM: ${explain(error)}`);
      return undefined;
    }
  };
}

/**
 * One generation of a disk's key, sealed to a key pair of this one request (RFC 9180, base mode, `info` = T), opened
 * straight into key memory. The ephemeral private key cannot be exported and is forgotten with the call. Where there is
 * a NitroTPM, KMS seals the key to an RSA key of the same request, so that the pipeline does not see it either.
 *
 * @throws RefusedError, UnreachableError; DiskError for an envelope that does not open
 */
export async function releaseKey(caller: Caller, disk: string, generation: number): Promise<ReleasedKey> {
  const ephemeral = await crypto.subtle.generateKey({ name: 'ECDH', namedCurve: 'P-256' }, false, [
    'deriveBits',
  ]);
  const point = new Uint8Array(await crypto.subtle.exportKey('raw', ephemeral.publicKey));
  // Before the challenge, which lives a minute: making an RSA key may take seconds.
  const attest = caller.nitroTpm && (await prepareAttestation(caller.nitroTpm));
  const { members, parts } = await sign(caller, 'release', { disk, generation, ephemeralPublicKey: point });
  const info = transcript(parts);
  const attested = await attest?.(info);
  const answer = await caller.api.post(
    '/releases',
    {
      ...members,
      disk,
      generation,
      ephemeralPublicKey: Buffer.from(point).toString('base64'),
      ...(attested ? { document: attested.document.toString('base64') } : {}),
    },
    releaseResponse,
  );
  // A key that was not sealed to the NitroTPM's document, although one was sent, was seen on the way.
  const asked = answer.forRecipient === (attested !== undefined);
  if (answer.disk !== disk || answer.generation !== generation || !asked) {
    throw new UnreachableError('the release is of something else than was asked for');
  }
  let opened: ArrayBuffer;
  try {
    opened = await suite.open(
      { recipientKey: ephemeral, enc: Buffer.from(answer.enc, 'base64'), info },
      Buffer.from(answer.ciphertext, 'base64'),
    );
  } catch (cause) {
    throw new UnreachableError('the released key is not sealed to this request', { cause });
  }
  const sealed = new Uint8Array(opened);
  const key = attested ? attested.recipient.open(sealed) : SecureMemory.from(sealed);
  if (key.size !== VOLUME_KEY_BYTES) {
    key.release();
    throw new UnreachableError(`the released key has not ${VOLUME_KEY_BYTES} bytes`);
  }
  const escrow = answer.escrow === null ? null : Buffer.from(answer.escrow, 'base64');
  return { key, escrow, [Symbol.dispose]: () => key.release() };
}

/** Says that a keyslot opens with the generation. @returns the generations that retire now */
export async function confirmKey(
  caller: Caller,
  disk: string,
  generation: number,
  sealed: z.infer<typeof confirmationPayload>,
): Promise<readonly number[]> {
  const payload = JSON.stringify(sealed);
  const { members } = await sign(caller, 'confirm', { disk, generation }, payload);
  const { retiring } = await caller.api.post(
    '/confirmations',
    { ...members, disk, generation, payload },
    confirmationResponse,
  );
  return retiring;
}

/** Has the generation issued; asking again changes nothing. */
export async function requestRotation(caller: Caller, disk: string, generation: number): Promise<void> {
  const { members } = await sign(caller, 'rotate', { disk, generation });
  await caller.api.post('/rotations', { ...members, disk, generation }, rotationResponse);
}

/** A volume of this VM carries the LUKS UUID of a known disk: have the disk become this VM's. */
export async function requestAdoption(caller: Caller, disk: string, volumeId: string): Promise<void> {
  const { members } = await sign(caller, 'recover', { disk });
  await caller.api.post('/adoptions', { ...members, disk, volumeId }, adoptionResponse);
}

/** @param headerArea gzip of the header area */
export async function backUpHeader(
  caller: Caller,
  disk: string,
  generation: number,
  headerArea: Buffer,
): Promise<void> {
  const payload = headerArea.toString('base64');
  const { members } = await sign(caller, 'confirm', { disk, generation }, payload);
  await caller.api.post('/headers', { ...members, disk, generation, payload }, headerResponse);
}
