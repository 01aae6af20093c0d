import { styleText } from 'node:util';
import CliTable from 'cli-table3';
import type { VmView } from './view.ts';

/** Colours only on a terminal; NO_COLOR and FORCE_COLOR are respected. */
function paint(
  format: 'green' | 'yellow' | 'red' | 'dim' | 'bold',
  text: string,
  stream: NodeJS.WriteStream,
): string {
  return styleText(format, text, { stream });
}

const VERDICT_COLOURS = { compliant: 'green', unproven: 'yellow', noncompliant: 'red' } as const;

/** The listing: one row a VM, volumes and interfaces below each other. */
export function fleetTable(views: readonly VmView[], stream: NodeJS.WriteStream): string {
  const table = new CliTable({
    head: ['VM', 'volumes and keys', 'isolation', 'posture'].map((h) => paint('bold', h, stream)),
    style: { head: [], border: [], compact: true },
  });
  for (const vm of [...views].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const verdict = vm.posture.verdict as keyof typeof VERDICT_COLOURS;
    const colour = VERDICT_COLOURS[verdict] ?? 'dim';
    table.push([
      `${vm.id}\n${paint('dim', vm.state, stream)}`,
      vm.volumes.map((v) => `${v.id} ${keysOf(v, stream)}`).join('\n') || '-',
      vm.isolation.profile === null
        ? paint('dim', 'left alone', stream)
        : [
            `${vm.isolation.profile}${vm.isolation.applied ? '' : paint('yellow', ' (not applied)', stream)}`,
            ...vm.isolation.interfaces.map(
              (eni) => `${eni.id} ${paint('dim', eni.groups.join(' '), stream)}`,
            ),
          ].join('\n'),
      `${paint(colour, vm.posture.verdict, stream)}\n${vm.posture.reasons.join('\n')}`,
    ]);
  }
  return table.toString();
}

function keysOf(volume: VmView['volumes'][number], stream: NodeJS.WriteStream): string {
  if (volume.keys.length > 0) {
    const keys = volume.keys.map((k) => `key ${k.generation} ${k.state}`).join(', ');
    return volume.reason ? `${keys} ${paint('dim', volume.reason, stream)}` : keys;
  }
  return paint(
    'dim',
    volume.covered ? (volume.reason ?? 'no key yet') : `not covered: ${volume.reason}`,
    stream,
  );
}
