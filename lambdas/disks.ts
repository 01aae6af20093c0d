import { type DiskItem, diskItem, diskKeyOf, diskPointer } from '../lib/domain/disk-key.ts';
import { getItems, type Table } from './aws/dynamodb.ts';

/** Disks by the volume that carries them. */
export interface DisksByVolume {
  /** @throws CorruptItemError */
  get(volumeId: string): DiskItem | undefined;
}

/** The disks of volumes; a volume that has none is absent. */
export async function readDisks(table: Table, volumeIds: readonly string[]): Promise<DisksByVolume> {
  const pointers = await getItems(
    table,
    volumeIds.map((id) => `disk#${id}`),
    diskPointer,
  );
  const disks = await getItems(
    table,
    pointers.values().map((pointer) => diskKeyOf(volumeOf(pointer), pointer)),
    diskItem,
  );
  return {
    get(volumeId) {
      const pointer = pointers.get(`disk#${volumeId}`);
      return pointer && disks.get(diskKeyOf(volumeId, pointer));
    },
  };
}

function volumeOf(pointer: { readonly pk: string }): string {
  return pointer.pk.slice('disk#'.length);
}
