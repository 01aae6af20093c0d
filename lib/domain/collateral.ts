import { createHash } from 'node:crypto';
import * as z from 'zod';

/**
 * The `collateral#` item: CA certificates (ASK or ASVK, ARK) that verified one VLEK or VCEK. They are
 * verified anew each time; that they are kept only spares every agent sending them, and the pipeline asking
 * AMD's server.
 */
export const collateralItem = z.strictObject({
  pk: z.string(),
  certificates: z.array(z.base64()).max(4),
  /** Epoch seconds; the table's TTL. */
  expiresAt: z.number(),
});

export type CollateralItem = z.infer<typeof collateralItem>;

/** Shorter than any VLEK lives (a year), long enough to hold between reports of a fleet. */
export const COLLATERAL_SECONDS = 7 * 86_400;

/** @param leaf the leaf certificate, base64 */
export function collateralKey(leaf: string): string {
  return `collateral#${createHash('sha256').update(Buffer.from(leaf, 'base64')).digest('hex')}`;
}
