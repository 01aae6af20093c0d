import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { About } from './about.ts';
import { run } from './command.ts';
import { type Order, writeTree } from './tree.ts';

const ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' } as const;
const SCRIPTS = ['postinst', 'prerm', 'postrm'] as const;

/** The control file of the package: deb-control(5). */
export function control(about: About, installedBytes: number): string {
  const fields: readonly (readonly [string, string])[] = [
    ['Package', about.name],
    ['Version', about.version],
    ['Architecture', ARCHITECTURES[about.architecture]],
    ['Maintainer', about.vendor],
    ['Installed-Size', String(Math.ceil(installedBytes / 1024))],
    [
      'Depends',
      `libc6 (>= ${about.glibc}), libstdc++6, libgcc-s1, cryptsetup-bin, kmod, util-linux, mount, e2fsprogs`,
    ],
    ['Recommends', 'dmsetup, xfsprogs, tpm2-tools, qemu-utils, ca-certificates'],
    ['Section', 'admin'],
    ['Priority', 'optional'],
    [
      'Description',
      `${about.summary}\n${about.description.map((line) => (line === '' ? ' .' : ` ${line}`)).join('\n')}`,
    ],
  ];
  return `${fields.map(([name, value]) => `${name}: ${value}`).join('\n')}\n`;
}

/** @returns the path of the .deb */
export async function buildDeb({ about, files, scripts, work, out }: Order): Promise<string> {
  const root = join(work, 'deb');
  const bytes = files.reduce((sum, file) => sum + file.content.length, 0);
  const configuration = files.filter((file) => file.configuration);
  const write = (name: string, mode: number, content: string) => {
    writeFileSync(join(root, 'DEBIAN', name), content);
    chmodSync(join(root, 'DEBIAN', name), mode); // whatever the umask
  };
  mkdirSync(join(root, 'DEBIAN'), { recursive: true });
  write('control', 0o644, control(about, bytes));
  write('conffiles', 0o644, configuration.map((file) => `${file.path}\n`).join(''));
  for (const name of SCRIPTS) write(name, 0o755, readFileSync(join(scripts, name), 'utf8'));
  writeTree(root, files, about.epochSeconds);
  const file = join(out, `${about.name}_${about.version}_${ARCHITECTURES[about.architecture]}.deb`);
  // zstd: dpkg of Debian 12 and Ubuntu 20.04 reads it. Measured: 0.3 s for 38 MB, where xz takes 22 s for 27 MB.
  await run('dpkg-deb', ['--root-owner-group', '-Zzstd', '--build', root, file], {
    SOURCE_DATE_EPOCH: String(about.epochSeconds),
  });
  return file;
}
