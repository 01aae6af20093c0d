import { spawnSync } from 'node:child_process';
import { readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { HeaderCopy } from '../../../agent/disks/header.ts';
import { temporaryFolder } from '../harness.ts';

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

test('a copy of a header is root’s alone, goes with its scope, and takes what killed processes left with it', () => {
  const path = join(folder.path, 'disk');
  writeFileSync(path, 'LUKS');
  truncateSync(path, 32 * 1024 * 1024);
  const copies = join(folder.path, 'run');
  const device = { path, bytes: 32 * 1024 * 1024, mappedBy: 'file' } as const;
  const ended = spawnSync('true').pid;
  {
    using living = new HeaderCopy(copies, device);
    writeFileSync(join(copies, `header-${ended}-of-a-killed-process`), 'old keyslots');
    using second = new HeaderCopy(copies, device);
    const names = [living, second].map((copy) => copy.path.slice(copies.length + 1));
    expect(readdirSync(copies).sort()).toEqual(names.sort());
    expect(statSync(living.path).mode & 0o777).toBe(0o600);
  }
  expect(readdirSync(copies)).toEqual([]);
});
