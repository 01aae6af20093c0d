import { EvidenceError, type ReasonCode } from './reasons.ts';

/** Takes fixed pieces off the front of bytes, and never reads past their end. */
export interface Reader {
  readonly offset: () => number;
  readonly remaining: () => number;
  readonly bytes: (length: number) => Uint8Array;
  /** Unsigned integers of 1, 2 or 4 bytes in the reader's byte order. */
  readonly uint: (size: 1 | 2 | 4) => number;
  readonly uint64: () => bigint;
  /** Refuses what is left over. */
  readonly end: () => void;
}

/** Reads `bytes` in one byte order; running short or over is `code`. */
export function createReader(bytes: Uint8Array, order: 'little' | 'big', code: ReasonCode): Reader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = order === 'little';
  let position = 0;
  const take = (length: number): number => {
    if (length > bytes.length - position) {
      throw new EvidenceError(
        code,
        `${length} bytes expected at ${position}, ${bytes.length - position} left`,
      );
    }
    position += length;
    return position - length;
  };
  return {
    offset: () => position,
    remaining: () => bytes.length - position,
    bytes: (length) => {
      const start = take(length);
      return bytes.subarray(start, start + length);
    },
    uint: (size) => {
      const start = take(size);
      if (size === 1) return view.getUint8(start);
      return size === 2 ? view.getUint16(start, little) : view.getUint32(start, little);
    },
    uint64: () => view.getBigUint64(take(8), little),
    end: () => {
      if (position !== bytes.length) {
        throw new EvidenceError(code, `${bytes.length - position} bytes too many`);
      }
    },
  };
}
