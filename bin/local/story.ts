import { setTimeout as sleep } from 'node:timers/promises';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import { REASONS, type Reason } from '../../lib/domain/reasons.ts';
import { breakMachine, repairMachine } from './break-in.ts';

/** What happened to a VM whose hardware stopped showing what EC2 launched it with, in the order in which it did. */
export interface BreakIn {
  readonly instanceId: string;
  readonly events: readonly {
    /** Since the break. */
    readonly afterSeconds: number;
    readonly what: 'broken' | 'contained' | 'repaired' | 'restored';
    readonly reasons: readonly string[];
    /** Groups of each interface, as read back. */
    readonly interfaces: readonly { readonly id: string; readonly groups: readonly string[] }[];
  }[];
}

export interface Stage {
  readonly folder: string;
  readonly instanceId: string;
  look(): Promise<VmRecord | undefined>;
  say(text: string): void;
  /** Rejects when it is to end, or when an emulator died. */
  readonly ended: Promise<never>;
  readonly deadline: number;
}

/** Plays a break-in: the guest's SEV-SNP goes away, the VM is contained, repaired, and given back. */
export async function playBreakIn(stage: Stage): Promise<BreakIn> {
  const began = Date.now();
  const events: BreakIn['events'][number][] = [];
  const note = (what: BreakIn['events'][number]['what'], record: VmRecord | undefined) => {
    const { isolation } = record ?? {};
    events.push({
      afterSeconds: (Date.now() - began) / 1000,
      what,
      reasons: isolation?.reasons ?? [],
      interfaces: isolation?.interfaces.map(({ id, groups }) => ({ id, groups })) ?? [],
    });
  };
  const until = async (profile: 'quarantine' | 'workload'): Promise<VmRecord> => {
    for (;;) {
      const record = await stage.look();
      if (record?.isolation?.profile === profile && record.isolation.applied) return record;
      if (Date.now() > stage.deadline) {
        throw new Error(`${stage.instanceId} is not in ${profile}: it is in ${record?.isolation?.profile}`);
      }
      await Promise.race([sleep(200), stage.ended]);
    }
  };
  breakMachine(stage.folder, stage.instanceId, 'no-snp');
  note('broken', await stage.look());
  stage.say('its agent will report what it measures');
  const contained = await until('quarantine');
  note('contained', contained);
  stage.say(`contained: ${contained.isolation?.reasons.join(', ')}; being repaired`);
  repairMachine(stage.folder, stage.instanceId);
  note('repaired', contained);
  note('restored', await until('workload'));
  return { instanceId: stage.instanceId, events };
}

/** The break-in as a person reads it. */
export function breakInText({ instanceId, events }: BreakIn): string {
  const sentence = {
    broken: `the guest of ${instanceId} stops showing SEV-SNP, though EC2 launched it so`,
    contained: 'contained on every interface',
    repaired: 'its guest shows SEV-SNP again',
    restored: 'given back its own groups',
  };
  const lines = ['', 'A break-in, as it went:'];
  for (const { afterSeconds, what, reasons, interfaces } of events) {
    lines.push(`${afterSeconds.toFixed(1).padStart(6)} s  ${sentence[what]}`);
    if (what === 'contained' || what === 'restored') {
      for (const reason of reasons)
        lines.push(`          ${reason}: ${REASONS[reason as Reason] ?? 'a policy of your own'}`);
      for (const { id, groups } of interfaces) lines.push(`          ${id}: ${groups.join(' ')}`);
    }
  }
  return lines.join('\n');
}
