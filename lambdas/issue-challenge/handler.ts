import {
  CHALLENGE_BYTES,
  CHALLENGE_SECONDS,
  type ChallengeItem,
  challengeKey,
  challengeRequest,
} from '../../lib/domain/enrolment.ts';
import { type ApiDeps, createApiHandler } from '../api-function.ts';
import { create, type Table } from '../aws/dynamodb.ts';

export interface Deps extends ApiDeps {
  readonly table: Table;
  readonly now: () => Date;
  readonly randomBytes: (length: number) => Buffer;
}

/** Gives a VM 32 fresh bytes to sign, for one purpose, one use, one minute. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, challengeRequest, async ({ instanceId, purpose }) => {
    const nonce = deps.randomBytes(CHALLENGE_BYTES);
    const expiresAtMs = deps.now().getTime() + CHALLENGE_SECONDS * 1000;
    const item: ChallengeItem = {
      // Stored as its hash: who can read the table cannot answer for a VM.
      pk: challengeKey(nonce),
      instanceId,
      purpose,
      used: false,
      expiresAtMs,
      // The table's TTL only tidies up, hours late at times; what decides is expiresAtMs.
      expiresAt: Math.ceil(expiresAtMs / 1000) + 3600,
    };
    await create(deps.table, item);
    return {
      kind: 'ok',
      status: 201,
      body: { nonce: nonce.toString('base64'), expiresAt: new Date(expiresAtMs).toISOString() },
    };
  });
}
