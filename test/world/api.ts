import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import type { APIGatewayProxyEvent } from 'aws-lambda';
import { createIdentityIssuer, type IdentityIssuer } from '../../bin/local/identity-issuer.ts';
import { createHandler as activateTpm } from '../../lambdas/activate-tpm/handler.ts';
import { createHandler as adoptDisk } from '../../lambdas/adopt-disk/handler.ts';
import { createHandler as confirmDiskKey } from '../../lambdas/confirm-disk-key/handler.ts';
import { createHandler as enrolAgent } from '../../lambdas/enrol-agent/handler.ts';
import { createHandler as issueChallenge } from '../../lambdas/issue-challenge/handler.ts';
import { createHandler as listDisks } from '../../lambdas/list-disks/handler.ts';
import { createHandler as releaseDiskKey } from '../../lambdas/release-disk-key/handler.ts';
import { createHandler as rotateDiskKey } from '../../lambdas/rotate-disk-key/handler.ts';
import { createHandler as storeHeader } from '../../lambdas/store-header/handler.ts';
import type { CallerIdentity } from '../../lib/domain/caller.ts';
import { defaultPolicies } from '../../lib/domain/evidence/policy-file.ts';
import { signAsAgent } from '../../lib/domain/signature.ts';
import { type Purpose, signedBytes } from '../../lib/domain/transcript.ts';
import type { TestAgent } from './agent.ts';
import { ACCOUNT, REGION } from './ec2.ts';
import { apiRequest, CONTEXT } from './recorded.ts';
import { API_ORIGIN, DISK_KEY_ID, type World } from './world.ts';

/** A whole identity document. */
export const identityOf = (overrides: object, now: Date): object => ({
  accountId: ACCOUNT,
  architecture: 'x86_64',
  availabilityZone: `${REGION}a`,
  billingProducts: null,
  devpayProductCodes: null,
  imageId: 'ami-0123456789abcdef0',
  instanceType: 'm6a.large',
  kernelId: null,
  marketplaceProductCodes: null,
  pendingTime: now.toISOString(),
  privateIp: '10.0.0.7',
  ramdiskId: null,
  region: REGION,
  version: '2017-09-30',
  ...overrides,
});

/** Where recovery keys are sealed to. */
const recovery = generateKeyPairSync('rsa', { modulusLength: 2048 });
export const RECOVERY_PUBLIC_KEY = recovery.publicKey.export({ type: 'spki', format: 'der' });

let made: Promise<IdentityIssuer> | undefined;

/** One issuer for all tests of a suite: its RSA key takes a while. */
export const issuer = (): Promise<IdentityIssuer> => {
  made ??= createIdentityIssuer(REGION);
  return made;
};

export interface ApiAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: an answer is any JSON; tests say what they expect of it
  readonly body: Record<string, any>;
}

/** The API's functions over the world's table and bus, called with whole API Gateway requests. */
export async function createApi(
  world: World,
  callerIdentity: CallerIdentity = 'embedded',
  origin: string = API_ORIGIN,
  nitroRoots?: readonly string[],
) {
  const { certificatePem, issue } = await issuer();
  const common = { ...world.common(), callerIdentity };
  const signed = { ...common, apiOrigin: origin };
  const keys = { ...signed, kms: world.kms, diskKeyId: DISK_KEY_ID };
  const { mode } = world;
  const functions = {
    '/challenges': issueChallenge({ ...common, randomBytes }),
    '/enrolments': enrolAgent({
      ...common,
      apiOrigin: origin,
      issuers: new Map([[REGION, [certificatePem]]]),
      region: REGION,
    }),
    '/disks': listDisks({ ...signed, mode, recoveryPublicKey: async () => RECOVERY_PUBLIC_KEY }),
    '/releases': releaseDiskKey({
      ...keys,
      mode,
      evidenceMaxAgeSeconds: 7200,
      nitroPolicy: defaultPolicies.nitro,
      nitroRoots,
    }),
    '/confirmations': confirmDiskKey(signed),
    '/rotations': rotateDiskKey(keys),
    '/adoptions': adoptDisk({ ...keys, ec2: world.client }),
    '/headers': storeHeader({ ...signed, s3: world.s3, bucket: 'headers' }),
    '/tpm-activations': activateTpm({ ...signed, ec2: world.client, randomBytes }),
  };
  const send = async (event: APIGatewayProxyEvent): Promise<ApiAnswer> => {
    const answer = await functions[event.path as keyof typeof functions](event, CONTEXT);
    return { status: answer.statusCode, body: JSON.parse(answer.body) as ApiAnswer['body'] };
  };
  const call = (
    path: keyof typeof functions,
    body: unknown,
    caller: Parameters<typeof apiRequest>[0] = 'instance',
  ) => send(apiRequest(caller, path, body));
  const challenge = async (instanceId: string, purpose: Purpose = 'enrol'): Promise<string> =>
    (await call('/challenges', { instanceId, purpose })).body['nonce'] ?? '';

  /** A body for /enrolments, right in every part unless told otherwise. */
  const enrolment = async (
    agent: TestAgent,
    overrides: {
      readonly nonce?: string;
      readonly document?: object;
      readonly signer?: KeyObject;
      readonly purpose?: Purpose;
      readonly apiOrigin?: string;
      readonly body?: object;
    } = {},
  ) => {
    const { instanceId } = agent;
    const nonce = overrides.nonce ?? (await challenge(instanceId));
    const document = { instanceId, accountId: ACCOUNT, region: REGION, ...overrides.document };
    const bytes = signedBytes({
      purpose: overrides.purpose ?? 'enrol',
      apiOrigin: overrides.apiOrigin ?? origin,
      accountId: document.accountId,
      region: document.region,
      instanceId,
      nonce: Buffer.from(nonce, 'base64'),
      agentPublicKey: agent.spki,
    });
    return {
      instanceId,
      nonce,
      identityDocument: await issue(identityOf(document, world.now())),
      agentPublicKey: agent.spki.toString('base64'),
      signature: signAsAgent(overrides.signer ?? agent.privateKey, bytes).toString('base64'),
      ...overrides.body,
    };
  };
  const enrol = async (agent: TestAgent, overrides: Parameters<typeof enrolment>[1] = {}) =>
    call('/enrolments', await enrolment(agent, overrides));

  return { functions, send, call, challenge, enrolment, enrol };
}
