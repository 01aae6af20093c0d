import { equalBytes, isZero } from '../bytes.ts';
import { expectGeneration } from '../expect.ts';
import type { Generation } from '../rollout.ts';
import type { Checklist } from '../verdict.ts';
import type { NitroDocument } from './bytes.ts';
import type { NitroEvidence } from './verify.ts';

export interface NitroPolicy {
  readonly kinds: readonly NitroDocument['kind'][];
  /** How far the document's time may be from the time of verification, either way. */
  readonly maxAgeSeconds: number;
  /** AWS Region of the module; left out: any. */
  readonly region?: string | undefined;
  /** An enclave in debug mode has zeros for PCR0 to PCR2. */
  readonly allowDebug: boolean;
  /** Allowed PCRs by `PCR<n>`; empty: not looked at. */
  readonly generations: readonly Generation[];
}

export const defaultNitroPolicy: NitroPolicy = {
  kinds: ['enclave', 'nitrotpm'],
  maxAgeSeconds: 300,
  allowDebug: false,
  generations: [],
};

/** What the caller knows of this one document. */
export interface NitroExpectation {
  readonly nonce?: Uint8Array | undefined;
  readonly userData?: Uint8Array | undefined;
  readonly instanceId?: string | undefined;
}

/**
 * Whether the registers fix what boots on a NitroTPM. PCR4 (boot manager, UKI) alone does not: without Secure
 * Boot systemd-boot takes a further command line, which only PCR12 shows (GHSA-xrv8-2pf5-f3q7). With Secure
 * Boot, PCR7 says who may sign.
 */
export function pinsBoot(registers: readonly string[]): boolean {
  const has = (name: string) => registers.includes(name);
  return has('PCR7') || (has('PCR4') && has('PCR12'));
}

export function judgeNitro(
  evidence: NitroEvidence,
  policy: NitroPolicy,
  expected: NitroExpectation,
  at: Date,
  checks: Checklist,
): void {
  const { document, region } = evidence;
  const { kind, pcrs } = document;
  checks.expect('kind of module', policy.kinds.includes(kind), 'NITRO_KIND', kind);
  const ageSeconds = (at.getTime() - document.timestamp.getTime()) / 1000;
  checks.expect('fresh', Math.abs(ageSeconds) <= policy.maxAgeSeconds, 'NITRO_STALE', `${ageSeconds} s old`);
  const measured = [0, 1, 2].every((index) => !isZero(pcrs.get(index) ?? new Uint8Array()));
  checks.expect('PCR0 to PCR2 are not zero', measured || policy.allowDebug, 'NITRO_DEBUG');
  if (policy.region === undefined) checks.skip('Region', 'none is demanded');
  else checks.expect('Region', region === policy.region, 'NITRO_REGION_MISMATCH', region);
  if (expected.instanceId === undefined) checks.skip('instance', 'none is expected');
  else {
    const isInstance = document.instanceId === expected.instanceId;
    checks.expect('instance', isInstance, 'NITRO_INSTANCE_MISMATCH', document.instanceId);
  }
  if (policy.generations.length === 0) checks.skip('measurement', 'no generations are named');
  else {
    const weak = policy.generations.find(
      ({ measurements }) => kind === 'nitrotpm' && !pinsBoot(Object.keys(measurements)),
    );
    checks.expect('generations pin what boots', !weak, 'NITRO_PCRS_INSUFFICIENT', weak?.name);
    const named = Object.fromEntries([...pcrs].map(([index, digest]) => [`PCR${index}`, digest]));
    expectGeneration(policy.generations, named, at, checks);
  }
  expectField('nonce', document.nonce, expected.nonce, checks);
  expectField('user data', document.userData, expected.userData, checks);
}

function expectField(
  name: 'nonce' | 'user data',
  actual: Uint8Array | null,
  expected: Uint8Array | undefined,
  checks: Checklist,
): void {
  const reason = name === 'nonce' ? 'NONCE_MISMATCH' : 'USER_DATA_MISMATCH';
  if (expected === undefined) checks.skip(name, 'none is expected');
  else checks.expect(name, actual !== null && equalBytes(actual, expected), reason);
}
