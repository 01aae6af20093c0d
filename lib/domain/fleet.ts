import * as z from 'zod';
import type { VmRecord } from './convergence.ts';
import { type DenialsItem, denialsItem } from './credentials.ts';
import { type DiskItem, diskItem, diskKeyOf, diskPointer } from './disk-key.ts';
import { type IsolationItem, isolationItem } from './isolation.ts';
import { type OperatorItem, operatorItem } from './operator.ts';
import { type PostureItem, postureItem } from './posture.ts';
import { QUOTA_PK } from './quotas.ts';
import { type VmItem, vmItem } from './vm.ts';

/** An item of the table that is not what its key says. Reported, never decided on. */
export interface CorruptItem {
  readonly pk: string;
  readonly fault: string;
}

export interface Fleet {
  readonly fleet: ReadonlyMap<string, VmRecord>;
  readonly corrupt: readonly CorruptItem[];
  /** Whose credentials are denied, where that was ever done. */
  readonly denials: DenialsItem | undefined;
  /** The item of the account's quotas, as it stands there: limitsInForce judges it. */
  readonly quotas: unknown;
}

/** Puts the items of the whole table together by VM. Kinds that belong to no VM's record are passed over. */
export async function assembleFleet(items: AsyncIterable<Record<string, unknown>>): Promise<Fleet> {
  const vms: VmItem[] = [];
  const disks = new Map<string, DiskItem>();
  const pointers = new Map<string, string>();
  const postures = new Map<string, PostureItem>();
  const isolations = new Map<string, IsolationItem>();
  const operators = new Map<string, OperatorItem>();
  let denials: DenialsItem | undefined;
  let quotas: unknown;
  const corrupt: CorruptItem[] = [];
  const read = <T>(item: Record<string, unknown>, schema: z.ZodType<T>, keep: (value: T) => void) => {
    const parsed = schema.safeParse(item);
    if (parsed.success) keep(parsed.data);
    else corrupt.push({ pk: String(item['pk']), fault: z.prettifyError(parsed.error) });
  };
  for await (const item of items) {
    const pk = String(item['pk']);
    const kind = pk.slice(0, pk.indexOf('#'));
    if (kind === 'vm') read(item, vmItem, (vm) => vms.push(vm));
    else if (pk.startsWith('disk#vol-')) {
      const volume = pk.slice('disk#'.length);
      read(item, diskPointer, (pointer) => pointers.set(volume, diskKeyOf(volume, pointer)));
    } else if (kind === 'disk') read(item, diskItem, (disk) => disks.set(disk.pk, disk));
    else if (kind === 'posture')
      read(item, postureItem, (posture) => postures.set(posture.instanceId, posture));
    else if (kind === 'isolation') {
      read(item, isolationItem, (isolation) => isolations.set(isolation.instanceId, isolation));
    } else if (kind === 'operator') {
      read(item, operatorItem, (operator) => operators.set(operator.instanceId, operator));
    } else if (kind === 'credential') {
      read(item, denialsItem, (found) => {
        denials = found;
      });
    } else if (pk === QUOTA_PK) quotas = item;
  }
  const disksOfVm = new Map<string, DiskItem[]>();
  for (const disk of disks.values()) {
    const list = disksOfVm.get(disk.instanceId) ?? [];
    list.push(disk);
    disksOfVm.set(disk.instanceId, list);
  }
  const fleet = new Map<string, VmRecord>();
  for (const vm of vms) {
    const id = vm.observation.instanceId;
    const own = new Map<string, DiskItem>();
    for (const volume of vm.observation.volumes) {
      const disk = disks.get(pointers.get(volume.id) ?? '');
      if (disk) own.set(volume.id, disk);
    }
    // A detached volume leaves the VM's observation; its key stays, and so does the sight of it.
    for (const disk of disksOfVm.get(id) ?? []) own.set(disk.volumeId, disk);
    fleet.set(id, {
      vm,
      disks: own,
      posture: postures.get(id),
      isolation: isolations.get(id),
      operator: operators.get(id),
    });
  }
  return { fleet, corrupt, denials, quotas };
}
