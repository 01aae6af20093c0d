import { describe, expect, test } from '@jest/globals';
import {
  CHUNK_BYTES,
  type IngestHeader,
  type IngestImage,
  type IngestTarget,
  parseJournal,
  planIngest,
} from '../../lib/domain/ingest.ts';

const image: IngestImage = { path: '/a.raw', format: 'raw', bytes: 8 * CHUNK_BYTES, file: '1:2 3 4' };
const target: IngestTarget = {
  path: '/dev/mapper/data',
  id: 'CRYPT-LUKS2-0-data',
  bytes: 8 * CHUNK_BYTES,
  encrypted: true,
  signatures: [],
};
const header: IngestHeader = {
  schema: 'casemate.ingest/2',
  image,
  target: target.id,
  chunkBytes: CHUNK_BYTES,
};
const none = { replace: [], unencrypted: false, restart: false };
const plan = (facts: Partial<Parameters<typeof planIngest>[0]> = {}) =>
  planIngest({ image, target, journal: undefined, order: none, ...facts });

describe('an image and its target', () => {
  test('that fit are copied from the beginning', () => {
    expect(plan()).toEqual({ kind: 'copy', from: 0 });
  });

  test('are refused when the image is a byte too large, also with every flag', () => {
    const order = { replace: ['ext4'], unencrypted: true, restart: true };
    expect(plan({ image: { ...image, bytes: target.bytes + 1 }, order })).toMatchObject({
      kind: 'refuse',
      reason: 'INGEST_DOES_NOT_FIT',
    });
  });

  test('are refused when the target writes what it is given in clear, unless that is asked for', () => {
    const plain = { ...target, encrypted: false };
    expect(plan({ target: plain })).toMatchObject({ kind: 'refuse', reason: 'INGEST_UNENCRYPTED' });
    expect(plan({ target: plain, order: { ...none, unencrypted: true } })).toEqual({ kind: 'copy', from: 0 });
  });

  test('are refused while one signature of the target is not named', () => {
    const full = { ...target, signatures: ['gpt', 'ext4'] };
    const refused = { kind: 'refuse', reason: 'INGEST_TARGET_NOT_EMPTY', detail: 'it carries ext4' };
    expect(plan({ target: full, order: { ...none, replace: ['gpt', 'xfs'] } })).toEqual(refused);
    expect(plan({ target: full, order: { ...none, replace: ['ext4', 'gpt'] } })).toEqual({
      kind: 'copy',
      from: 0,
    });
  });

  test('go on after a kill, over the signatures that the first part of the image brought', () => {
    const journal = { header, chunks: 5 };
    expect(plan({ journal, target: { ...target, signatures: ['gpt'] } })).toEqual({ kind: 'copy', from: 5 });
  });

  test.each([
    ['the image was written to since', { image: { ...image, file: '1:2 3 5' } }],
    ['it is another format', { image: { ...image, format: 'qcow2' as const } }],
    ['it is another target', { target: { ...target, id: 'CRYPT-LUKS2-1-data' } }],
  ])('do not go on when %s', (_, changed) => {
    const journal = { header, chunks: 5 };
    expect(plan({ journal, ...changed })).toMatchObject({ kind: 'refuse', reason: 'INGEST_OTHER_IMAGE' });
    expect(plan({ journal, ...changed, order: { ...none, restart: true } })).toEqual({
      kind: 'copy',
      from: 0,
    });
  });
});

describe('the journal', () => {
  const head = `${JSON.stringify(header)}\n`;

  test('says how far the copy got', () => {
    const text = `${head}3\n7\n8\n`;
    expect(parseJournal(text)).toEqual({ header, chunks: 8, length: text.length });
    expect(parseJournal(head)).toEqual({ header, chunks: 0, length: head.length });
  });

  test.each([
    ['a cut line', '7'],
    ['bytes that a crash left', '\0\0\0\n7\n'],
    ['a count that goes back', '2\n7\n'],
    ['a count that stands still', '3\n'],
    ['a count of more than the image has', '9\n'],
    ['a count that is no number', '0x7\n'],
  ])('counts up to %s and not beyond', (_, rest) => {
    const whole = `${head}3\n`;
    expect(parseJournal(whole + rest)).toEqual({ header, chunks: 3, length: whole.length });
  });

  test.each([
    ['', 'nothing'],
    ['{"schema":"casemate.ingest/2"', 'half a header'],
    ['{"schema":"casemate.ingest/1"}\n', 'another version'],
  ])('that holds %j is none (%s)', (text) => {
    expect(parseJournal(text)).toBeUndefined();
  });
});
