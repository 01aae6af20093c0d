import type { DiskDevice } from '../../lib/domain/disk-plan.ts';
import { type Cryptsetup, createCryptsetup } from './cryptsetup.ts';
import type { Caller } from './pipeline.ts';
import type { RunTool } from './tool.ts';

/** What working on disks takes. */
export interface DiskParts extends Caller {
  readonly run: RunTool;
  readonly cryptsetup: Cryptsetup;
  /** Volumes that a file stands for and whose key this process has proven. */
  readonly proven: Set<string>;
  /** Says one line to whoever watches. */
  readonly say: (line: string) => void;
}

export function createDiskParts(caller: Caller, run: RunTool, say: (line: string) => void): DiskParts {
  return { ...caller, run, cryptsetup: createCryptsetup(run), proven: new Set(), say };
}

/** A disk on its device, as the steps of its life take it. */
export interface DiskOnDevice {
  readonly volumeId: string;
  readonly disk: string;
  readonly device: DiskDevice;
}
