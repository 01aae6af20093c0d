import { createHash } from 'node:crypto';
import * as z from 'zod';
import type { AmdAuthority, AmdCollateral } from './evidence/snp/collateral.ts';

/**
 * The `collateral#` items: CA certificates (ASK or ASVK, ARK), of one authority of AMD or as they verified one
 * VLEK or VCEK. They are verified anew each time; that they are kept only spares every agent sending them, and
 * the pipeline asking AMD's server while a VM waits.
 */
export const collateralItem = z.strictObject({
  pk: z.string(),
  certificates: z.array(z.base64()).max(4),
  /** Epoch seconds; the table's TTL. */
  expiresAt: z.number(),
  version: z.number().optional(),
});

export type CollateralItem = z.infer<typeof collateralItem>;

/** AMD's revocation list of one authority, as last fetched; it expires when AMD says so. */
export const revocationListItem = z.strictObject({
  pk: z.string(),
  crl: z.base64(),
  /** ISO 8601 UTC: an older list never takes the place of a newer one. */
  thisUpdate: z.iso.datetime(),
  expiresAt: z.number(),
  version: z.number(),
});

export type RevocationListItem = z.infer<typeof revocationListItem>;

/** Shorter than any VLEK lives (a year), long enough to hold between reports of a fleet. */
export const COLLATERAL_SECONDS = 7 * 86_400;

/** @param leaf the leaf certificate, base64 */
export function collateralKey(leaf: string): string {
  return `collateral#${createHash('sha256').update(Buffer.from(leaf, 'base64')).digest('hex')}`;
}

export function authorityKey({ kind, product }: AmdAuthority): string {
  return `collateral#${kind}/${product}`;
}

export function revocationListKey({ kind, product }: AmdAuthority): string {
  return `collateral#${kind}/${product}/crl`;
}

/** The two items of what was fetched of AMD. */
export function collateralItems(
  authority: AmdAuthority,
  { certificates, notAfter, crl, list }: AmdCollateral,
  now: Date,
): {
  readonly chain: Omit<CollateralItem, 'version'>;
  readonly list: Omit<RevocationListItem, 'version'>;
} {
  return {
    chain: {
      pk: authorityKey(authority),
      certificates: certificates.map((der) => Buffer.from(der).toString('base64')),
      expiresAt: Math.min(seconds(now) + COLLATERAL_SECONDS, seconds(notAfter)),
    },
    list: {
      pk: revocationListKey(authority),
      crl: Buffer.from(crl).toString('base64'),
      thisUpdate: list.thisUpdate.toISOString(),
      expiresAt: seconds(list.nextUpdate),
    },
  };
}

/** What is kept, while it holds: DynamoDB removes what has expired only some time after. */
export function unexpired<Item extends { readonly expiresAt: number }>(
  item: Item | undefined,
  now: Date,
): Item | undefined {
  return item && item.expiresAt * 1000 > now.getTime() ? item : undefined;
}

function seconds(date: Date): number {
  return Math.floor(date.getTime() / 1000);
}
