import { divergences, type VmRecord } from '../../lib/domain/convergence.ts';

/**
 * What the launched VMs still wait for, one line a VM; empty when all converged.
 *
 * @param confirming their agents open disks, so that each key that is released is waited for until it is active
 */
export function waitingFor(
  ids: readonly string[],
  fleet: ReadonlyMap<string, VmRecord>,
  now: Date,
  confirming = false,
): readonly string[] {
  const waiting: string[] = [];
  for (const id of ids) {
    const record = fleet.get(id);
    if (!record) waiting.push(`${id}: not observed yet`);
    else {
      const open: string[] = [...divergences(record, 'enforce', now)];
      const { managed, observation } = record.vm;
      if (managed && !record.posture?.standing) open.push('NO_REPORT');
      // A VM whose posture stays unproven, as this machine's with plain swap, is refused its keys for good.
      const released = managed && record.posture?.verdict === 'compliant';
      const unconfirmed = [...record.disks.values()].some(
        (disk) => !disk.generations.some((g) => g.state === 'active'),
      );
      if (confirming && released && unconfirmed) open.push('KEY_NOT_CONFIRMED');
      if (observation.state === 'pending') open.push('PENDING');
      if (open.length > 0) waiting.push(`${id}: ${open.join(', ')}`);
    }
  }
  return waiting;
}
