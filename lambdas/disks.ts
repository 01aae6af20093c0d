import { type DiskItem, diskItem, diskPointer } from '../lib/domain/disk-key.ts';
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
    pointers.values().map((pointer) => `disk#${pointer.disk}`),
    diskItem,
  );
  return {
    get(volumeId) {
      const pointer = pointers.get(`disk#${volumeId}`);
      return pointer && disks.get(`disk#${pointer.disk}`);
    },
  };
}
