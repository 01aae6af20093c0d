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
  /** KMS ciphertext, base64; null once it was shredded. The plaintext is never here. */
  wrappedKey: z.base64().nullable(),
  /** The VM in the encryption context that the key was wrapped under. */
  wrappedFor: instanceId,
  issuedAt: utcTime,
  /** When an agent first said that a keyslot opens with it. */
  confirmedAt: utcTime.optional(),
  /** `retiring` alone: not shredded before. */
  retireAfter: utcTime.optional(),
  /** Secrets of a BitLocker volume, sealed by the agent under this key; the newest first. */
  escrows: z.array(z.strictObject({ at: utcTime, sealed: z.base64() })).optional(),
});
export type KeyGeneration = z.infer<typeof keyGeneration>;

/** A recovery key in its own keyslot, sealed to the public half of the recovery key pair. */
export const sealedRecoveryKey = z.strictObject({
  at: utcTime,
  generation: z.number().int().positive(),
  sealed: z.base64(),
});

/** The `disk#<uuid>` item. */
export const diskItem = z.strictObject({
  pk: z.string(),
  version: z.number().int(),
  disk: diskUuid,
  volumeId,
  instanceId,
  generations: z.array(keyGeneration),
  /** The item is of a copy: a volume restored from a snapshot while the disk itself may live on. */
  copy: z.literal(true).optional(),
  /** When this VM took the disk over; keys issued before are known elsewhere. */
  adoptedAt: utcTime.optional(),
  /** First look that found neither a volume nor a snapshot of it, after its keys were to be retired. */
  missingSince: utcTime.optional(),
  /** The newest first. */
  recoveryKeys: z.array(sealedRecoveryKey).optional(),
  decision: z.strictObject({ at: utcTime, reasons: z.array(z.string()), policies: z.array(z.string()) }),
});
export type DiskItem = z.infer<typeof diskItem>;

/** The `disk#vol-…` item: which disk an EBS volume carries now, and whether it is a copy with an item of its own. */
export const diskPointer = z.strictObject({
  pk: z.string(),
  disk: diskUuid,
  copy: z.literal(true).optional(),
});

/** Where the item of the disk on a volume is. */
export function diskKeyOf(
  volume: string,
  pointer: Pick<z.infer<typeof diskPointer>, 'disk' | 'copy'>,
): string {
  return pointer.copy ? `disk#${pointer.disk}@${volume}` : `disk#${pointer.disk}`;
}

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

/** What is on a covered volume: a LUKS2 header of ours, or a BitLocker volume whose secret is escrowed. */
export const diskKind = z.enum(['luks2', 'bitlk']);
export type DiskKind = z.infer<typeof diskKind>;

/** By the volume's tag; anything but `bitlk` is LUKS2. */
export function diskKindOf(volume: ObservedVolume): DiskKind {
  return volume.tags?.['casemate:kind'] === 'bitlk' ? 'bitlk' : 'luks2';
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
  // A BitLocker volume is never formatted: its key seals the volume's own secret, wherever it came from.
  if (volume.snapshotId !== undefined && diskKindOf(volume) === 'luks2')
    return { kind: 'wait', reason: 'AWAITING_ADOPTION' };
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
