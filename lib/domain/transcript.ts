import { createHash } from 'node:crypto';

/** What a signature is for. A signature for one purpose never verifies for another. */
export type Purpose = 'enrol' | 'report' | 'release' | 'confirm' | 'recover' | 'rotate';

/** The parts of the transcript, in the order in which they are hashed. Absent parts are empty. */
export interface TranscriptParts {
  readonly purpose: Purpose;
  /** Scheme, host and port of the API, from the agent's own configuration alone. */
  readonly apiOrigin: string;
  readonly accountId: string;
  readonly region: string;
  readonly instanceId: string;
  readonly disk?: string;
  readonly generation?: number;
  /** The challenge, 32 bytes. */
  readonly nonce?: Uint8Array;
  /** SPKI DER of the agent's signing key. */
  readonly agentPublicKey: Uint8Array;
  /** SPKI DER or raw KEM key, for release. */
  readonly ephemeralPublicKey?: Uint8Array;
}

const LABEL = 'casemate/1';

/**
 * T of PROTOCOL.md: SHA-512 over the label and ten parts, each prefixed with its length as a 32-bit
 * big-endian number, so that no two different lists of parts hash the same bytes. 64 bytes, which is
 * exactly an SNP `report_data`.
 */
export function transcript(parts: TranscriptParts): Buffer {
  const hash = createHash('sha512');
  const fields: (string | Uint8Array)[] = [
    LABEL,
    parts.purpose,
    parts.apiOrigin,
    parts.accountId,
    parts.region,
    parts.instanceId,
    parts.disk ?? '',
    parts.generation === undefined ? '' : String(parts.generation),
    parts.nonce ?? '',
    parts.agentPublicKey,
    parts.ephemeralPublicKey ?? '',
  ];
  for (const field of fields) {
    const bytes = typeof field === 'string' ? Buffer.from(field, 'utf8') : field;
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    hash.update(length).update(bytes);
  }
  return hash.digest();
}

/**
 * What the agent's key signs: T, and behind it SHA-512 of the payload when there is one. T has no part
 * for a report's content, so T alone would let a signature be moved to another report
 * (docs/adr/0003-a-report-signature-covers-its-payload.md).
 */
export function signedBytes(parts: TranscriptParts, payload?: string): Buffer {
  const t = transcript(parts);
  return payload === undefined
    ? t
    : Buffer.concat([t, createHash('sha512').update(payload, 'utf8').digest()]);
}
