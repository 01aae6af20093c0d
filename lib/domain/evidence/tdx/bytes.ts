import { isZero, requireSize } from '../bytes.ts';
import { createReader, type Reader } from '../reader.ts';
import { EvidenceError, type ReasonCode } from '../reasons.ts';

// Quotes have about 5 kB; clouds hand out buffers of 8 kB filled up with zeros.
const maxQuoteBytes = 16_384;
const qeVendorId = '939a7233f79c4ca9940a0db3957f0607';
const ecdsaP256 = 2;
const teeTdx = 0x81;
const qeReportBytes = 384;
const certificationOfQe = 6;
const certificationByPem = 5;
/** Version 5 says which body it has: TDX 1.0 or TDX 1.5. */
const bodySizes: ReadonlyMap<number, number> = new Map([
  [2, 584],
  [3, 648],
]);

/** TDREPORT's body: Intel TDX DCAP Quoting Library API, appendix 3. */
export interface TdBody {
  readonly teeTcbSvn: Uint8Array;
  readonly mrSeam: Uint8Array;
  readonly mrSignerSeam: Uint8Array;
  readonly seamAttributes: Uint8Array;
  readonly tdAttributes: Uint8Array;
  readonly xfam: Uint8Array;
  readonly mrTd: Uint8Array;
  readonly mrConfigId: Uint8Array;
  readonly mrOwner: Uint8Array;
  readonly mrOwnerConfig: Uint8Array;
  readonly rtmrs: readonly Uint8Array[];
  readonly reportData: Uint8Array;
  /** TDX 1.5. */
  readonly mrServiceTd: Uint8Array | undefined;
}

/** The quoting enclave's SGX report, what we use of it. */
export interface QeReport {
  readonly bytes: Uint8Array;
  readonly miscSelect: Uint8Array;
  readonly attributes: Uint8Array;
  readonly mrSigner: Uint8Array;
  readonly isvProdId: number;
  readonly isvSvn: number;
  readonly reportData: Uint8Array;
}

/** A quote as it stands; nothing in it is believed yet. */
export interface TdxQuote {
  readonly version: 4 | 5;
  readonly body: TdBody;
  readonly signed: Uint8Array;
  /** R and S, big-endian (IEEE P1363). */
  readonly signature: Uint8Array;
  /** X and Y of the attestation key, big-endian. */
  readonly attestationKey: Uint8Array;
  readonly qeReport: QeReport;
  readonly qeReportSignature: Uint8Array;
  readonly qeAuthenticationData: Uint8Array;
  /** PEM, leaf first. */
  readonly pckChain: string;
}

/** Reads a version 4 or 5 quote, little-endian; after it only zeros may follow. */
export function parseTdxQuote(bytes: Uint8Array): TdxQuote {
  requireSize(bytes, maxQuoteBytes);
  const reader = createReader(bytes, 'little', 'TDX_MALFORMED');
  const version = reader.uint(2);
  if (version !== 4 && version !== 5) throw new EvidenceError('TDX_VERSION_UNKNOWN', `version ${version}`);
  const keyType = reader.uint(2);
  const tee = reader.uint(4);
  if (tee !== teeTdx) throw new EvidenceError('TDX_VERSION_UNKNOWN', `TEE type 0x${tee.toString(16)}`);
  if (keyType !== ecdsaP256) throw new EvidenceError('TDX_VERSION_UNKNOWN', `key type ${keyType}`);
  reader.bytes(4);
  const vendor = Buffer.from(reader.bytes(16)).toString('hex');
  if (vendor !== qeVendorId) throw new EvidenceError('TDX_QE_VENDOR', vendor);
  reader.bytes(20);
  const body = parseBody(reader, version === 4 ? 584 : bodySize(reader));
  const signed = bytes.subarray(0, reader.offset());
  const data = createReader(reader.bytes(reader.uint(4)), 'little', 'TDX_MALFORMED');
  if (!isZero(reader.bytes(reader.remaining()))) {
    throw new EvidenceError('TDX_TRAILING_BYTES', 'something other than zeros follows the quote');
  }
  const signature = data.bytes(64);
  const attestationKey = data.bytes(64);
  const certification = certificationData(data, certificationOfQe);
  data.end();
  const qeBytes = certification.bytes(qeReportBytes);
  const qeReportSignature = certification.bytes(64);
  const qeAuthenticationData = certification.bytes(certification.uint(2));
  const pem = certificationData(certification, certificationByPem, 'TDX_CERTIFICATION_TYPE');
  certification.end();
  return {
    version,
    body,
    signed,
    signature,
    attestationKey,
    qeReport: parseQeReport(qeBytes),
    qeReportSignature,
    qeAuthenticationData,
    pckChain: text(pem.bytes(pem.remaining())),
  };
}

function bodySize(reader: Reader): number {
  const type = reader.uint(2);
  const size = bodySizes.get(type);
  if (size === undefined) throw new EvidenceError('TDX_VERSION_UNKNOWN', `body type ${type}`);
  if (reader.uint(4) !== size) throw odd('body size');
  return size;
}

function parseBody(reader: Reader, size: number): TdBody {
  const body = {
    teeTcbSvn: reader.bytes(16),
    mrSeam: reader.bytes(48),
    mrSignerSeam: reader.bytes(48),
    seamAttributes: reader.bytes(8),
    tdAttributes: reader.bytes(8),
    xfam: reader.bytes(8),
    mrTd: reader.bytes(48),
    mrConfigId: reader.bytes(48),
    mrOwner: reader.bytes(48),
    mrOwnerConfig: reader.bytes(48),
    rtmrs: [reader.bytes(48), reader.bytes(48), reader.bytes(48), reader.bytes(48)],
    reportData: reader.bytes(64),
  };
  if (size === 584) return { ...body, mrServiceTd: undefined };
  reader.bytes(16); // TEE_TCB_SVN_2
  return { ...body, mrServiceTd: reader.bytes(48) };
}

/** Type and size, then that many bytes. */
function certificationData(reader: Reader, type: number, code: ReasonCode = 'TDX_MALFORMED'): Reader {
  const seen = reader.uint(2);
  if (seen !== type) {
    throw new EvidenceError(code, `certification data of type ${seen}, expected ${type}`);
  }
  return createReader(reader.bytes(reader.uint(4)), 'little', 'TDX_MALFORMED');
}

/** Intel SGX SDK, sgx_report_body_t. */
function parseQeReport(bytes: Uint8Array): QeReport {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    bytes,
    miscSelect: bytes.subarray(16, 20),
    attributes: bytes.subarray(48, 64),
    mrSigner: bytes.subarray(128, 160),
    isvProdId: view.getUint16(256, true),
    isvSvn: view.getUint16(258, true),
    reportData: bytes.subarray(320, 384),
  };
}

/** Text up to the first zero, after which only zeros follow. */
function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  if (end !== -1 && !isZero(bytes.subarray(end))) throw odd('bytes after the certificates');
  return Buffer.from(end === -1 ? bytes : bytes.subarray(0, end)).toString('latin1');
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('TDX_MALFORMED', detail);
}
