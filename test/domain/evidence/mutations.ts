import { expect } from '@jest/globals';
import fc from 'fast-check';
import type { Verdict } from '../../../lib/domain/evidence/verdict.ts';

/** How many times as long as usual: FUZZ=100 makes a long run of it. */
export const effort = Number(process.env['FUZZ'] ?? 1);

/** Evidence that must stop being accepted however it is changed. */
export function expectNoMutationAccepted(
  genuine: Buffer,
  verify: (bytes: Buffer) => Verdict,
  usual: { readonly runs: number },
): void {
  const runs = usual.runs * effort;
  expect(verify(genuine).reasons).toEqual([]);
  const refused = (bytes: Buffer) => {
    const verdict = verify(bytes);
    expect(verdict.accepted).toBe(false);
    expect(verdict.reasons).not.toEqual([]);
    expect(verdict.reasons).not.toContain('UNFORESEEN');
  };
  fc.assert(
    fc.property(fc.nat(genuine.length - 1), fc.integer({ min: 1, max: 255 }), (index, change) => {
      const changed = Buffer.from(genuine);
      changed[index] = (changed[index] ?? 0) ^ change;
      refused(changed);
    }),
    { numRuns: runs },
  );
  fc.assert(
    fc.property(fc.nat(genuine.length - 1), (length) => refused(genuine.subarray(0, length))),
    { numRuns: Math.ceil(runs / 5) },
  );
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), (more) => {
      fc.pre(more.some((byte) => byte !== 0));
      refused(Buffer.concat([genuine, more]));
    }),
    { numRuns: Math.ceil(runs / 10) },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 512 }), (noise) => refused(Buffer.from(noise))),
    { numRuns: Math.ceil(runs / 10) },
  );
  refused(Buffer.alloc(64 * 1024 * 1024, 0x30));
}
