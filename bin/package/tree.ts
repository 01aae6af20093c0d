import { chmodSync, lutimesSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { About } from './about.ts';

/** One file of the packages, at its place on the machine that installs them. */
export interface PackagedFile {
  /** Absolute. */
  readonly path: string;
  readonly mode: 0o644 | 0o755;
  readonly content: Uint8Array | string;
  /** Belongs to the administrator once it is there: an upgrade does not overwrite what they changed. */
  readonly configuration?: true;
}

/** Writes the files below `root`, all of one age, so that the same sources give the same package. */
export function writeTree(root: string, files: readonly PackagedFile[], epochSeconds: number): void {
  for (const file of files) {
    const at = join(root, file.path);
    mkdirSync(dirname(at), { recursive: true, mode: 0o755 });
    writeFileSync(at, file.content);
    chmodSync(at, file.mode); // whatever the umask
  }
  for (const name of ['.', ...readdirSync(root, { recursive: true, encoding: 'utf8' })]) {
    lutimesSync(join(root, name), epochSeconds, epochSeconds);
  }
}

/** What a builder of one format needs. */
export interface Order {
  readonly about: About;
  readonly files: readonly PackagedFile[];
  /** Folder with the format's own scripts. */
  readonly scripts: string;
  /** Folder for what is in the making. */
  readonly work: string;
  /** Folder for what is made. */
  readonly out: string;
}
