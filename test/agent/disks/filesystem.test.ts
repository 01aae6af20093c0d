import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mountDisk, prepareMountPoint, wantedFilesystem } from '../../../agent/disks/filesystem.ts';
import type { RunTool } from '../../../agent/disks/tool.ts';
import { temporaryFolder } from '../harness.ts';
import { VOLUME } from './pipeline.ts';

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

/** A machine whose opened disk is mounted nowhere and carries these signatures, as wipefs tells them. */
function carrying(...types: string[]) {
  const asked: string[] = [];
  const run: RunTool = async (tool) => {
    asked.push(tool);
    const signatures = types.map((type) => ({
      device: 'dm-0',
      offset: '0x0',
      type,
      uuid: null,
      label: null,
    }));
    const stdout = tool === 'wipefs' && types.length > 0 ? JSON.stringify({ signatures }) : '';
    return { code: tool === 'findmnt' ? 1 : 0, stdout, stderr: '' };
  };
  return { run, asked };
}
const wanting = (filesystem: string | null) => ({
  volumeId: VOLUME,
  filesystem,
  mountPoint: join(folder.path, 'data'),
});

describe('an opened disk', () => {
  test.each<[string, string[], string | null, string]>([
    ['another file system than its tag says', ['xfs'], 'ext4', 'carries xfs'],
    ['one that nobody asked for', ['btrfs'], null, 'carries btrfs'],
    ['none', [], 'ext4', 'carries none'],
  ])('with %s is not mounted, and nothing is made on it', async (_, types, filesystem, says) => {
    const { run, asked } = carrying(...types);
    await expect(mountDisk(run, wanting(filesystem), [folder.path])).rejects.toMatchObject({
      reason: 'FILESYSTEM_UNEXPECTED',
      message: expect.stringContaining(says),
    });
    expect(asked).toEqual(['findmnt', 'wipefs']);
  });

  test('is mounted where its tag says when it carries what its tag says', async () => {
    const { run, asked } = carrying('ext4');
    await expect(mountDisk(run, wanting('ext4'), [folder.path])).resolves.toBe(join(folder.path, 'data'));
    expect(asked).toEqual(['findmnt', 'wipefs', 'mount']);
  });

  test('gets no file system that this agent does not make', () => {
    expect(() => wantedFilesystem(wanting('btrfs'))).toThrow(/^FILESYSTEM_REFUSED: /);
  });
});

describe('a mount point', () => {
  const refused = expect.objectContaining({ reason: 'MOUNT_POINT_REFUSED' });

  test('is made where there is none', () => {
    prepareMountPoint(join(folder.path, 'a/b'));
    prepareMountPoint(join(folder.path, 'a/b'));
  });

  test('with something in it is refused: a mount would hide that', () => {
    writeFileSync(join(folder.path, 'file'), '');
    expect(() => prepareMountPoint(folder.path)).toThrow(refused);
  });

  test('that a link leads to is refused', () => {
    mkdirSync(join(folder.path, 'elsewhere'));
    symlinkSync(join(folder.path, 'elsewhere'), join(folder.path, 'link'));
    expect(() => prepareMountPoint(join(folder.path, 'link/data'))).toThrow(refused);
    expect(() => prepareMountPoint(join(folder.path, 'link'))).toThrow(refused);
  });
});
