import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { EC2Client } from '@aws-sdk/client-ec2';
import {
  CHALLENGE_BYTES,
  type ChallengeItem,
  challengeItem,
  challengeKey,
  challengeRefusal,
} from '../../lib/domain/enrolment.ts';
import { ephemeralKeyFor, makeCredential, seedBytes } from '../../lib/domain/evidence/tpm/credential.ts';
import type { Reason } from '../../lib/domain/reasons.ts';
import { enrolItem } from '../../lib/domain/report.ts';
import {
  type ActivationJudgement,
  type AttestationKey,
  CREDENTIAL_SECONDS,
  credentialPurpose,
  judgeActivation,
  judgeEndorsementKey,
  type TpmActivationRequest,
  tpmActivationRequest,
  tpmItem,
} from '../../lib/domain/tpm-activation.ts';
import { vmItem } from '../../lib/domain/vm.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import { consumeChallenge, create, getItems, putVersioned, type Table } from '../aws/dynamodb.ts';
import { endorsementKeyOf } from '../aws/ec2.ts';
import type { Announce } from '../aws/eventbridge.ts';

export interface Deps extends ApiDeps {
  readonly table: Table;
  readonly ec2: EC2Client;
  readonly announce: Announce;
  readonly apiOrigin: string;
  readonly now: () => Date;
  readonly randomBytes: (length: number) => Buffer;
}

/**
 * Credential activation: an attestation key counts as this VM's when a secret that only the TPM with the
 * endorsement key that EC2 reports can read, and only while it holds that attestation key, comes back.
 */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, tpmActivationRequest, async (request) => {
    const answer = await activate(deps, request);
    if (answer.kind === 'refuse') {
      const { instanceId } = request;
      await deps.announce({
        detailType: 'Enrolment Refused',
        detail: { schemaVersion: 1, instanceId, at: deps.now().toISOString(), reason: answer.reason },
      });
    }
    return answer;
  });
}

async function activate(deps: Deps, request: TpmActivationRequest): Promise<Answer> {
  const { instanceId } = request;
  const [vms, enrolments] = await Promise.all([
    getItems(deps.table, [`vm#${instanceId}`], vmItem),
    getItems(deps.table, [`enrol#${instanceId}`], enrolItem),
  ]);
  const judgement = judgeActivation(request, {
    vm: vms.get(`vm#${instanceId}`),
    enrolment: enrolments.get(`enrol#${instanceId}`),
    apiOrigin: deps.apiOrigin,
  });
  switch (judgement.kind) {
    case 'refuse':
      return refuse(judgement.reason);
    case 'make-credential': {
      const used = await useChallenge(deps, request, 'enrol');
      return used ? refuse(used) : giveCredential(deps, instanceId, judgement);
    }
    case 'activate': {
      const used = await useChallenge(deps, request, credentialPurpose(judgement.attestationKey));
      // A secret that nobody made is a guess: the credential was not opened.
      if (used) return refuse(used === 'CHALLENGE_UNKNOWN' ? 'TPM_NOT_OF_INSTANCE' : used);
      return remember(deps, instanceId, judgement.attestationKey);
    }
  }
}

/** Consumes the challenge by one conditional write. @returns why it could not be */
async function useChallenge(
  deps: Deps,
  request: TpmActivationRequest,
  purpose: string,
): Promise<Reason | undefined> {
  const want = { instanceId: request.instanceId, purpose, now: deps.now() };
  const pk = challengeKey(Buffer.from(request.nonce, 'base64'));
  if (await consumeChallenge(deps.table, pk, want)) return undefined;
  const challenge = (await getItems(deps.table, [pk], challengeItem)).get(pk);
  return challengeRefusal(challenge, want) ?? 'CHALLENGE_USED';
}

/** A credential for what EC2 itself reports, never for a key that the agent sent. */
async function giveCredential(
  deps: Deps,
  instanceId: string,
  judgement: ActivationJudgement & { readonly kind: 'make-credential' },
): Promise<Answer> {
  const { attestationKey, endorsementKey, keyType } = judgement;
  const reported = judgeEndorsementKey(endorsementKey, await endorsementKeyOf(deps.ec2, instanceId, keyType));
  if (reported.kind === 'refuse') return refuse(reported.reason);
  const secret = deps.randomBytes(CHALLENGE_BYTES);
  const credential = makeCredential(reported.key, attestationKey.name, secret, {
    seed: deps.randomBytes(seedBytes(reported.key)),
    ephemeral: ephemeralKeyFor(reported.key),
  });
  const expiresAtMs = deps.now().getTime() + CREDENTIAL_SECONDS * 1000;
  // Stored as its hash: who can read the table cannot activate a key.
  const item: ChallengeItem = {
    pk: challengeKey(secret),
    instanceId,
    purpose: credentialPurpose(attestationKey),
    used: false,
    expiresAtMs,
    expiresAt: Math.ceil(expiresAtMs / 1000) + 3600,
  };
  await create(deps.table, item);
  return {
    kind: 'ok',
    status: 201,
    body: {
      instanceId,
      credentialBlob: Buffer.from(credential.credentialBlob).toString('base64'),
      encryptedSecret: Buffer.from(credential.encryptedSecret).toString('base64'),
      expiresAt: new Date(expiresAtMs).toISOString(),
    },
  };
}

/** A later key takes the place of an earlier one: both were proven to be in the VM's own TPM. */
async function remember(deps: Deps, instanceId: string, key: AttestationKey): Promise<Answer> {
  const pk = `tpm#${instanceId}`;
  const known = (await getItems(deps.table, [pk], tpmItem)).get(pk);
  await putVersioned(deps.table, pk, known?.version, {
    instanceId,
    attestationKey: key.spki.toString('base64'),
    activatedAt: deps.now().toISOString(),
  });
  deps.metrics.addMetric('TpmActivated', MetricUnit.Count, 1);
  return { kind: 'ok', status: 201, body: { status: 'activated', instanceId } };
}

function refuse(reason: Reason): Answer {
  return { kind: 'refuse', reason, retryable: false };
}
