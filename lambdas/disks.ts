import { type DiskItem, diskItem, diskPointer } from '../lib/domain/disk-key.ts';
import { getItems, type Table } from './aws/dynamodb.ts';

/** The disks of volumes, by volume id; a volume that has none is absent. */
export async function readDisks(
  table: Table,
  volumeIds: readonly string[],
): Promise<ReadonlyMap<string, DiskItem>> {
  const pointers = await getItems(
    table,
    volumeIds.map((id) => `disk#${id}`),
    diskPointer,
  );
  const disks = await getItems(
    table,
    [...pointers.values()].map((pointer) => `disk#${pointer.disk}`),
    diskItem,
  );
  const byVolume = new Map<string, DiskItem>();
  for (const volumeId of volumeIds) {
    const pointer = pointers.get(`disk#${volumeId}`);
    const disk = pointer && disks.get(`disk#${pointer.disk}`);
    if (disk) byVolume.set(volumeId, disk);
  }
  return byVolume;
}
