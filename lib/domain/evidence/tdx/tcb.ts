import { equalBytes } from '../bytes.ts';
import type { QeReport, TdBody } from './bytes.ts';
import type { QeIdentity, TcbInfo } from './collateral.ts';
import type { Platform } from './pck.ts';

/** Intel's status of what was matched, or what kept anything from matching. */
export type TcbStatus =
  | { readonly kind: 'status'; readonly status: string }
  | { readonly kind: 'none'; readonly why: string };

/** The first level whose every component the platform reaches; levels go from newest to oldest. */
export function platformStatus(info: TcbInfo, platform: Platform, body: TdBody): TcbStatus {
  if (info.fmspc.toLowerCase() !== platform.fmspc || info.pceId.toLowerCase() !== platform.pceId) {
    return { kind: 'none', why: `TCB info is for ${info.fmspc}, the platform is ${platform.fmspc}` };
  }
  // With a module version in byte 1, bytes 0 and 1 are the TDX module's and judged by its own identity.
  const first = (body.teeTcbSvn[1] ?? 0) > 0 ? 2 : 0;
  const level = info.tcbLevels.find(
    ({ tcb }) =>
      tcb.sgxtcbcomponents.every(({ svn }, index) => (platform.components[index] ?? -1) >= svn) &&
      platform.pceSvn >= tcb.pcesvn &&
      tcb.tdxtcbcomponents.every(({ svn }, index) => index < first || (body.teeTcbSvn[index] ?? -1) >= svn),
  );
  return level ? { kind: 'status', status: level.tcbStatus } : { kind: 'none', why: 'no TCB level matches' };
}

/** Status of the TDX module that TEE_TCB_SVN names. */
export function moduleStatus(info: TcbInfo, body: TdBody): TcbStatus {
  const [isvSvn = 0, version = 0] = body.teeTcbSvn;
  if (version === 0) {
    return isOf(info.tdxModule, body)
      ? { kind: 'status', status: 'UpToDate' }
      : { kind: 'none', why: 'TDX module is another' };
  }
  const id = `TDX_${version.toString(16).toUpperCase().padStart(2, '0')}`;
  const identity = info.tdxModuleIdentities.find((candidate) => candidate.id.toUpperCase() === id);
  if (!identity || !isOf(identity, body)) return { kind: 'none', why: `no identity of module ${id}` };
  return firstLevel(identity.tcbLevels, isvSvn, id);
}

/** Status of the quoting enclave; `none` when it is not Intel's. */
export function enclaveStatus(identity: QeIdentity, qe: QeReport): TcbStatus {
  const isIntels =
    equalBytes(qe.mrSigner, bytes(identity.mrsigner)) &&
    qe.isvProdId === identity.isvprodid &&
    equalsMasked(qe.attributes, identity.attributes, identity.attributesMask) &&
    // MISCSELECT is a number, written big-endian in the identity.
    equalsMasked(qe.miscSelect.toReversed(), identity.miscselect, identity.miscselectMask);
  if (!isIntels) return { kind: 'none', why: 'quoting enclave is not Intel’s' };
  return firstLevel(identity.tcbLevels, qe.isvSvn, 'quoting enclave');
}

function firstLevel(levels: QeIdentity['tcbLevels'], isvSvn: number, what: string): TcbStatus {
  const level = levels.find(({ tcb }) => isvSvn >= tcb.isvsvn);
  return level
    ? { kind: 'status', status: level.tcbStatus }
    : { kind: 'none', why: `${what} is older than any level` };
}

function isOf(identity: TcbInfo['tdxModule'], body: TdBody): boolean {
  return (
    equalBytes(body.mrSignerSeam, bytes(identity.mrsigner)) &&
    equalsMasked(body.seamAttributes, identity.attributes, identity.attributesMask)
  );
}

function equalsMasked(actual: Uint8Array, expected: string, mask: string): boolean {
  const [wanted, kept] = [bytes(expected), bytes(mask)];
  return (
    actual.length === wanted.length &&
    actual.every(
      (byte, index) => (byte & (kept[index] ?? 0xff)) === ((wanted[index] ?? 0) & (kept[index] ?? 0xff)),
    )
  );
}

function bytes(hexText: string): Uint8Array {
  return Buffer.from(hexText, 'hex');
}
