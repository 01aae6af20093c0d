import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import * as z from 'zod';
import { MAX_EVENT_BYTES, parseDetail, parseEnvelope } from '../../lib/domain/envelope.ts';

const event = { id: 'e-1', source: 'casemate', 'detail-type': 'VM Changed', detail: { a: 1 } };

describe('a queue message', () => {
  test('that is an EventBridge event is opened, with all that stands beside its detail', () => {
    const whole = { version: '0', ...event, resources: ['arn:x'] };
    expect(parseEnvelope(JSON.stringify(whole))).toEqual({ kind: 'ok', value: whole });
  });

  test.each(['', '{', 'nonsense', '{"a":}'])('that is not JSON is rejected as such: %j', (body) => {
    expect(parseEnvelope(body)).toMatchObject({ kind: 'reject', reason: 'EVENT_NOT_JSON' });
  });

  test.each([
    'null',
    '1',
    '[]',
    '{}',
    JSON.stringify({ ...event, source: 1 }),
    JSON.stringify({ ...event, 'detail-type': undefined }),
    JSON.stringify({ ...event, detail: 'text' }),
    JSON.stringify({ ...event, detail: [] }),
  ])('that is no event is rejected as malformed: %j', (body) => {
    expect(parseEnvelope(body)).toMatchObject({ kind: 'reject', reason: 'EVENT_MALFORMED' });
  });

  test('is measured in bytes, not in characters, and to the byte', () => {
    const sized = (bytes: number, filler: string) => {
      const frame = JSON.stringify({ ...event, detail: { a: '' } });
      const room = bytes - Buffer.byteLength(frame);
      const each = Buffer.byteLength(filler);
      return frame.replace('""', `"${filler.repeat(room / each)}${'x'.repeat(room % each)}"`);
    };
    for (const filler of ['x', 'é', '€']) {
      expect(parseEnvelope(sized(MAX_EVENT_BYTES, filler)).kind).toBe('ok');
      expect(parseEnvelope(sized(MAX_EVENT_BYTES + 1, filler))).toEqual({
        kind: 'reject',
        reason: 'EVENT_TOO_LARGE',
        detail: `${MAX_EVENT_BYTES + 1} bytes`,
      });
    }
  });

  test('never makes it throw', () => {
    void fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (body) => {
        expect(['ok', 'reject']).toContain(parseEnvelope(body).kind);
      }),
    );
  });
});

test('a detail that does not fit its schema is rejected, and says where', () => {
  expect(parseDetail(event, z.strictObject({ a: z.string() }))).toEqual({
    kind: 'reject',
    reason: 'EVENT_MALFORMED',
    detail: expect.stringContaining('at a'),
  });
  expect(parseDetail(event, z.strictObject({ a: z.number() }))).toEqual({ kind: 'ok', value: { a: 1 } });
});
