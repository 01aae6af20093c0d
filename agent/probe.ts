/**
 * The only door to the native addon: what this machine really is, as facts.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type ProbeResult, probeResult } from '../lib/domain/fact.ts';

export interface ProbeOptions {
  /** CPUID leaves from a recording (`cpuid -r`, InstLatx64, Firecracker fingerprint, our own). */
  readonly cpuidFile?: string | undefined;
  /** Another /proc, /sys, /dev; its cpuid.txt, when there is one, stands for the processor. */
  readonly root?: string | undefined;
}

/** A SEV-SNP report, and the certificate table that the host gives beside it. */
export interface SnpReport {
  readonly report: Buffer;
  readonly certificates: Buffer;
}

/** Memory for keys, as the addon gives it; agent/secure-memory.ts says what each does. */
export interface NativeSecureMemory {
  readonly size: number;
  readonly backing: 'memfd_secret' | 'locked';
  readonly address: string;
  take(source: Uint8Array, offset: number): void;
  randomize(): void;
  equals(bytes: Uint8Array): boolean;
  equalsMemory(other: NativeSecureMemory): boolean;
  writeTo(fd: number): void;
  toPipe(): number;
  readFrom(fd: number): number;
  use<T>(callback: (view: Uint8Array<ArrayBuffer>) => T): T;
  release(): void;
}

/** What the addon exports: native/src/binding.c. */
interface Native {
  probe(options: ProbeOptions): string;
  snpReport(device: string, reportData: Uint8Array): SnpReport;
  SecureMemory: new (size: number) => NativeSecureMemory;
  blockBuffer(size: number): Uint8Array<ArrayBuffer>;
  nextData(fd: number, from: number): number;
}

/**
 * The probe could not run: a recording that cannot be read (`CASEMATE_PROBE_RECORDING`, with file and line in
 * the message), or wrong options (`CASEMATE_PROBE_USAGE`). Not retryable: the same input fails again.
 */
export class ProbeError extends Error {
  override readonly name = 'ProbeError';
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The addon is not there or does not fit this Node. Not retryable. */
export class NativeAddonError extends Error {
  override readonly name = 'NativeAddonError';
}

let loaded: Native | undefined;

/** The addon, loaded once. The packages keep this file and the addon as far apart as the source tree does. */
export function nativeAddon(): Native {
  if (loaded !== undefined) return loaded;
  const path = fileURLToPath(new URL('../native/build/casemate.node', import.meta.url));
  try {
    loaded = createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    throw new NativeAddonError(`cannot load ${path} (in the source tree: npm run build:native)`, { cause });
  }
  return loaded;
}

/** An error that the addon threw. By its shape: its class may be another realm's (a vm context, as in tests). */
export function isNativeError(cause: unknown, prefix: string): cause is { code: string; message: string } {
  if (typeof cause !== 'object' || cause === null || !('code' in cause) || !('message' in cause))
    return false;
  return typeof cause.code === 'string' && cause.code.startsWith(prefix) && typeof cause.message === 'string';
}

/** Looks at this machine, or at a recorded one. What cannot be seen is `unknown`, with a reason. */
export function probe(options: ProbeOptions = {}): ProbeResult {
  const native = nativeAddon();
  let json: string;
  try {
    json = native.probe(options);
  } catch (cause) {
    if (isNativeError(cause, 'CASEMATE_PROBE_')) throw new ProbeError(cause.code, cause.message, { cause });
    throw cause;
  }
  return probeResult.parse(JSON.parse(json));
}

/** /dev/sev-guest gave no report; the message has what driver, firmware and host said. Retryable. */
export class SnpReportError extends Error {
  override readonly name = 'SnpReportError';
}

/**
 * Has the processor's firmware sign 64 bytes, through the driver of kernels before configfs-tsm.
 *
 * @throws SnpReportError
 */
export function snpReport(device: string, reportData: Uint8Array): SnpReport {
  const native = nativeAddon();
  try {
    return native.snpReport(device, reportData);
  } catch (cause) {
    if (isNativeError(cause, 'CASEMATE_SNP_')) throw new SnpReportError(cause.message, { cause });
    throw cause;
  }
}
