import { type MtAiValue, SequenceEvents } from 'cbor2';
import { EvidenceError, type ReasonCode } from '../reasons.ts';

/** The CBOR that attestation documents are made of; anything else is refused. */
export type CborValue = number | string | Uint8Array | null | readonly CborValue[] | CborMap;
export type CborMap = ReadonlyMap<string | number, CborValue>;

const maxDepth = 4;
const maxEntries = 64;
const indefinite = 31;

// RFC 8949 §3.1: major types.
const major = { uint: 0, bytes: 2, text: 3, array: 4, map: 5, simple: 7 } as const;
const simpleNull = 22;

/**
 * Decodes one value that fills `bytes` exactly: unsigned integers, byte and text strings, arrays, maps and
 * null, with shortest lengths and no key twice. Indefinite lengths are refused, but for one map around
 * everything when `outerMap` says so: Nitro writes its payload in both ways.
 */
export function decodeCbor(bytes: Uint8Array, outerMap: 'definite' | 'any' = 'definite'): CborValue {
  try {
    const tokens = new SequenceEvents(bytes, { maxDepth: 2 * maxDepth, requirePreferred: true });
    const value = build(tokens, 0, outerMap);
    if (tokens.read()) throw new EvidenceError('CBOR_MALFORMED', 'more than one value');
    return value;
  } catch (cause) {
    if (cause instanceof EvidenceError) throw cause;
    const detail = cause instanceof Error ? cause.message : String(cause);
    throw new EvidenceError(codeFor(detail), detail, { cause });
  }
}

/** cbor2 tells its reasons by message alone. */
function codeFor(message: string): ReasonCode {
  if (message.startsWith('Unexpectedly long')) return 'CBOR_LENGTH_NOT_MINIMAL';
  if (message.startsWith('Maximum depth')) return 'CBOR_TOO_DEEP';
  return 'CBOR_MALFORMED';
}

function build(tokens: SequenceEvents, depth: number, outerMap: 'definite' | 'any'): CborValue {
  const token = next(tokens);
  const value = buildFrom(token, tokens, depth, outerMap);
  if (value === undefined)
    throw new EvidenceError('CBOR_TYPE_UNKNOWN', `major type ${token[0]}, ${token[1]}`);
  return value;
}

function buildFrom(
  [type, info, value]: MtAiValue,
  tokens: SequenceEvents,
  depth: number,
  outerMap: 'definite' | 'any',
): CborValue | undefined {
  if (depth >= maxDepth) throw new EvidenceError('CBOR_TOO_DEEP', `more than ${maxDepth} levels`);
  if (info === indefinite && !(type === major.map && depth === 0 && outerMap === 'any')) {
    throw new EvidenceError('CBOR_INDEFINITE_LENGTH', `major type ${type}`);
  }
  switch (type) {
    case major.uint:
      return typeof value === 'number' ? value : undefined;
    case major.bytes:
      return value instanceof Uint8Array ? value : undefined;
    case major.text:
      return typeof value === 'string' ? value : undefined;
    case major.array:
      return buildArray(Number(value), tokens, depth);
    case major.map:
      return buildMap(info === indefinite ? undefined : Number(value), tokens, depth);
    case major.simple:
      return info === simpleNull ? null : undefined;
    default:
      return undefined;
  }
}

function buildArray(length: number, tokens: SequenceEvents, depth: number): CborValue {
  requireEntries(length);
  return Array.from({ length }, () => build(tokens, depth + 1, 'definite'));
}

/** Without `length`, reads until the break code, which is major type 7 with 31. */
function buildMap(length: number | undefined, tokens: SequenceEvents, depth: number): CborMap {
  const map = new Map<string | number, CborValue>();
  requireEntries(length ?? 0);
  for (let index = 0; length === undefined || index < length; index++) {
    requireEntries(index);
    const token = next(tokens);
    if (length === undefined && token[0] === major.simple && token[1] === indefinite) break;
    const key = buildFrom(token, tokens, depth + 1, 'definite');
    if (typeof key !== 'string' && typeof key !== 'number') {
      throw new EvidenceError('CBOR_TYPE_UNKNOWN', 'a key that is neither text nor number');
    }
    if (map.has(key)) throw new EvidenceError('CBOR_DUPLICATE_KEY', String(key));
    map.set(key, build(tokens, depth + 1, 'definite'));
  }
  return map;
}

function requireEntries(count: number): void {
  if (count > maxEntries) throw new EvidenceError('CBOR_MALFORMED', `more than ${maxEntries} entries`);
}

function next(tokens: SequenceEvents): MtAiValue {
  const token = tokens.read();
  if (!token) throw new EvidenceError('CBOR_MALFORMED', 'it ends too early');
  return token;
}
