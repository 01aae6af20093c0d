import { EvidenceError, type ReasonCode } from './reasons.ts';

/**
 * Reads JSON in UTF-8, strictly: no byte order mark, and no member said twice or swallowed (`__proto__`), which
 * JSON.parse lets pass, so that what a person sees in the file is what counts.
 *
 * @param code what to refuse it with when it is not JSON at all
 * @throws EvidenceError
 */
export function parseJson(bytes: Uint8Array, code: ReasonCode): unknown {
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw new EvidenceError(code, 'not JSON in UTF-8', { cause });
  }
  // It is JSON, so a string before a colon is the name of a member.
  const names = [...text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)].filter(([, colon]) => colon !== undefined);
  if (names.length !== countMembers(json)) {
    throw new EvidenceError('JSON_DUPLICATE_KEY', 'a member is there twice');
  }
  return json;
}

/** How many members there are in all that a schema can see. */
function countMembers(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const own = Array.isArray(value) ? 0 : Object.keys(value).filter((name) => name !== '__proto__').length;
  return Object.values(value).reduce((sum: number, each) => sum + countMembers(each), own);
}

/** How many values there are in all; stops at `most`. */
export function countValues(value: unknown, most: number): number {
  if (typeof value !== 'object' || value === null) return 1;
  let count = 1;
  for (const each of Object.values(value)) {
    count += countValues(each, most - count);
    if (count >= most) break;
  }
  return count;
}
