import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import {
  decideDiskKey,
  diskItem,
  diskPointer,
  encryptionContext,
  issuedDisk,
  usableGenerations,
} from '../../lib/domain/disk-key.ts';
import { AT, aDisk, aGeneration, aVm, aVolume, DISK, VM_ID } from '../world/items.ts';

const OTHER_VM = 'i-00000002';

describe('what a volume needs', () => {
  test('a blank data volume of a managed VM gets its first key', () => {
    expect(decideDiskKey(aVm(), aVolume(), undefined)).toEqual({ kind: 'issue', generation: 1 });
  });

  test('a disk that has a key keeps it', () => {
    expect(decideDiskKey(aVm(), aVolume(), aDisk())).toEqual({ kind: 'keep' });
  });

  test.each(['issued', 'active', 'retiring', 'retired'] as const)(
    'a disk whose only key is %s gets no second one',
    (state) => {
      const disk = aDisk({ generations: [aGeneration({ state })] });
      expect(decideDiskKey(aVm(), aVolume(), disk)).toEqual({ kind: 'keep' });
    },
  );

  test('a volume made from a snapshot waits to be adopted by its UUID', () => {
    expect(decideDiskKey(aVm(), aVolume({ snapshotId: 'snap-00000001' }), undefined)).toEqual({
      kind: 'wait',
      reason: 'AWAITING_ADOPTION',
    });
  });

  test('a volume from a snapshot that was adopted keeps the key of its disk', () => {
    expect(decideDiskKey(aVm(), aVolume({ snapshotId: 'snap-00000001' }), aDisk())).toEqual({ kind: 'keep' });
  });

  test('a disk whose key is wrapped for another VM waits for a re-encryption', () => {
    expect(decideDiskKey(aVm(), aVolume(), aDisk({ instanceId: OTHER_VM }))).toEqual({
      kind: 'wait',
      reason: 'DISK_MOVED',
    });
  });

  test('nothing is issued for a VM out of scope, also not for its root volume', () => {
    for (const volume of [aVolume(), aVolume({ root: true })]) {
      expect(decideDiskKey(aVm({ managed: false }), volume, undefined)).toEqual({
        kind: 'not-covered',
        reason: 'VM_NOT_MANAGED',
      });
    }
  });

  test('a VM that is leaving scope still has its new volumes covered', () => {
    expect(decideDiskKey(aVm({ leavingScope: true }), aVolume(), undefined).kind).toBe('issue');
  });

  test('a VM that is gone keeps its keys and gets no new one', () => {
    expect(decideDiskKey(aVm({ gone: true }), aVolume(), aDisk())).toEqual({ kind: 'keep' });
    expect(decideDiskKey(aVm({ gone: true }), aVolume(), undefined)).toEqual({
      kind: 'not-covered',
      reason: 'VM_GONE',
    });
  });

  test.each([
    ['ROOT_VOLUME', { root: true }],
    ['MULTI_ATTACH_VOLUME', { multiAttach: true }],
  ])('a volume that is not covered says %s', (reason, overrides) => {
    expect(decideDiskKey(aVm(), aVolume(overrides), undefined)).toEqual({ kind: 'not-covered', reason });
  });

  test('nothing is ever issued where a disk is known, whatever else is true', () => {
    void fc.assert(
      fc.property(
        fc.record({ managed: fc.boolean(), gone: fc.boolean(), leavingScope: fc.boolean() }),
        fc.record({ root: fc.boolean(), multiAttach: fc.boolean() }),
        fc.boolean(),
        fc.constantFrom(VM_ID, OTHER_VM),
        (vm, volume, fromSnapshot, instanceId) => {
          const subject = aVolume({ ...volume, ...(fromSnapshot ? { snapshotId: 'snap-00000001' } : {}) });
          expect(decideDiskKey(aVm(vm), subject, aDisk({ instanceId })).kind).not.toBe('issue');
        },
      ),
    );
  });
});

describe('the first item of a disk', () => {
  const decision = { at: AT, reasons: ['KEY_ISSUED'], policies: ['disk-keys.managed'] };
  const disk = issuedDisk(
    { disk: DISK, volumeId: 'vol-00000001', instanceId: VM_ID },
    'd3JhcHBlZA==',
    decision,
  );

  test('has one issued generation, wrapped for its VM', () => {
    expect(disk.generations).toEqual([
      { generation: 1, state: 'issued', wrappedKey: 'd3JhcHBlZA==', wrappedFor: VM_ID, issuedAt: AT },
    ]);
  });

  test('fits its schema, and nothing beside the wrapped key fits in', () => {
    const item = { pk: `disk#${DISK}`, version: 1, ...disk };
    expect(diskItem.parse(item)).toEqual(item);
    const leaking = { ...item, generations: [{ ...disk.generations[0], plaintextKey: 'AAAA' }] };
    expect(diskItem.safeParse(leaking).success).toBe(false);
  });
});

test('a key is usable while it is issued or active', () => {
  const generations = (['issued', 'active', 'retiring', 'retired'] as const).map((state, i) =>
    aGeneration({ generation: i + 1, state }),
  );
  expect(usableGenerations(aDisk({ generations })).map((g) => g.generation)).toEqual([1, 2]);
});

describe('the encryption context', () => {
  test('names disk, generation and VM, and nothing else', () => {
    expect(encryptionContext(DISK, 3, VM_ID)).toEqual({
      'casemate:disk': DISK,
      'casemate:generation': '3',
      'casemate:vm': VM_ID,
    });
  });

  test('differs when any one of the three differs', () => {
    const all = [
      encryptionContext(DISK, 1, VM_ID),
      encryptionContext(DISK, 2, VM_ID),
      encryptionContext(DISK, 1, OTHER_VM),
      encryptionContext('00000000-0000-4000-8000-000000000000', 1, VM_ID),
    ];
    expect(new Set(all.map((context) => JSON.stringify(context))).size).toBe(4);
  });
});

test('a pointer that names no UUID is no pointer', () => {
  expect(diskPointer.safeParse({ pk: 'disk#vol-00000001', disk: 'vol-00000001' }).success).toBe(false);
});
