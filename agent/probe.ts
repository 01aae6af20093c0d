/**
 * The only door to the native addon: what this machine really is, as facts.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';

const factId = z.string().regex(/^[a-z0-9]+([.-][a-z0-9]+)*$/);

/** One fact. `unknown` always has a reason; `evidence` names leaf, register and bit, MSR, or file and content. */
export const probeFact = z.strictObject({
  id: factId,
  state: z.enum(['present', 'absent', 'unknown']),
  value: z.union([z.string(), z.number(), z.boolean()]).optional(),
  reason: z.string().optional(),
  evidence: z.string(),
  hint: z.string().optional(),
});

/** The machine in short; null where it could not be told. */
export const probeMachine = z.strictObject({
  architecture: z.string(),
  /** Where the CPUID leaves come from: `none` on a processor that has no CPUID. */
  cpuid: z.enum(['processor', 'recording', 'none']),
  /** Where files come from: `none` when only a recorded CPUID was given. */
  files: z.enum(['system', 'recording', 'none']),
  vendor: z.string().nullable(),
  brand: z.string().nullable(),
  signature: z.string().nullable(),
  family: z.number().int().nullable(),
  model: z.number().int().nullable(),
  stepping: z.number().int().nullable(),
  maxLeaf: z.string().nullable(),
  maxExtendedLeaf: z.string().nullable(),
  hypervisor: z.string().nullable(),
  kernel: z.string().nullable(),
});

/** What `casemate-probe --json` prints and {@link probe} returns. */
export const probeResult = z.strictObject({
  schema: z.literal('casemate-probe/1'),
  machine: probeMachine,
  facts: z.array(probeFact),
});

export type ProbeFact = z.infer<typeof probeFact>;
export type ProbeResult = z.infer<typeof probeResult>;

export interface ProbeOptions {
  /** CPUID leaves from a recording (`cpuid -r`, InstLatx64, Firecracker fingerprint, our own). */
  cpuidFile?: string;
  /** Another /proc, /sys, /dev; its cpuid.txt, when there is one, stands for the processor. */
  root?: string;
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
  readFrom(fd: number): number;
  use<T>(callback: (view: Uint8Array<ArrayBuffer>) => T): T;
  release(): void;
}

/** What the addon exports: native/src/binding.c. */
interface Native {
  probe(options: ProbeOptions): string;
  SecureMemory: new (size: number) => NativeSecureMemory;
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

/** The addon is not built or does not fit this Node (`npm run build:native`). Not retryable. */
export class NativeAddonError extends Error {
  override readonly name = 'NativeAddonError';
}

let loaded: Native | undefined;

/** The addon, loaded once. */
export function nativeAddon(): Native {
  if (loaded !== undefined) return loaded;
  const path = fileURLToPath(new URL('../native/build/casemate.node', import.meta.url));
  try {
    loaded = createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    throw new NativeAddonError(`cannot load ${path}: run "npm run build:native"`, { cause });
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
