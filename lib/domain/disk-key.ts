import * as z from 'zod';
import { diskUuid, instanceId, utcTime, volumeId } from './ids.ts';
import { coverageOf, type ObservedVolume, type VmItem } from './vm.ts';

/**
 * `issued`: may be released, nothing on disk confirmed. `active`: the agent confirmed that a keyslot opens
 * with it. `retiring`: delayed, announced, cancellable. `retired`: shredded.
 */
export const generationState = z.enum(['issued', 'active', 'retiring', 'retired']);

export const keyGeneration = z.strictObject({
  generation: z.number().int().positive(),
  state: generationState,
  /** KMS ciphertext, base64. The plaintext is never here. */
  wrappedKey: z.base64(),
  /** The VM in the encryption context that the key was wrapped under. */
  wrappedFor: instanceId,
  issuedAt: utcTime,
});
export type KeyGeneration = z.infer<typeof keyGeneration>;

/** The `disk#<uuid>` item. */
export const diskItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  disk: diskUuid,
  volumeId,
  instanceId,
  generations: z.array(keyGeneration),
  decision: z.strictObject({ at: utcTime, reasons: z.array(z.string()), policies: z.array(z.string()) }),
});
export type DiskItem = z.infer<typeof diskItem>;

/** The `disk#vol-…` item: which disk an EBS volume carries now. */
export const diskPointer = z.strictObject({ pk: z.string(), disk: diskUuid });

/** The encryption context of a wrapped disk key: KMS refuses to unwrap under any other (PROTOCOL.md). */
export function encryptionContext(disk: string, generation: number, vm: string): Record<string, string> {
  return {
    'casemate:disk': disk,
    'casemate:generation': String(generation),
    'casemate:vm': vm,
  };
}

/** A key that opens something: what "exactly one usable key" counts. */
export function usableGenerations(disk: DiskItem): readonly KeyGeneration[] {
  return disk.generations.filter((g) => g.state === 'issued' || g.state === 'active');
}

export type DiskKeyDecision =
  /** Ask policy, and if it permits, generate this generation. */
  | { readonly kind: 'issue'; readonly generation: number }
  | { readonly kind: 'keep' }
  | {
      readonly kind: 'wait';
      readonly reason: 'AWAITING_ADOPTION' | 'DISK_MOVED';
    }
  | {
      readonly kind: 'not-covered';
      readonly reason: 'VM_NOT_MANAGED' | 'VM_GONE' | 'ROOT_VOLUME' | 'MULTI_ATTACH_VOLUME';
    };

/**
 * What this volume of this VM needs now.
 *
 * A volume made from a snapshot is not blank: it may carry a LUKS header whose key exists, so it waits to
 * be adopted by its UUID and never gets a fresh key that opens nothing. A disk whose keys are wrapped for
 * another VM waits for a re-encryption that policy agrees to. A VM that is gone keeps its keys.
 */
export function decideDiskKey(
  vm: VmItem,
  volume: ObservedVolume,
  disk: DiskItem | undefined,
): DiskKeyDecision {
  if (!vm.managed) return { kind: 'not-covered', reason: 'VM_NOT_MANAGED' };
  const coverage = coverageOf(volume);
  if (!coverage.covered) return { kind: 'not-covered', reason: coverage.reason };
  if (disk) {
    if (disk.instanceId !== vm.observation.instanceId) return { kind: 'wait', reason: 'DISK_MOVED' };
    // Also when every generation is retired: that was an operator's decision, and issuing anew undoes it.
    return { kind: 'keep' };
  }
  if (vm.gone) return { kind: 'not-covered', reason: 'VM_GONE' };
  if (volume.snapshotId !== undefined) return { kind: 'wait', reason: 'AWAITING_ADOPTION' };
  return { kind: 'issue', generation: 1 };
}

/** The first item of a disk, before any version was written. */
export function issuedDisk(
  ids: { disk: string; volumeId: string; instanceId: string },
  wrappedKey: string,
  decision: DiskItem['decision'],
): Omit<DiskItem, 'pk' | 'version'> {
  return {
    ...ids,
    generations: [
      {
        generation: 1,
        state: 'issued',
        wrappedKey,
        wrappedFor: ids.instanceId,
        issuedAt: decision.at,
      },
    ],
    decision,
  };
}
