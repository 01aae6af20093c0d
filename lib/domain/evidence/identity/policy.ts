import type { Checklist } from '../verdict.ts';
import type { IdentityDocument } from './bytes.ts';

/** Whom the document must name; what is left out is not asked for. */
export interface IdentityPolicy {
  readonly region?: string | undefined;
  readonly accountId?: string | undefined;
  readonly instanceId?: string | undefined;
}

const demands = [
  ['region', 'Region', 'IDENTITY_REGION_MISMATCH'],
  ['accountId', 'account', 'IDENTITY_ACCOUNT_MISMATCH'],
  ['instanceId', 'instance', 'IDENTITY_INSTANCE_MISMATCH'],
] as const;

/**
 * A genuine document is a bearer token of whichever VM it names: it carries no nonce and does not expire
 * (PROTOCOL.md, what evidence proves), so the caller says whom it expects.
 */
export function judgeIdentity(document: IdentityDocument, policy: IdentityPolicy, checks: Checklist): void {
  for (const [field, name, reason] of demands) {
    const expected = policy[field];
    if (expected === undefined) checks.skip(name, 'none is expected');
    else
      checks.expect(name, document[field] === expected, reason, `${document[field]}, expected ${expected}`);
  }
}
