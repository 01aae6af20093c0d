import { divergences, type VmRecord } from '../../lib/domain/convergence.ts';

/** What the launched VMs still wait for, one line a VM; empty when all converged. */
export function waitingFor(
  ids: readonly string[],
  fleet: ReadonlyMap<string, VmRecord>,
  now: Date,
): readonly string[] {
  const waiting: string[] = [];
  for (const id of ids) {
    const record = fleet.get(id);
    if (!record) waiting.push(`${id}: not observed yet`);
    else {
      const open: string[] = [...divergences(record, 'enforce', now)];
      const { managed, observation } = record.vm;
      if (managed && !record.posture?.standing) open.push('NO_REPORT');
      if (observation.state === 'pending') open.push('PENDING');
      if (open.length > 0) waiting.push(`${id}: ${open.join(', ')}`);
    }
  }
  return waiting;
}
