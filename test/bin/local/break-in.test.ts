import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { agentHome } from '../../../bin/local/agents.ts';
import { BREAKS, breakMachine, NoRecordedMachineError, repairMachine } from '../../../bin/local/break-in.ts';
import { MACHINES } from '../../../bin/local/vms.ts';

const ID = 'i-0123456789abcdef0';
let folder: string;
let machine: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-break-in-'));
  machine = join(agentHome(folder, ID), 'machine');
  mkdirSync(agentHome(folder, ID), { recursive: true });
  cpSync(join(MACHINES, 'epyc-milan-snp-guest'), machine, { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const contents = () => ['cpuid.txt', 'proc/swaps'].map((file) => readFileSync(join(machine, file), 'utf8'));

describe('breaking a recorded machine', () => {
  test.each(BREAKS)('%s changes it, and repairing gives back exactly what it was', (how) => {
    const before = contents();
    breakMachine(folder, ID, how);
    breakMachine(folder, ID, how);
    expect(contents()).not.toEqual(before);
    expect(repairMachine(folder, ID)).toEqual([how]);
    expect(contents()).toEqual(before);
    expect(repairMachine(folder, ID)).toEqual([]);
  });

  test('refuses a VM that has none', () => {
    expect(() => breakMachine(folder, 'i-00000000', 'swap')).toThrow(NoRecordedMachineError);
    expect(() => repairMachine(folder, 'i-00000000')).toThrow(NoRecordedMachineError);
  });
});
