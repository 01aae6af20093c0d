import * as z from 'zod';
import { bytes, CHALLENGE_BYTES } from './enrolment.ts';
import { hex } from './evidence/bytes.ts';
import { EvidenceError } from './evidence/reasons.ts';
import { isSameKey, parsePublicKey, type TpmPublicKey } from './evidence/tpm/public-key.ts';
import { instanceId, utcTime } from './ids.ts';
import type { Reason } from './reasons.ts';
import type { EnrolItem } from './report.ts';
import { parseAgentPublicKey, verifyAgentSignature } from './signature.ts';
import { signedBytes } from './transcript.ts';
import type { VmItem } from './vm.ts';

/** How long a TPM may take to open a credential; the same minute that a challenge has. */
export const CREDENTIAL_SECONDS = 60;

const publicArea = z.base64().max(4_000);

/** What the agent signs, as one JSON string. */
export const tpmActivationPayload = z.discriminatedUnion('step', [
  /** Asks for a credential for an attestation key, in the TPM with this endorsement key. */
  z.strictObject({
    step: z.literal('credential'),
    /** TPMT_PUBLIC or TPM2B_PUBLIC, base64. */
    attestationKey: publicArea,
    endorsementKey: publicArea,
  }),
  /** Brings its secret back, as the challenge that this request answers. */
  z.strictObject({ step: z.literal('activation'), attestationKey: publicArea }),
]);
export type TpmActivationPayload = z.infer<typeof tpmActivationPayload>;

/** `POST /v1/tpm-activations`, purpose `enrol`: twice, once for each step. */
export const tpmActivationRequest = z.strictObject({
  instanceId,
  /** A challenge for the purpose `enrol`; in the second step the credential's secret. */
  nonce: bytes(CHALLENGE_BYTES),
  payload: z.string().max(8_192),
  /** By the enrolled key, over T and SHA-512 of `payload`; R || S, base64. */
  signature: z.base64().max(128),
});
export type TpmActivationRequest = z.infer<typeof tpmActivationRequest>;

export const tpmCredentialResponse = z.strictObject({
  instanceId,
  /** TPM2B_ID_OBJECT. */
  credentialBlob: z.base64().max(1_024),
  /** TPM2B_ENCRYPTED_SECRET. */
  encryptedSecret: z.base64().max(2_048),
  expiresAt: z.iso.datetime(),
});

export const tpmActivationResponse = z.strictObject({ status: z.literal('activated'), instanceId });

/** The `tpm#` item: the attestation key that was proven to be in the TPM that EC2 reports for the VM. */
export const tpmItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  instanceId,
  /** SPKI DER, base64. */
  attestationKey: z.base64(),
  activatedAt: utcTime,
});

/** An attestation key, and what its TPM calls it. */
export interface AttestationKey {
  readonly spki: Buffer;
  /** The Name (TPM 2.0 Part 1 §16): a credential is for this one key. */
  readonly name: Uint8Array;
}

/** What the secret of a credential is good for, as the purpose of its `nonce#` item. */
export function credentialPurpose(key: AttestationKey): string {
  return `activate ${hex(key.name)}`;
}

export type ActivationJudgement =
  | {
      readonly kind: 'make-credential';
      readonly attestationKey: AttestationKey;
      readonly endorsementKey: TpmPublicKey;
      readonly keyType: EndorsementKeyType;
    }
  | { readonly kind: 'activate'; readonly attestationKey: AttestationKey }
  | { readonly kind: 'refuse'; readonly reason: Reason };

/** The endorsement keys that EC2 reports: API_GetInstanceTpmEkPub, KeyType. */
export type EndorsementKeyType = 'rsa-2048' | 'ecc-sec-p384';

/**
 * Judges one request of the enrolled agent. Nothing in the payload is looked at before its signature
 * verified.
 */
export function judgeActivation(
  request: TpmActivationRequest,
  context: {
    readonly vm: VmItem | undefined;
    readonly enrolment: EnrolItem | undefined;
    readonly apiOrigin: string;
  },
): ActivationJudgement {
  const { vm, enrolment } = context;
  if (!vm?.managed || vm.gone || !enrolment) return refuse('NOT_ENROLLED');
  const spki = Buffer.from(enrolment.publicKey, 'base64');
  const key = parseAgentPublicKey(spki);
  if (!key) return refuse('NOT_ENROLLED');
  const { accountId, region, instanceId: vmId } = vm.observation;
  const signed = signedBytes(
    {
      purpose: 'enrol',
      apiOrigin: context.apiOrigin,
      accountId,
      region,
      instanceId: vmId,
      nonce: Buffer.from(request.nonce, 'base64'),
      agentPublicKey: spki,
    },
    request.payload,
  );
  if (!verifyAgentSignature(key, signed, Buffer.from(request.signature, 'base64'))) {
    return refuse('REQUEST_BAD_SIGNATURE');
  }
  const payload = parsePayload(request.payload);
  if (!payload) return refuse('REQUEST_MALFORMED');
  const attestationKey = readAttestationKey(payload.attestationKey);
  if (!attestationKey) return refuse('TPM_KEY_UNFIT');
  if (payload.step === 'activation') return { kind: 'activate', attestationKey };
  const endorsementKey = readPublicKey(payload.endorsementKey);
  const keyType = endorsementKey && keyTypeOf(endorsementKey);
  if (!keyType) return refuse('TPM_KEY_UNFIT');
  return { kind: 'make-credential', attestationKey, endorsementKey, keyType };
}

/**
 * Whether the TPM that the agent uses says to be the one that EC2 reports. Only the credential proves it;
 * this spares a TPM that is another's the attempt, and tells the operator.
 *
 * @param reported TPMT_PUBLIC as EC2 gives it; undefined when EC2 reports no TPM
 */
export function judgeEndorsementKey(
  claimed: TpmPublicKey,
  reported: Uint8Array | undefined,
):
  | { readonly kind: 'same'; readonly key: TpmPublicKey }
  | { readonly kind: 'refuse'; readonly reason: Reason } {
  if (!reported) return refuse('TPM_NOT_REPORTED');
  const key = parsePublicKey(reported);
  return isSameKey(key.key, spkiOf(claimed)) ? { kind: 'same', key } : refuse('TPM_NOT_OF_INSTANCE');
}

/** A key that signs nothing but what its TPM made, and cannot leave it; undefined when it is not one. */
function readAttestationKey(base64: string): AttestationKey | undefined {
  const key = readPublicKey(base64);
  return key?.area?.isAttestationKey ? { spki: spkiOf(key), name: key.area.name } : undefined;
}

function keyTypeOf({ key }: TpmPublicKey): EndorsementKeyType | undefined {
  const { modulusLength, namedCurve } = key.asymmetricKeyDetails ?? {};
  if (modulusLength === 2048) return 'rsa-2048';
  return namedCurve === 'secp384r1' ? 'ecc-sec-p384' : undefined;
}

function readPublicKey(base64: string): TpmPublicKey | undefined {
  try {
    return parsePublicKey(Buffer.from(base64, 'base64'));
  } catch (error) {
    if (error instanceof EvidenceError) return undefined; // the caller refuses it by name
    throw error;
  }
}

function parsePayload(text: string): TpmActivationPayload | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined; // the caller refuses it by name
  }
  const parsed = tpmActivationPayload.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}

function spkiOf({ key }: TpmPublicKey): Buffer {
  return key.export({ format: 'der', type: 'spki' });
}

function refuse(reason: Reason): { readonly kind: 'refuse'; readonly reason: Reason } {
  return { kind: 'refuse', reason };
}
