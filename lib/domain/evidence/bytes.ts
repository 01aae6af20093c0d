import { createHash, timingSafeEqual } from 'node:crypto';
import { EvidenceError } from './reasons.ts';

/** Constant-time comparison; different lengths are simply unequal. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && timingSafeEqual(a, b);
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

export function sha256(...parts: readonly Uint8Array[]): Buffer {
  return digest('sha256', ...parts);
}

export function digest(algorithm: 'sha256' | 'sha384' | 'sha512', ...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** Refuses what cannot be of the format before anything looks inside it. */
export function requireSize(bytes: { readonly length: number }, maxBytes: number): void {
  if (bytes.length === 0) throw new EvidenceError('INPUT_EMPTY', 'there are no bytes');
  if (bytes.length > maxBytes) {
    throw new EvidenceError('INPUT_TOO_LARGE', `${bytes.length} bytes, at most ${maxBytes} are possible`);
  }
}

/**
 * Strict base64 (RFC 4648 §4) in lines: standard alphabet, padding required and zero, lines ended by LF or
 * CRLF, at most one empty line end. Node's own decoder skips what it does not know, which would let one
 * document have many spellings.
 */
export function decodeBase64Lines(text: string): Buffer {
  const joined = text.replace(/\r?\n/g, '');
  if (/\n\r?\n/.test(text) || joined.length === 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(joined)) {
    throw new EvidenceError('BASE64_INVALID', 'a character or an empty line that base64 does not have');
  }
  const bytes = Buffer.from(joined, 'base64');
  if (bytes.toString('base64') !== joined) {
    throw new EvidenceError('BASE64_INVALID', 'wrong padding');
  }
  return bytes;
}
