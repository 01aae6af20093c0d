import { encode } from 'cbor2';
import { equalBytes, requireSize } from '../bytes.ts';
import { EvidenceError } from '../reasons.ts';
import { type CborMap, type CborValue, decodeCbor } from './cbor.ts';

// aws-nitro-enclaves-nsm-api, docs/attestation_process.md: a payload has at most 16384 bytes.
const maxPayloadBytes = 16_384;
const maxDocumentBytes = maxPayloadBytes + 256;
const maxFieldBytes = 1_024;
const maxAuthorities = 8;
const digestBytes = 48;
/** {1: -35}: ES384 (RFC 9053 §2.1). */
const protectedHeader = Uint8Array.of(0xa1, 0x01, 0x38, 0x22);

/** An attestation document of an enclave or a NitroTPM as it stands; nothing in it is believed yet. */
export interface NitroDocument {
  readonly kind: 'enclave' | 'nitrotpm';
  readonly moduleId: string;
  readonly instanceId: string;
  readonly timestamp: Date;
  readonly pcrs: ReadonlyMap<number, Uint8Array>;
  /** DER. */
  readonly certificate: Uint8Array;
  /** DER, root first. */
  readonly cabundle: readonly Uint8Array[];
  readonly publicKey: Uint8Array | null;
  readonly userData: Uint8Array | null;
  readonly nonce: Uint8Array | null;
  /** The COSE Sig_structure (RFC 9052 §4.4). */
  readonly signed: Uint8Array;
  /** R and S, big-endian, 48 bytes each (IEEE P1363). */
  readonly signature: Uint8Array;
}

/** Reads a COSE_Sign1 document, untagged, as the Nitro Security Module and the NitroTPM write it. */
export function parseNitroDocument(bytes: Uint8Array): NitroDocument {
  requireSize(bytes, maxDocumentBytes);
  const outer = decodeCbor(bytes);
  if (!Array.isArray(outer) || outer.length !== 4) throw odd('not COSE_Sign1');
  const [header, unprotected, payload, signature] = outer as readonly (CborValue | undefined)[];
  if (!(header instanceof Uint8Array) || !equalBytes(header, protectedHeader)) {
    throw new EvidenceError('NITRO_ALGORITHM_UNKNOWN', 'the protected header is not ES384 alone');
  }
  if (!(unprotected instanceof Map) || unprotected.size > 0) throw odd('unprotected headers');
  if (!(payload instanceof Uint8Array) || payload.length > maxPayloadBytes) throw odd('payload');
  if (!(signature instanceof Uint8Array) || signature.length !== 96) throw odd('signature is not 96 bytes');
  const map = decodeCbor(payload, 'any');
  if (!(map instanceof Map)) throw odd('payload is not a map');
  return {
    ...parsePayload(map as CborMap),
    signed: encode(['Signature1', plain(header), new Uint8Array(), plain(payload)]),
    signature,
  };
}

function parsePayload(map: CborMap): Omit<NitroDocument, 'signed' | 'signature'> {
  const kind = map.has('nitrotpm_pcrs') ? 'nitrotpm' : 'enclave';
  if (map.has('nitrotpm_pcrs') && map.has('pcrs')) throw odd('both pcrs and nitrotpm_pcrs');
  if (map.get('digest') !== 'SHA384') throw odd('digest is not SHA384');
  const moduleId = map.get('module_id');
  const instanceId = typeof moduleId === 'string' ? instanceOf(moduleId, kind) : undefined;
  if (typeof moduleId !== 'string' || !instanceId) throw odd('module_id');
  const timestamp = map.get('timestamp');
  if (typeof timestamp !== 'number' || Number.isNaN(new Date(timestamp).getTime())) throw odd('timestamp');
  const authorities = map.get('cabundle');
  if (!Array.isArray(authorities) || authorities.length === 0 || authorities.length > maxAuthorities) {
    throw odd('cabundle');
  }
  return {
    kind,
    moduleId,
    instanceId,
    timestamp: new Date(timestamp),
    pcrs: parsePcrs(map.get(kind === 'enclave' ? 'pcrs' : 'nitrotpm_pcrs')),
    certificate: requireField(map.get('certificate'), 'certificate', 1),
    cabundle: authorities.map((item) => requireField(item, 'cabundle', 1)),
    publicKey: optionalField(map, 'public_key', 1),
    userData: optionalField(map, 'user_data', 0),
    nonce: optionalField(map, 'nonce', 0),
  };
}

function instanceOf(moduleId: string, kind: NitroDocument['kind']): string | undefined {
  const pattern =
    kind === 'enclave' ? /^(i-[0-9a-f]{8,17})-enc[0-9a-f]+$/ : /^(i-[0-9a-f]{8,17})-tpm[0-9a-f]+$/;
  return pattern.exec(moduleId)?.[1];
}

function parsePcrs(value: CborValue | undefined): ReadonlyMap<number, Uint8Array> {
  if (!(value instanceof Map) || value.size === 0) throw odd('pcrs');
  const pcrs = new Map<number, Uint8Array>();
  for (const [index, digest] of value as CborMap) {
    if (typeof index !== 'number' || index > 31) throw odd(`PCR ${index}`);
    if (!(digest instanceof Uint8Array) || digest.length !== digestBytes) throw odd(`PCR ${index}`);
    pcrs.set(index, digest);
  }
  return pcrs;
}

/** What is not there is null, though the specification says that nothing may be. */
function optionalField(map: CborMap, name: string, least: number): Uint8Array | null {
  const value = map.get(name);
  return value === undefined || value === null ? null : requireField(value, name, least);
}

function requireField(value: CborValue | undefined, name: string, least: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length < least || value.length > maxFieldBytes) throw odd(name);
  return value;
}

/** cbor2 encodes a Buffer as an object, a Uint8Array as a byte string. */
function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}

function odd(detail: string): EvidenceError {
  return new EvidenceError('NITRO_MALFORMED', detail);
}
