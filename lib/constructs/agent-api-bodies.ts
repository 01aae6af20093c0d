import { type JsonSchema, JsonSchemaType, JsonSchemaVersion } from 'aws-cdk-lib/aws-apigateway';

/**
 * The bodies as API Gateway checks them, before a function is woken: which fields there are and how long
 * they may be. What they mean is checked by the function with the schemas of lib/domain.
 */
const body = (
  properties: Record<string, JsonSchema>,
  optional: Record<string, JsonSchema> = {},
): JsonSchema => ({
  schema: JsonSchemaVersion.DRAFT4,
  type: JsonSchemaType.OBJECT,
  properties: { ...properties, ...optional },
  required: Object.keys(properties),
  additionalProperties: false,
});

const text = (maxLength: number): JsonSchema => ({ type: JsonSchemaType.STRING, minLength: 1, maxLength });

const instanceId = text(19);
const nonce = text(44);

export const challengeBody = body({ instanceId, purpose: text(16) });

export const tpmActivationBody = body({
  instanceId,
  nonce,
  payload: text(8192),
  signature: text(128),
});

export const enrolmentBody = body({
  instanceId,
  nonce,
  identityDocument: text(16_384),
  agentPublicKey: text(256),
  signature: text(128),
});

const signed = { instanceId, nonce, signature: text(128) };
const ofGeneration = { ...signed, disk: text(36), generation: { type: JsonSchemaType.INTEGER, minimum: 1 } };

export const diskListBody = body(signed);
export const releaseBody = body(
  { ...ofGeneration, ephemeralPublicKey: text(88) },
  { document: text(32_000) },
);
export const confirmationBody = body({ ...ofGeneration, payload: text(8192) });
export const adoptionBody = body({ ...signed, disk: text(36), volumeId: text(21) });
export const headerBody = body({ ...ofGeneration, payload: text(4_000_000) });
export const rotationBody = body(ofGeneration);
