import { MetricUnit } from '@aws-lambda-powertools/metrics';
import {
  challengeItem,
  challengeKey,
  challengeRefusal,
  decideEnrolment,
  type EnrolmentRequest,
  enrolmentRequest,
} from '../../lib/domain/enrolment.ts';
import { type IdentityIssuers, verifyIdentityDocument } from '../../lib/domain/evidence/identity/index.ts';
import { operatorItem } from '../../lib/domain/operator.ts';
import type { Reason } from '../../lib/domain/reasons.ts';
import { enrolItem } from '../../lib/domain/report.ts';
import { parseAgentPublicKey, verifyAgentSignature } from '../../lib/domain/signature.ts';
import { signedBytes } from '../../lib/domain/transcript.ts';
import { vmItem } from '../../lib/domain/vm.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import {
  consumeChallenge,
  getItems,
  putVersioned,
  type Table,
  VersionConflictError,
} from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { readDisks } from '../disks.ts';

export interface Deps extends ApiDeps {
  readonly table: Table;
  readonly announce: Announce;
  readonly apiOrigin: string;
  readonly issuers: IdentityIssuers;
  readonly region: string;
  readonly now: () => Date;
}

/** Enrols an agent's key once, when who asks proved to be the VM and to hold the key. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, enrolmentRequest, async (request) => {
    const answer = await enrol(deps, request);
    // A refusal that time heals is no news; every other one is somebody's to look at.
    if (answer.kind === 'refuse' && !answer.retryable) {
      const { instanceId } = request;
      await deps.announce({
        detailType: 'Enrolment Refused',
        detail: { schemaVersion: 1, instanceId, at: deps.now().toISOString(), reason: answer.reason },
      });
    }
    return answer;
  });
}

async function enrol(deps: Deps, request: EnrolmentRequest): Promise<Answer> {
  const { instanceId } = request;
  const now = deps.now();

  // Who: the identity document.
  const identity = verifyIdentityDocument(request.identityDocument, { issuers: deps.issuers });
  if (!identity.ok) {
    deps.logger.warn('identity document refused', { instanceId, code: identity.reason });
    return refuse('IDENTITY_REFUSED');
  }
  const { document } = identity;
  if (document.instanceId !== instanceId || document.region !== deps.region)
    return refuse('IDENTITY_FOREIGN');

  // Proof of possession of the key, over a transcript with the challenge in it.
  const spki = Buffer.from(request.agentPublicKey, 'base64');
  const key = parseAgentPublicKey(spki);
  if (!key) return refuse('ENROL_BAD_KEY');
  const nonce = Buffer.from(request.nonce, 'base64');
  const bytes = signedBytes({
    purpose: 'enrol',
    apiOrigin: deps.apiOrigin,
    accountId: document.accountId,
    region: document.region,
    instanceId,
    nonce,
    agentPublicKey: spki,
  });
  if (!verifyAgentSignature(key, bytes, Buffer.from(request.signature, 'base64'))) {
    return refuse('ENROL_BAD_SIGNATURE');
  }

  // Fresh: the challenge is consumed by one conditional write; only what it was good for is read afterwards.
  const want = { instanceId, purpose: 'enrol', now };
  const pk = challengeKey(nonce);
  if (!(await consumeChallenge(deps.table, pk, want))) {
    const challenge = (await getItems(deps.table, [pk], challengeItem)).get(pk);
    return refuse(challengeRefusal(challenge, want) ?? 'CHALLENGE_USED');
  }

  const enrolKey = `enrol#${instanceId}`;
  const [vms, enrolments, operators] = await Promise.all([
    getItems(deps.table, [`vm#${instanceId}`], vmItem),
    getItems(deps.table, [enrolKey], enrolItem),
    getItems(deps.table, [`operator#${instanceId}`], operatorItem),
  ]);
  const vm = vms.get(`vm#${instanceId}`);
  if (vm && vm.observation.accountId !== document.accountId) return refuse('IDENTITY_FOREIGN');
  const volumeIds = vm?.observation.volumes.map((volume) => volume.id) ?? [];
  const disks = await readDisks(deps.table, volumeIds);
  const decision = decideEnrolment({
    vm,
    enrolment: enrolments.get(enrolKey),
    publicKey: request.agentPublicKey,
    disks: volumeIds.flatMap((id) => disks.get(id) ?? []),
    operator: operators.get(`operator#${instanceId}`),
    now,
  });
  switch (decision.kind) {
    case 'refuse':
      return decision;
    case 'already-enrolled':
      return { kind: 'ok', status: 200, body: { status: 'already-enrolled', instanceId } };
    case 'enrol':
      try {
        await putVersioned(deps.table, enrolKey, decision.replaces?.version, {
          instanceId,
          publicKey: request.agentPublicKey,
          enrolledAt: now.toISOString(),
        });
      } catch (error) {
        if (!(error instanceof VersionConflictError)) throw error;
        // Two first enrolments at once: one won, and only one of them can be the VM. With the same key they
        // are the same agent, that did not wait for its answer.
        const winner = (await getItems(deps.table, [enrolKey], enrolItem)).get(enrolKey);
        if (winner?.publicKey !== request.agentPublicKey) return refuse('ENROL_OTHER_KEY');
        return { kind: 'ok', status: 200, body: { status: 'already-enrolled', instanceId } };
      }
      deps.metrics.addMetric('AgentEnrolled', MetricUnit.Count, 1);
      return { kind: 'ok', status: 201, body: { status: 'enrolled', instanceId } };
  }
}

function refuse(reason: Reason): Answer {
  return { kind: 'refuse', reason, retryable: false };
}
