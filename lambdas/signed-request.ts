import { challengeItem, challengeKey, challengeRefusal } from '../lib/domain/enrolment.ts';
import type { Reason } from '../lib/domain/reasons.ts';
import { enrolItem } from '../lib/domain/report.ts';
import { parseAgentPublicKey, verifyAgentSignature } from '../lib/domain/signature.ts';
import { type Purpose, signedBytes, transcript } from '../lib/domain/transcript.ts';
import { type VmItem, vmItem } from '../lib/domain/vm.ts';
import { consumeChallenge, getItems, getKinds, type Table } from './aws/dynamodb.ts';

export interface SignedDeps {
  readonly table: Table;
  readonly apiOrigin: string;
  readonly now: () => Date;
}

/** What every request about disks carries. */
export interface SignedRequest {
  readonly instanceId: string;
  readonly nonce: string;
  readonly signature: string;
}

/** What the signature has to be about. */
export interface SignedOver {
  readonly purpose: Purpose;
  readonly disk?: string;
  readonly generation?: number;
  readonly ephemeralPublicKey?: Uint8Array;
  readonly payload?: string;
}

export type Proof =
  | { readonly kind: 'ok'; readonly vm: VmItem; readonly transcript: Buffer; readonly now: Date }
  | { readonly kind: 'refuse'; readonly reason: Reason; readonly retryable: boolean };

/**
 * Proves that the enrolled key of the VM signed this very request, freshly: the signature first, so that
 * nobody else can use up a challenge, and then the challenge, by one conditional write.
 */
export async function proveRequest(
  deps: SignedDeps,
  request: SignedRequest,
  over: SignedOver,
): Promise<Proof> {
  const { instanceId } = request;
  const { payload, ...parts } = over;
  const items = await getKinds(deps.table, [instanceId], { vm: vmItem, enrol: enrolItem });
  const vm = items.vm.get(`vm#${instanceId}`);
  const enrolment = items.enrol.get(`enrol#${instanceId}`);
  if (!vm) return refuse('REQUEST_UNKNOWN_VM', true);
  if (!enrolment) return refuse('NOT_ENROLLED');
  const agentPublicKey = Buffer.from(enrolment.publicKey, 'base64');
  const key = parseAgentPublicKey(agentPublicKey);
  const nonce = Buffer.from(request.nonce, 'base64');
  const signedParts = {
    ...parts,
    apiOrigin: deps.apiOrigin,
    accountId: vm.observation.accountId,
    region: vm.observation.region,
    instanceId,
    nonce,
    agentPublicKey,
  };
  const signature = Buffer.from(request.signature, 'base64');
  if (!key || !verifyAgentSignature(key, signedBytes(signedParts, payload), signature))
    return refuse('REQUEST_BAD_SIGNATURE');

  const now = deps.now();
  const want = { instanceId, purpose: over.purpose, now };
  const pk = challengeKey(nonce);
  if (!(await consumeChallenge(deps.table, pk, want))) {
    const challenge = (await getItems(deps.table, [pk], challengeItem)).get(pk);
    return refuse(challengeRefusal(challenge, want) ?? 'CHALLENGE_USED');
  }
  return { kind: 'ok', vm, transcript: transcript(signedParts), now };
}

function refuse(reason: Reason, retryable = false): Proof {
  return { kind: 'refuse', reason, retryable };
}
