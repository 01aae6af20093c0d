import { isZero, requireSize } from '../bytes.ts';
import { createReader, type Reader } from '../reader.ts';
import { EvidenceError } from '../reasons.ts';

/** AMD SEV-SNP ABI specification (56860), table "ATTESTATION_REPORT Structure". */
export const reportBytes = 0x4a0;
/** The signature covers what stands before it. */
export const signedBytes = 0x2a0;

const versions = [2, 3, 4, 5];

export interface GuestPolicy {
  readonly abiMajor: number;
  readonly abiMinor: number;
  readonly smtAllowed: boolean;
  readonly migrateMa: boolean;
  readonly debug: boolean;
  readonly singleSocket: boolean;
}

/** An attestation report as it stands; nothing in it is believed yet. */
export interface SnpReport {
  readonly signed: Uint8Array;
  /** R and S, big-endian, 48 bytes each (IEEE P1363). */
  readonly signature: Uint8Array;
  readonly version: number;
  readonly guestSvn: number;
  readonly policy: GuestPolicy;
  readonly familyId: Uint8Array;
  readonly imageId: Uint8Array;
  readonly vmpl: number;
  readonly signatureAlgorithm: number;
  readonly signingKey: 'VCEK' | 'VLEK' | 'none';
  readonly authorKeyEnabled: boolean;
  readonly chipKeyMasked: boolean;
  readonly platform: { readonly smt: boolean; readonly tsme: boolean; readonly aliasCheckComplete: boolean };
  readonly reportData: Uint8Array;
  readonly measurement: Uint8Array;
  readonly hostData: Uint8Array;
  readonly idKeyDigest: Uint8Array;
  readonly authorKeyDigest: Uint8Array;
  readonly reportId: Uint8Array;
  readonly reportIdMa: Uint8Array;
  readonly chipId: Uint8Array;
  /** Combined family, model and stepping; undefined in version 2, which has none. */
  readonly cpu: { readonly family: number; readonly model: number; readonly stepping: number } | undefined;
  /** TCB_VERSION as 8 bytes: the layout depends on the product (tcb.ts). */
  readonly currentTcb: Uint8Array;
  readonly reportedTcb: Uint8Array;
  readonly committedTcb: Uint8Array;
  readonly launchTcb: Uint8Array;
}

/** Reads one report of exactly 1184 bytes, little-endian; what is reserved must be zero. */
export function parseSnpReport(bytes: Uint8Array): SnpReport {
  requireSize(bytes, reportBytes);
  const reader = createReader(bytes, 'little', 'SNP_SIZE_WRONG');
  if (bytes.length !== reportBytes) throw new EvidenceError('SNP_SIZE_WRONG', `${bytes.length} bytes`);
  const version = reader.uint(4);
  if (!versions.includes(version)) throw new EvidenceError('SNP_VERSION_UNKNOWN', `version ${version}`);
  const guestSvn = reader.uint(4);
  const policy = parsePolicy(reader.uint64());
  const familyId = reader.bytes(16);
  const imageId = reader.bytes(16);
  const vmpl = reader.uint(4);
  const signatureAlgorithm = reader.uint(4);
  const currentTcb = reader.bytes(8);
  // Bits that we do not know are ignored: a genuine Turin report has bit 6 set, which older texts reserve.
  const platform = reader.uint64();
  const keyInfo = reader.uint(4);
  if (keyInfo >>> 5 !== 0) throw reserved('KEY_INFO');
  zeros(reader, 4);
  const reportData = reader.bytes(64);
  const measurement = reader.bytes(48);
  const hostData = reader.bytes(32);
  const idKeyDigest = reader.bytes(48);
  const authorKeyDigest = reader.bytes(48);
  const reportId = reader.bytes(32);
  const reportIdMa = reader.bytes(32);
  const reportedTcb = reader.bytes(8);
  const cpu =
    version === 2
      ? zeros(reader, 3)
      : { family: reader.uint(1), model: reader.uint(1), stepping: reader.uint(1) };
  zeros(reader, 21);
  const chipId = reader.bytes(64);
  const committedTcb = reader.bytes(8);
  reader.bytes(3); // current build, minor, major
  zeros(reader, 1);
  reader.bytes(3); // committed build, minor, major
  zeros(reader, 1);
  const launchTcb = reader.bytes(8);
  if (version < 5) zeros(reader, 16);
  else reader.bytes(16); // mitigation vectors
  zeros(reader, 152);
  const signature = parseSignature(reader);
  reader.end();
  return {
    signed: bytes.subarray(0, signedBytes),
    signature,
    version,
    guestSvn,
    policy,
    familyId,
    imageId,
    vmpl,
    signatureAlgorithm,
    signingKey: parseSigningKey((keyInfo >>> 2) & 0b111),
    authorKeyEnabled: (keyInfo & 1) !== 0,
    chipKeyMasked: (keyInfo & 2) !== 0,
    platform: {
      smt: bit(platform, 0n),
      tsme: bit(platform, 1n),
      aliasCheckComplete: version >= 3 && bit(platform, 5n),
    },
    reportData,
    measurement,
    hostData,
    idKeyDigest,
    authorKeyDigest,
    reportId,
    reportIdMa,
    chipId,
    cpu,
    currentTcb,
    reportedTcb,
    committedTcb,
    launchTcb,
  };
}

function parsePolicy(policy: bigint): GuestPolicy {
  if (policy >> 26n !== 0n || !bit(policy, 17n)) throw reserved('POLICY');
  return {
    abiMinor: Number(policy & 0xffn),
    abiMajor: Number((policy >> 8n) & 0xffn),
    smtAllowed: bit(policy, 16n),
    migrateMa: bit(policy, 18n),
    debug: bit(policy, 19n),
    singleSocket: bit(policy, 20n),
  };
}

function parseSigningKey(code: number): SnpReport['signingKey'] {
  if (code === 0) return 'VCEK';
  if (code === 1) return 'VLEK';
  if (code === 7) return 'none';
  throw reserved('SIGNING_KEY');
}

/** R and S are little-endian, extended with zeros from 48 to 72 bytes; 368 more zeros follow. */
function parseSignature(reader: Reader): Uint8Array {
  const r = reader.bytes(48).toReversed();
  zeros(reader, 24);
  const s = reader.bytes(48).toReversed();
  zeros(reader, 24 + 368);
  return Buffer.concat([r, s]);
}

function zeros(reader: Reader, length: number): undefined {
  const offset = reader.offset();
  if (!isZero(reader.bytes(length))) throw reserved(`${length} bytes at 0x${offset.toString(16)}`);
}

function bit(value: bigint, position: bigint): boolean {
  return ((value >> position) & 1n) === 1n;
}

function reserved(what: string): EvidenceError {
  return new EvidenceError('SNP_RESERVED_NOT_ZERO', what);
}
