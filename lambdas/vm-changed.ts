import { type Envelope, type Parsed, parseDetail } from '../lib/domain/envelope.ts';
import { type EventDetail, SOURCE, vmChanged } from '../lib/domain/events.ts';

/** Understands `VM Changed`, or says that no other event belongs here. */
export function parseVmChanged(event: Envelope): Parsed<EventDetail<'VM Changed'>> {
  if (event.source === SOURCE && event['detail-type'] === 'VM Changed') return parseDetail(event, vmChanged);
  return {
    kind: 'reject',
    reason: 'EVENT_UNKNOWN',
    detail: `${event.source} / ${event['detail-type']}`.slice(0, 200),
  };
}
