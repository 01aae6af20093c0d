import { requireSize } from '../bytes.ts';
import { createReader, type Reader } from '../reader.ts';
import { EvidenceError } from '../reasons.ts';
import { type HashName, hashes, scheme, sha1 } from './algorithms.ts';

// TPMS_ATTEST of a quote with 16 banks is below 512 bytes; RSA-4096 signatures have 512.
const maxAttestBytes = 2_048;
const maxSignatureBytes = 1_024;
const magic = 0xff544347;
const attestQuote = 0x8018;
const selectBytes = 3;
/** HASH_COUNT of TPM 2.0 Part 2 is implementation-dependent; tpm2-tss has 16. */
const maxBanks = 16;

export interface PcrSelection {
  readonly bank: HashName;
  /** Ascending. */
  readonly pcrs: readonly number[];
}

/** A TPMS_ATTEST of type quote (TPM 2.0 Part 2 §10.12.12); nothing in it is believed yet. */
export interface TpmQuote {
  /** What the signature covers: the attest bytes as received, without a TPM2B length. */
  readonly signed: Uint8Array;
  readonly qualifiedSigner: Uint8Array;
  /** The caller's nonce. */
  readonly extraData: Uint8Array;
  readonly clock: bigint;
  readonly resetCount: number;
  readonly restartCount: number;
  readonly safe: boolean;
  readonly firmwareVersion: bigint;
  readonly selections: readonly PcrSelection[];
  readonly pcrDigest: Uint8Array;
}

/** Reads the bytes that TPM2_Quote returned, with or without the length of a TPM2B_ATTEST before them. */
export function parseQuote(bytes: Uint8Array): TpmQuote {
  requireSize(bytes, maxAttestBytes);
  const signed = withoutLength(bytes);
  const reader = createReader(signed, 'big', 'TPM_QUOTE_MALFORMED');
  // A restricted key never signs foreign data that starts with the magic (Part 1 §31.4.2), so these two come first.
  if (reader.uint(4) !== magic) throw new EvidenceError('TPM_MAGIC_WRONG', 'not made inside a TPM');
  const type = reader.uint(2);
  if (type !== attestQuote) throw new EvidenceError('TPM_NOT_A_QUOTE', `type 0x${type.toString(16)}`);
  const qualifiedSigner = sized(reader, 2 + 64);
  const extraData = sized(reader, 64);
  const clock = reader.uint64();
  const resetCount = reader.uint(4);
  const restartCount = reader.uint(4);
  const safe = reader.uint(1);
  if (safe > 1) throw odd('clockInfo.safe is neither 0 nor 1');
  const firmwareVersion = reader.uint64();
  const selections = parseSelections(reader);
  const pcrDigest = sized(reader, 64);
  reader.end();
  return {
    signed,
    qualifiedSigner,
    extraData,
    clock,
    resetCount,
    restartCount,
    safe: safe === 1,
    firmwareVersion,
    selections,
    pcrDigest,
  };
}

export type TpmSignature =
  | { readonly scheme: 'rsassa' | 'rsapss'; readonly hash: HashName; readonly signature: Uint8Array }
  | { readonly scheme: 'ecdsa'; readonly hash: HashName; readonly r: Uint8Array; readonly s: Uint8Array }
  /** `tpm2_quote -f plain` and others: as libraries write it, without scheme and hash. */
  | { readonly scheme: 'plain'; readonly hash: HashName; readonly signature: Uint8Array };

/**
 * Reads a TPMT_SIGNATURE (Part 2 §11.3.4), or takes a bare signature as it is.
 *
 * @param bare for a bare one: bytes of the PCR digest, which is of the signature's hash, and of an RSA key's modulus
 */
export function parseSignature(
  bytes: Uint8Array,
  bare: { readonly digestBytes?: number; readonly modulusBytes?: number | undefined } = {},
): TpmSignature {
  requireSize(bytes, maxSignatureBytes);
  const hash = [...hashes.values()].find((each) => each.bytes === bare.digestBytes)?.name ?? 'sha256';
  if (bytes.length === bare.modulusBytes) return { scheme: 'plain', hash, signature: bytes };
  const reader = createReader(bytes, 'big', 'TPM_SIGNATURE_MALFORMED');
  const algorithm = bytes.length < 4 ? 0 : reader.uint(2);
  if (algorithm === scheme.rsassa || algorithm === scheme.rsapss) {
    const named = hashOf(reader.uint(2));
    const signature = sized(reader, 512);
    reader.end();
    return { scheme: algorithm === scheme.rsassa ? 'rsassa' : 'rsapss', hash: named, signature };
  }
  if (algorithm === scheme.ecdsa) {
    const named = hashOf(reader.uint(2));
    const r = sized(reader, 66);
    const s = sized(reader, 66);
    reader.end();
    return { scheme: 'ecdsa', hash: named, r, s };
  }
  return { scheme: 'plain', hash, signature: bytes };
}

function parseSelections(reader: Reader): readonly PcrSelection[] {
  const count = reader.uint(4);
  if (count > maxBanks) throw odd(`${count} PCR selections`);
  const banks = new Set<number>();
  const selections: PcrSelection[] = [];
  for (let left = count; left > 0; left--) {
    const bankId = reader.uint(2);
    if (reader.uint(1) !== selectBytes) throw odd('a PCR selection has 3 bytes');
    const pcrs = selected(reader.bytes(selectBytes));
    if (banks.has(bankId)) throw odd('a bank is selected twice');
    banks.add(bankId);
    // TPMs list banks that they have and nothing was selected of, SHA-1 and SM3 among them.
    if (pcrs.length > 0 || hashes.has(bankId)) selections.push({ bank: hashOf(bankId), pcrs });
  }
  return selections;
}

/** PCR n is bit n % 8 of byte n / 8. */
export function selected(bitmap: Uint8Array): readonly number[] {
  return Array.from({ length: 8 * bitmap.length }, (_, index) => index).filter(
    (index) => (((bitmap[index >> 3] ?? 0) >> (index & 7)) & 1) === 1,
  );
}

function hashOf(id: number): HashName {
  if (id === sha1) throw new EvidenceError('TPM_HASH_WEAK', 'SHA-1');
  const hash = hashes.get(id);
  if (!hash) throw new EvidenceError('TPM_HASH_UNKNOWN', `0x${id.toString(16)}`);
  return hash.name;
}

/** TPM2B: a length of two bytes, then that many. */
function sized(reader: Reader, most: number): Uint8Array {
  const length = reader.uint(2);
  if (length > most) throw odd(`a field of ${length} bytes`);
  return reader.bytes(length);
}

function withoutLength(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isSized = bytes.length >= 6 && view.getUint16(0) === bytes.length - 2 && view.getUint32(2) === magic;
  return isSized ? bytes.subarray(2) : bytes;
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('TPM_QUOTE_MALFORMED', detail);
}
