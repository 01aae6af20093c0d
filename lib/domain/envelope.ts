import * as z from 'zod';
import type { Reason } from './reasons.ts';

/** The largest EventBridge entry, which is also the largest SQS message that a rule makes. */
export const MAX_EVENT_BYTES = 256 * 1024;

/** The envelope that EventBridge puts around every event. */
export const envelope = z.looseObject({
  id: z.string().optional(),
  source: z.string(),
  'detail-type': z.string(),
  detail: z.record(z.string(), z.unknown()),
});
export type Envelope = z.infer<typeof envelope>;

export type Parsed<T> =
  | { readonly kind: 'ok'; readonly value: T }
  | { readonly kind: 'reject'; readonly reason: Reason; readonly detail: string };

/** Opens a queue message that should be an EventBridge event. */
export function parseEnvelope(body: string): Parsed<Envelope> {
  if (Buffer.byteLength(body) > MAX_EVENT_BYTES) {
    return { kind: 'reject', reason: 'EVENT_TOO_LARGE', detail: `${Buffer.byteLength(body)} bytes` };
  }
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch (error) {
    return { kind: 'reject', reason: 'EVENT_NOT_JSON', detail: error instanceof Error ? error.message : '' };
  }
  const parsed = envelope.safeParse(json);
  return parsed.success
    ? { kind: 'ok', value: parsed.data }
    : { kind: 'reject', reason: 'EVENT_MALFORMED', detail: z.prettifyError(parsed.error) };
}

/** Parses the detail of an envelope with the schema of its detail type. */
export function parseDetail<T>(event: Envelope, schema: z.ZodType<T>): Parsed<T> {
  const parsed = schema.safeParse(event.detail);
  return parsed.success
    ? { kind: 'ok', value: parsed.data }
    : { kind: 'reject', reason: 'EVENT_MALFORMED', detail: z.prettifyError(parsed.error) };
}
