import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { agentHome } from './agents.ts';

/** How a recorded machine can be broken: memory goes to a plain device; SEV_STATUS says that SEV-SNP is off. */
export const BREAKS = ['swap', 'no-snp'] as const;
export type Break = (typeof BREAKS)[number];

/** The VM has no recorded machine here: it is unknown, or probes this very host. */
export class NoRecordedMachineError extends Error {
  override readonly name = 'NoRecordedMachineError';
}

/** The files of a machine that a break changes. */
const FILE = { swap: 'proc/swaps', 'no-snp': 'cpuid.txt' } as const satisfies Record<Break, string>;

/** @throws NoRecordedMachineError */
export function breakMachine(folder: string, instanceId: string, how: Break): void {
  const machine = machineOf(folder, instanceId);
  const file = join(machine, FILE[how]);
  const sound = soundCopy(folder, instanceId, how);
  if (!existsSync(sound)) {
    mkdirSync(dirname(sound), { recursive: true });
    copyFileSync(file, sound);
  }
  switch (how) {
    case 'swap':
      // A plain disk, as the kernel shows it: no device-mapper in its sysfs folder.
      mkdirSync(join(machine, 'sys/class/block/nvme1n1'), { recursive: true });
      replaceFile(file, 'Filename\tType\tSize\tUsed\tPriority\n/dev/nvme1n1 partition 1048572 0 -2\n');
      break;
    case 'no-snp':
      replaceFile(
        file,
        readFileSync(file, 'utf8').replace(/^MSR 0xc0010131: .*$/m, 'MSR 0xc0010131: 0x0000000000000000'),
      );
      break;
  }
}

/** Gives a broken machine back what it was recorded with. @returns what was broken; @throws NoRecordedMachineError */
export function repairMachine(folder: string, instanceId: string): readonly Break[] {
  const machine = machineOf(folder, instanceId);
  return BREAKS.filter((how) => {
    const sound = soundCopy(folder, instanceId, how);
    if (!existsSync(sound)) return false;
    replaceFile(join(machine, FILE[how]), readFileSync(sound, 'utf8'));
    rmSync(sound);
    return true;
  });
}

function machineOf(folder: string, instanceId: string): string {
  const machine = join(agentHome(folder, instanceId), 'machine');
  if (existsSync(machine)) return machine;
  throw new NoRecordedMachineError(
    `${instanceId} is unknown here or probes this very host: only a recorded machine can be broken`,
  );
}

function soundCopy(folder: string, instanceId: string, how: Break): string {
  return join(agentHome(folder, instanceId), 'sound', how);
}

/** In one step: the agent may be reading. */
function replaceFile(file: string, content: string): void {
  writeFileSync(`${file}.new`, content);
  renameSync(`${file}.new`, file);
}
