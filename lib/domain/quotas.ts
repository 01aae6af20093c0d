import * as z from 'zod';
import { unexpired } from './collateral.ts';

/** How many security groups an interface takes, and how many rules a group takes in each direction. */
export const limits = z.strictObject({
  groupsPerInterface: z.number().int().min(1),
  rulesPerGroup: z.number().int().min(1),
});
export type Limits = z.infer<typeof limits>;

/** Of an account for which nobody raised a quota: https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html */
export const DEFAULT_LIMITS: Limits = { groupsPerInterface: 5, rulesPerGroup: 60 };

/** What no quota is raised beyond (same page). One multiplied by the other is at most `RULES_PER_INTERFACE`. */
export const MOST_GROUPS_PER_INTERFACE = 16;
export const RULES_PER_INTERFACE = 1000;

/** The one item of the quotas of this account and Region. */
export const QUOTA_PK = 'quota#security-groups';

/** As Service Quotas said last. */
export const quotaItem = limits.extend({
  pk: z.string(),
  version: z.number().int(),
  /** Epoch seconds; the table's TTL. */
  expiresAt: z.number(),
});
export type QuotaItem = z.infer<typeof quotaItem>;

/** A reading counts for a day, in which it is repeated every hour. */
export const QUOTA_SECONDS = 86_400;

export function quotaItemOf(read: Limits, now: Date): Omit<QuotaItem, 'pk' | 'version'> {
  return { ...read, expiresAt: Math.floor(now.getTime() / 1000) + QUOTA_SECONDS };
}

/** As the file of profiles has it. */
export type StatedLimits = { readonly [Of in keyof Limits]?: Limits[Of] | undefined };

/**
 * What counts when groups are composed: the quotas as they were last read, AWS's defaults where they were not read
 * lately or the item is not what it should be, and never more than the file of profiles states or AWS ever allows.
 *
 * @param stated by the file of profiles
 * @param kept the quota item, as it stands in the table
 */
export function limitsInForce(stated: StatedLimits, kept: unknown, now: Date): Limits {
  const read = quotaItem.safeParse(kept);
  const known = (read.success ? unexpired(read.data, now) : undefined) ?? DEFAULT_LIMITS;
  const groupsPerInterface = Math.min(
    known.groupsPerInterface,
    stated.groupsPerInterface ?? MOST_GROUPS_PER_INTERFACE,
    MOST_GROUPS_PER_INTERFACE,
  );
  const rulesPerGroup = Math.min(
    known.rulesPerGroup,
    stated.rulesPerGroup ?? RULES_PER_INTERFACE,
    Math.floor(RULES_PER_INTERFACE / groupsPerInterface),
  );
  return { groupsPerInterface, rulesPerGroup };
}

export function sameLimits(a: Limits | undefined, b: Limits): boolean {
  return a?.groupsPerInterface === b.groupsPerInterface && a.rulesPerGroup === b.rulesPerGroup;
}
