import { createPublicKey } from 'node:crypto';
import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { KMSClient } from '@aws-sdk/client-kms';
import { accessDisk } from '../../lib/domain/disk-access.ts';
import { type ReleaseRequest, type ReleaseResponse, releaseRequest } from '../../lib/domain/disk-api.ts';
import { encryptionContext } from '../../lib/domain/disk-key.ts';
import { verifyNitroFor } from '../../lib/domain/evidence/binding.ts';
import type { NitroPolicy } from '../../lib/domain/evidence/nitro/index.ts';
import { isolationItem, type Mode } from '../../lib/domain/isolation.ts';
import {
  decideRelease,
  type ReleaseDecision,
  recordRelease,
  releaseItem,
} from '../../lib/domain/key-release.ts';
import { operatorItem } from '../../lib/domain/operator.ts';
import { postureItem } from '../../lib/domain/posture.ts';
import type { VmItem } from '../../lib/domain/vm.ts';
import { cedarFacts, type PolicyEngine } from '../../lib/policy/engine.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import { getKinds, readTogether, VersionConflictError } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { UnwrapRefusedError, unwrapKey, unwrapKeyForRecipient } from '../aws/kms.ts';
import { readDisks } from '../disks.ts';
import { readRecipientKey, seal } from '../sealing.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';
import { updateItem } from '../update-item.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly kms: KMSClient;
  readonly diskKeyId: string;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
  readonly mode: Mode;
  readonly evidenceMaxAgeSeconds: number;
  readonly nitroPolicy: NitroPolicy;
  /** A test hierarchy in place of AWS's root. */
  readonly nitroRoots?: readonly string[] | undefined;
}

/** Gives a disk key to the one VM that it is for, when policy says so, sealed to the agent's own key. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, releaseRequest, (request) => release(deps, request), {
    maxBodyChars: 40 * 1024,
    alike: 'RELEASE_REFUSED',
    foreign: (request, reason) => announce(deps, request, refusal(reason), false),
  });
}

async function release(deps: Deps, request: ReleaseRequest): Promise<Answer> {
  const { instanceId, disk: uuid, generation } = request;
  const point = Buffer.from(request.ephemeralPublicKey, 'base64');
  const proof = await proveRequest(deps, request, {
    purpose: 'release',
    disk: uuid,
    generation,
    ephemeralPublicKey: point,
  });
  if (proof.kind === 'refuse') {
    // Anybody on the VM can have a request refused before it is proven whose it is: it is said, and not
    // written where it would push out what was decided for the agent itself.
    await announce(deps, request, refusal(proof.reason), false);
    return proof;
  }
  const recipient = await readRecipientKey(point);
  const document = request.document === undefined ? undefined : Buffer.from(request.document, 'base64');
  const decision = !recipient
    ? refusal('EPHEMERAL_KEY_INVALID')
    : document && !isForRecipient(deps, document, proof)
      ? refusal('DOCUMENT_REFUSED')
      : await decide(deps, request, proof.vm, proof.now);

  // Written down, then said, then given: there is no release that nobody can see, and the key is in memory
  // for the shortest time.
  await record(deps, request, decision, proof.now);
  await announce(deps, request, decision, true);
  if (decision.kind === 'refuse' || !recipient) return refused;
  // The context is the authenticated caller's and the request's, never the stored item's: a wrong row cannot
  // be unwrapped for the wrong VM.
  const context = encryptionContext(uuid, generation, instanceId);
  const { wrappedKey, escrows } = decision.generation;
  let key: Uint8Array;
  try {
    key = document
      ? await unwrapKeyForRecipient(deps.kms, deps.diskKeyId, wrappedKey, context, document)
      : await unwrapKey(deps.kms, deps.diskKeyId, wrappedKey, context);
  } catch (error) {
    if (!(error instanceof UnwrapRefusedError)) throw error;
    deps.logger.error('the stored key does not unwrap', { instanceId, disk: uuid, generation, error });
    const found = refusal('KEY_NOT_UNWRAPPED');
    await record(deps, request, found, proof.now);
    await announce(deps, request, found, true);
    return refused;
  }
  try {
    const { enc, ciphertext } = await seal(recipient, proof.transcript, key);
    deps.metrics.addMetric('DiskKeyReleased', MetricUnit.Count, 1);
    const body: ReleaseResponse = {
      disk: uuid,
      generation,
      enc: enc.toString('base64'),
      ciphertext: ciphertext.toString('base64'),
      forRecipient: document !== undefined,
      escrow: escrows?.[0]?.sealed ?? null,
    };
    return { kind: 'ok', status: 200, body };
  } finally {
    key.fill(0);
  }
}

/** What a release hangs on beside VM and disk. */
const DECIDED_BY = { posture: postureItem, isolation: isolationItem, operator: operatorItem };

