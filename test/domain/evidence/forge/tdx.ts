import { createHash, sign } from 'node:crypto';
import { crl, der, type Faults, integer, issue, keyPair, oid, type Party, pem } from './pki.ts';

export interface Intel {
  readonly roots: readonly string[];
  readonly root: Party;
  readonly platformCa: Party;
  readonly tcbSigner: Party;
  readonly pck: Party;
}

const ecdsa = { signature: 'ecdsaSha256' } as const;
const arc = '1.2.840.113741.1.13.1';
export const fmspc = 'b0c06f000000';
export const at = new Date('2026-06-01T12:00:00Z');

export function sgxExtension(): Buffer {
  const field = (id: string, value: Buffer) => der(0x30, oid(`${arc}.${id}`), value);
  const svns = Array.from({ length: 16 }, (_, index) => field(`2.${index + 1}`, integer(3)));
  return der(
    0x30,
    field('2', der(0x30, ...svns, field('2.17', integer(11)), field('2.18', der(4, Buffer.alloc(16))))),
    field('3', der(4, Buffer.alloc(2))),
    field('4', der(4, Buffer.from(fmspc, 'hex'))),
  );
}

/** Intel, of our own. */
export function makeIntel(pckFaults: Faults = {}): Intel {
  const root = issue('Intel SGX Root CA', keyPair('P-256'), undefined, { ...ecdsa, pathLength: 1 });
  const platformCa = issue('Intel SGX PCK Platform CA', keyPair('P-256'), root, {
    ...ecdsa,
    pathLength: 0,
    serial: 21,
  });
  const tcbSigner = issue('Intel SGX TCB Signing', keyPair('P-256'), root, {
    ...ecdsa,
    ca: false,
    serial: 22,
  });
  const extensions = [{ oid: arc, value: sgxExtension() }];
  const pck = issue('Intel SGX PCK Certificate', keyPair('P-256'), platformCa, {
    ...ecdsa,
    ca: false,
    serial: 23,
    extensions,
    ...pckFaults,
  });
  const key = root.publicKey.export({ format: 'der', type: 'spki' });
  return { roots: [createHash('sha256').update(key).digest('hex')], root, platformCa, tcbSigner, pck };
}

export interface QuoteOptions {
  readonly version?: 4 | 5;
  readonly attributes?: bigint;
  readonly xfam?: bigint;
  readonly teeTcbSvn?: readonly number[];
  readonly mrSignerSeam?: Buffer;
  readonly serviceTd?: Buffer;
  readonly reportData?: Buffer;
  readonly mrTd?: Buffer;
  readonly qe?: (report: Buffer) => void;
  readonly qeAfterwards?: (report: Buffer) => void;
  readonly header?: (quote: Buffer) => void;
  readonly chain?: string;
  readonly attestationKey?: (point: Buffer) => void;
  readonly edit?: (quote: Buffer) => void;
  readonly certificationType?: number;
  readonly pckType?: number;
  readonly trailing?: Buffer;
}

export const septVeDisable = 1n << 28n;
const attestation = keyPair('P-256');

