import {
  type EventBridgeClient,
  PutEventsCommand,
  type PutEventsRequestEntry,
} from '@aws-sdk/client-eventbridge';
import { type CasemateEvent, SOURCE } from '../../lib/domain/events.ts';

/** The bus did not take an event. Retryable. */
export class AnnounceError extends Error {
  override readonly name = 'AnnounceError';
}

/** PutEvents takes at most ten entries: https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html */
const ENTRIES_MAX = 10;

export type Announce = (event: CasemateEvent) => Promise<void>;

/**
 * Puts events on the Casemate bus. Events that are announced in the same turn share calls of ten; each
 * promise settles by its own entry's answer.
 */
export function createAnnouncer(client: EventBridgeClient, busName: string): Announce {
  interface Waiting {
    readonly entry: PutEventsRequestEntry;
    readonly resolve: () => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Waiting[] = [];

  const flush = async (batch: readonly Waiting[]): Promise<void> => {
    try {
      const answer = await client.send(new PutEventsCommand({ Entries: batch.map((w) => w.entry) }));
      batch.forEach(({ resolve, reject, entry }, i) => {
        const result = answer.Entries?.[i];
        if (result?.EventId && !result.ErrorCode) resolve();
        else
          reject(new AnnounceError(`${entry.DetailType}: ${result?.ErrorCode ?? 'no answer for the entry'}`));
      });
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  };

  return ({ detailType, detail }) =>
    new Promise((resolve, reject) => {
      if (waiting.length === 0) {
        setImmediate(() => {
          const all = waiting;
          waiting = [];
          for (let i = 0; i < all.length; i += ENTRIES_MAX) void flush(all.slice(i, i + ENTRIES_MAX));
        });
      }
      waiting.push({
        entry: {
          EventBusName: busName,
          Source: SOURCE,
          DetailType: detailType,
          Detail: JSON.stringify(detail),
          Resources: [],
        },
        resolve,
        reject,
      });
    });
}
