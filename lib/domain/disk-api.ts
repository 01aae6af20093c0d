import * as z from 'zod';
import { diskKind, generationState } from './disk-key.ts';
import { bytes, CHALLENGE_BYTES } from './enrolment.ts';
import { diskUuid, instanceId, volumeId } from './ids.ts';
import { mode } from './isolation.ts';

/**
 * What an agent says to the API about its disks, and what it hears. Every request answers a fresh challenge and
 * carries the agent's signature over T (PROTOCOL.md) with the purpose named here; where there is a `payload` the
 * signature covers SHA-512 of it too (docs/adr/0003).
 */
const signed = {
  instanceId,
  /** The challenge, issued to this VM for this purpose. */
  nonce: bytes(CHALLENGE_BYTES),
  /** By the enrolled key; R || S, base64. */
  signature: z.base64().max(128),
};

/** `POST /v1/disks`, purpose `release`, T without disk and generation: which disks are this VM's. */
export const diskListRequest = z.strictObject(signed);

export const listedVolume = z.strictObject({
  volumeId,
  sizeGiB: z.number().int().positive(),
  /** Null where it is covered; else the reason code (`ROOT_VOLUME`, `AWAITING_ADOPTION`, `DISK_MOVED`, …). */
  notCovered: z.string().nullable(),
  disk: diskUuid.nullable(),
  kind: diskKind,
  /** EC2 made the volume from a snapshot: it is never formatted without a human. */
  fromSnapshot: z.boolean(),
  /** A generation of the disk was confirmed once: a blank volume is an alarm, not a fresh disk. */
  confirmed: z.boolean(),
  generations: z.array(z.strictObject({ generation: z.number().int().positive(), state: generationState })),
  /** The agent is asked to rotate, with the reason code (`RELEASED_IN_OBSERVE`, `OPERATOR_ASKED`, …). */
  rotate: z.string().nullable(),
  /** Hints of the volume's tags casemate:mount and casemate:filesystem; the agent's own bounds decide. */
  mountPoint: z.string().nullable(),
  filesystem: z.string().nullable(),
});
export type ListedVolume = z.infer<typeof listedVolume>;

export const diskListResponse = z.strictObject({
  mode,
  /** RSA public key (SPKI DER) that recovery keys are sealed to with RSAES-OAEP-SHA-256; null without escrow. */
  recoveryPublicKey: z.base64().nullable(),
  volumes: z.array(listedVolume),
});
export type DiskListResponse = z.infer<typeof diskListResponse>;

/** `POST /v1/releases`, purpose `release`, T with disk, generation and the ephemeral key. */
export const releaseRequest = z.strictObject({
  ...signed,
  disk: diskUuid,
  generation: z.number().int().positive(),
  /** Raw P-256 point (65 bytes): DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode; `info` is T. */
  ephemeralPublicKey: bytes(65),
  /**
   * NitroTPM attestation document with T as `user_data` and an RSA-2048 key as `public_key`: KMS then seals the
   * key to that, and the pipeline never sees it.
   */
  document: z.base64().max(32_000).optional(),
});
export type ReleaseRequest = z.infer<typeof releaseRequest>;

/**
 * The sealed key: 64 bytes, or, where a document was sent, the CMS envelope of KMS around them
 * (`CiphertextForRecipient`). Refusals are all 403 `RELEASE_REFUSED`; operators see why.
 */
export const releaseResponse = z.strictObject({
  disk: diskUuid,
  generation: z.number().int().positive(),
  enc: bytes(65),
  ciphertext: z.base64().max(16_384),
  forRecipient: z.boolean(),
  /** BitLocker alone: the escrowed secret, AES-256-GCM under a key derived from the disk's (agent/disks). */
  escrow: z.base64().max(4096).nullable(),
});
export type ReleaseResponse = z.infer<typeof releaseResponse>;

/**
 * `POST /v1/confirmations`, purpose `confirm`, T with disk and generation: the agent opened the disk with it.
 * The answer says which older generations are retiring now, so that their keyslots must go.
 */
export const confirmationPayload = z.strictObject({
  /** The recovery key in its own keyslot, sealed to `recoveryPublicKey`. */
  recoveryKey: z.base64().max(2048).optional(),
  /** The escrowed secret of a BitLocker volume, sealed by the agent under the disk's key. */
  escrow: z.base64().max(4096).optional(),
});
export const confirmationRequest = z.strictObject({
  ...signed,
  disk: diskUuid,
  generation: z.number().int().positive(),
  /** JSON of `confirmationPayload`, as signed. */
  payload: z.string().max(8192),
});
export const confirmationResponse = z.strictObject({
  disk: diskUuid,
  generation: z.number().int().positive(),
  state: z.literal('active'),
  retiring: z.array(z.number().int().positive()),
});

/** `POST /v1/rotations`, purpose `rotate`, T with disk and the generation after the highest one. */
export const rotationRequest = z.strictObject({
  ...signed,
  disk: diskUuid,
  generation: z.number().int().positive(),
});
/** The generation is there and `issued`; asking again answers the same. */
export const rotationResponse = z.strictObject({
  disk: diskUuid,
  generation: z.number().int().positive(),
  state: z.literal('issued'),
});

/**
 * `POST /v1/adoptions`, purpose `recover`, T with disk: a volume of this VM carries the LUKS UUID of a known disk,
 * because it moved here or was restored from a snapshot.
 */
export const adoptionRequest = z.strictObject({ ...signed, disk: diskUuid, volumeId });
export const adoptionResponse = z.strictObject({
  disk: diskUuid,
  volumeId,
  generations: z.array(z.strictObject({ generation: z.number().int().positive(), state: generationState })),
});

/** The largest body of `POST /v1/headers`: its payload, and room for the rest. */
export const HEADER_BODY_CHARS = 4_010_000;

/** `POST /v1/headers`, purpose `confirm`, T with disk and generation: a backup of the LUKS header, gzip. */
export const headerRequest = z.strictObject({
  ...signed,
  disk: diskUuid,
  generation: z.number().int().positive(),
  /** Base64 of the gzipped header area, as signed. */
  payload: z.string().max(4_000_000),
});
export const headerResponse = z.strictObject({ disk: diskUuid, key: z.string() });