async function decide(deps: Deps, request: ReleaseRequest, vm: VmItem, now: Date): Promise<ReleaseDecision> {
  const { instanceId, disk: uuid, generation } = request;
  const keys = Object.keys(DECIDED_BY).map((kind) => `${kind}#${instanceId}`);
  const [disks, { items, moved }] = await Promise.all([
    readDisks(
      deps.table,
      vm.observation.volumes.map((volume) => volume.id),
    ),
    readTogether(deps.table, keys, () => getKinds(deps.table, [instanceId], DECIDED_BY)),
  ]);
  const [written] = moved;
  if (written) throw new VersionConflictError(written);
  const access = accessDisk(vm, uuid, disks.get);
  if (access.kind === 'refuse') return refusal(access.reason);
  const { disk, volume } = access;
  return decideRelease(
    {
      vm,
      disk,
      generation,
      posture: items.posture.get(`posture#${instanceId}`),
      isolation: items.isolation.get(`isolation#${instanceId}`),
      operator: items.operator.get(`operator#${instanceId}`),
      mode: deps.mode,
      evidenceMaxAgeSeconds: deps.evidenceMaxAgeSeconds,
      now,
    },
    ({ facts, ...context }) => {
      const decision = deps.policy.decide(
        'ReleaseKey',
        vm.observation,
        { type: 'Disk', id: uuid, sizeGiB: volume.sizeGiB },
        { facts: cedarFacts(facts), ...context },
      );
      if (decision.errors.length > 0)
        deps.logger.error('policy failed', { instanceId, disk: uuid, errors: decision.errors });
      return decision;
    },
  );
}

/**
 * Whether KMS may seal the key to the RSA key of this document: one that this very VM's NitroTPM made for this very
 * request. KMS itself ignores user data, so a document of another request would do for it.
 */
function isForRecipient(
  deps: Deps,
  document: Uint8Array,
  proof: { readonly vm: VmItem; readonly transcript: Buffer; readonly now: Date },
): boolean {
  const { instanceId, region } = proof.vm.observation;
  const policy = { ...deps.nitroPolicy, kinds: ['nitrotpm'] as const };
  const verdict = verifyNitroFor(
    { transcript: proof.transcript, instanceId, region, at: proof.now },
    { document, policy, roots: deps.nitroRoots },
  );
  if (!verdict.accepted || !verdict.claims) {
    deps.logger.warn('document refused', { instanceId, reasons: verdict.reasons });
    return false;
  }
  return isRsa2048(verdict.claims.publicKey);
}

/** A key that KMS takes as a recipient's: RSA of 2048 bits, SPKI DER, hex. */
function isRsa2048(hex: string | null): boolean {
  try {
    const key = createPublicKey({ key: Buffer.from(hex ?? '', 'hex'), format: 'der', type: 'spki' });
    return key.asymmetricKeyType === 'rsa' && key.asymmetricKeyDetails?.modulusLength === 2048;
  } catch {
    return false; // no public key
  }
}

const refused: Answer = { kind: 'refuse', reason: 'RELEASE_REFUSED', retryable: false };

function refusal(reason: string): ReleaseDecision {
  return { kind: 'refuse', reasons: [reason], policies: [] };
}

function outcomeOf(decision: ReleaseDecision): 'released' | 'refused' {
  return decision.kind === 'release' ? 'released' : 'refused';
}

async function record(
  deps: Deps,
  request: ReleaseRequest,
  decision: ReleaseDecision,
  now: Date,
): Promise<void> {
  const { instanceId, disk, generation } = request;
  const { reasons, policies } = decision;
  const entry = {
    at: now.toISOString(),
    disk,
    generation,
    outcome: outcomeOf(decision),
    mode: deps.mode,
    reasons: [...reasons],
    policies: [...policies],
  };
  const marked = decision.kind === 'release' && decision.marked;
  await updateItem(deps.table, `release#${instanceId}`, releaseItem, (known) =>
    recordRelease(known, instanceId, entry, marked),
  );
}

async function announce(
  deps: Deps,
  request: ReleaseRequest,
  decision: ReleaseDecision,
  authenticated: boolean,
): Promise<void> {
  const { instanceId, disk, generation } = request;
  const { reasons, policies } = decision;
  const outcome = outcomeOf(decision);
  deps.logger.info('key release decided', { instanceId, disk, generation, outcome, reasons });
  await deps.announce({
    detailType: 'Key Release Decided',
    detail: {
      schemaVersion: 1,
      instanceId,
      at: deps.now().toISOString(),
      disk,
      generation,
      outcome,
      mode: deps.mode,
      authenticated,
      reasons: [...reasons],
      policies: [...policies],
    },
  });
}