/** A quote signed by the test's attestation key, which the test's quoting enclave vouches for. */
export function makeQuote(intel: Intel, options: QuoteOptions = {}): Buffer {
  const { version = 5 } = options;
  const header = Buffer.alloc(48);
  header.writeUInt16LE(version, 0);
  header.writeUInt16LE(2, 2);
  header.writeUInt32LE(0x81, 4);
  Buffer.from('939a7233f79c4ca9940a0db3957f0607', 'hex').copy(header, 12);
  const body = Buffer.alloc(version === 5 ? 648 : 584);
  Buffer.from(options.teeTcbSvn ?? [6, 1, 3]).copy(body, 0);
  options.mrSignerSeam?.copy(body, 64);
  body.writeBigUInt64LE(options.attributes ?? septVeDisable, 120);
  body.writeBigUInt64LE(options.xfam ?? 0x602e7n, 128);
  (options.mrTd ?? Buffer.alloc(48, 0x7d)).copy(body, 136);
  (options.reportData ?? Buffer.alloc(64, 0xda)).copy(body, 520);
  if (version === 5) options.serviceTd?.copy(body, 600);
  const type = Buffer.alloc(6);
  type.writeUInt16LE(3, 0);
  type.writeUInt32LE(648, 2);
  const toSign = Buffer.concat([header, version === 5 ? type : Buffer.alloc(0), body]);
  options.header?.(toSign);

  const { x = '', y = '' } = attestation.publicKey.export({ format: 'jwk' });
  const point = Buffer.concat([Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')]);
  const authentication = Buffer.alloc(32, 0xa0);
  const qe = Buffer.alloc(384);
  qe[48] = 0x15;
  Buffer.from('dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5', 'hex').copy(qe, 128);
  qe.writeUInt16LE(2, 256);
  qe.writeUInt16LE(6, 258);
  createHash('sha256').update(point).update(authentication).digest().copy(qe, 320);
  options.qe?.(qe);
  const qeSignature = sign('sha256', qe, { key: intel.pck.privateKey, dsaEncoding: 'ieee-p1363' });
  options.qeAfterwards?.(qe);
  const signature = sign('sha256', toSign, { key: attestation.privateKey, dsaEncoding: 'ieee-p1363' });
  options.attestationKey?.(point);
  const chain = Buffer.from(options.chain ?? `${pem(intel.pck.der, intel.platformCa.der, intel.root.der)}\0`);
  const certification = Buffer.concat([
    qe,
    qeSignature,
    u16(32),
    authentication,
    u16(options.pckType ?? 5),
    u32(chain.length),
    chain,
  ]);
  const data = Buffer.concat([
    signature,
    point,
    u16(options.certificationType ?? 6),
    u32(certification.length),
    certification,
  ]);
  const quote = Buffer.concat([toSign, u32(data.length), data, options.trailing ?? Buffer.alloc(0)]);
  options.edit?.(quote);
  return quote;
}

export interface CollateralOptions {
  readonly tcbInfo?: (info: ReturnType<typeof usualTcbInfo>) => unknown;
  readonly qeIdentity?: (identity: ReturnType<typeof usualQeIdentity>) => unknown;
  readonly file?: (file: Record<string, string>) => void;
  readonly signer?: Party;
  readonly revokedByRoot?: readonly number[];
  readonly revokedByPlatform?: readonly number[];
  readonly crlUntil?: string;
}

export function usualTcbInfo() {
  const levels = (svn: number) => Array.from({ length: 16 }, () => ({ svn }));
  const module = { mrsigner: '00'.repeat(48), attributes: '00'.repeat(8), attributesMask: 'FF'.repeat(8) };
  return {
    id: 'TDX',
    version: 3,
    issueDate: '2026-05-20T00:00:00Z',
    nextUpdate: '2026-06-20T00:00:00Z',
    fmspc: fmspc.toUpperCase(),
    pceId: '0000',
    tdxModule: module,
    tdxModuleIdentities: [
      { id: 'TDX_01', ...module, tcbLevels: [{ tcb: { isvsvn: 4 }, tcbStatus: 'UpToDate' }] },
    ],
    tcbLevels: [
      {
        tcb: { sgxtcbcomponents: levels(2), tdxtcbcomponents: [...levels(0)], pcesvn: 11 },
        tcbStatus: 'UpToDate',
      },
      {
        tcb: { sgxtcbcomponents: levels(0), tdxtcbcomponents: [...levels(0)], pcesvn: 5 },
        tcbStatus: 'OutOfDate',
      },
    ],
  };
}

export function usualQeIdentity() {
  return {
    id: 'TD_QE',
    version: 2,
    issueDate: '2026-05-20T00:00:00Z',
    nextUpdate: '2026-06-20T00:00:00Z',
    miscselect: '00000000',
    miscselectMask: 'FFFFFFFF',
    attributes: '11000000000000000000000000000000',
    attributesMask: 'FBFFFFFFFFFFFFFF0000000000000000',
    mrsigner: 'DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5',
    isvprodid: 2,
    tcbLevels: [{ tcb: { isvsvn: 4 }, tcbStatus: 'UpToDate' }],
  };
}

/** Collateral that the test's Intel signed. */
export function makeCollateral(intel: Intel, options: CollateralOptions = {}): Buffer {
  const info = usualTcbInfo();
  const identity = usualQeIdentity();
  const tcbInfo = JSON.stringify(options.tcbInfo?.(info) ?? info);
  const qeIdentity = JSON.stringify(options.qeIdentity?.(identity) ?? identity);
  const signer = options.signer ?? intel.tcbSigner;
  const signature = (text: string) =>
    sign('sha256', Buffer.from(text), { key: signer.privateKey, dsaEncoding: 'ieee-p1363' }).toString('hex');
  const file: Record<string, string> = {
    pck_crl_issuer_chain: pem(intel.platformCa.der, intel.root.der),
    root_ca_crl: crl(intel.root, options.revokedByRoot ?? [], { until: options.crlUntil }).toString('hex'),
    pck_crl: crl(intel.platformCa, options.revokedByPlatform ?? [99], { until: options.crlUntil }).toString(
      'hex',
    ),
    tcb_info_issuer_chain: pem(signer.der, intel.root.der),
    tcb_info: tcbInfo,
    tcb_info_signature: signature(tcbInfo),
    qe_identity_issuer_chain: pem(signer.der, intel.root.der),
    qe_identity: qeIdentity,
    qe_identity_signature: signature(qeIdentity),
  };
  options.file?.(file);
  return Buffer.from(JSON.stringify(file));
}

function u16(value: number): Buffer {
  return Buffer.of(value & 0xff, value >> 8);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
