import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { About } from './about.ts';
import { run } from './command.ts';
import { type Order, type PackagedFile, writeTree } from './tree.ts';

const ARCHITECTURES = { x64: 'x86_64', arm64: 'aarch64' } as const;
const SCRIPTS = ['post', 'preun', 'postun'] as const;

/** The spec file: https://rpm-software-management.github.io/rpm/manual/spec.html */
export function spec(
  about: About,
  files: readonly PackagedFile[],
  tree: string,
  scripts: Readonly<Record<(typeof SCRIPTS)[number], string>>,
): string {
  const list = files.map((file) => {
    const mode = `%attr(${file.mode.toString(8)}, root, root)`;
    return `${mode} ${file.configuration ? '%config(noreplace) ' : ''}${file.path}`;
  });
  // Folders of its own go with the package; dpkg sees to that by itself, rpm is told.
  const folders = [...new Set(files.flatMap(({ path }) => ownFolders(path, about.name)))].sort();
  list.push(...folders.map((folder) => `%dir %attr(755, root, root) ${folder}`));
  return `# What is in the tree is finished: nothing is compressed, stripped, byte-compiled or linked again.
%global __os_install_post %{nil}
%global debug_package %{nil}
%global _build_id_links none
%global _binary_payload w3.zstdio
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _buildhost reproducible

Name: ${about.name}
Version: ${about.version}
Release: 1
Summary: ${about.summary}
License: ${about.licence}
Vendor: ${about.vendor}
# Node's own libraries are in it and nobody else's to use; what it needs is told by hand.
AutoReqProv: no
Requires: libc.so.6(GLIBC_${about.glibc})(64bit)
Requires: libstdc++.so.6()(64bit)
Requires: libgcc_s.so.1()(64bit)
Requires: cryptsetup
Requires: kmod
Requires: util-linux
Requires: e2fsprogs
Recommends: xfsprogs
Recommends: tpm2-tools
Recommends: qemu-img

%description
${about.description.join('\n')}

%install
cp -a ${tree}/. %{buildroot}

%files
${list.join('\n')}

${SCRIPTS.map((name) => `%${name}\n${scripts[name].trim()}\n`).join('\n')}`;
}

/** The folders above a file that are nobody else's: from the one that has the project's name downwards. */
function ownFolders(path: string, name: string): readonly string[] {
  const parts = path.split('/').slice(0, -1);
  const first = parts.findIndex((part) => part === 'casemate' || part === name);
  return first < 0 ? [] : parts.slice(first).map((_, i) => parts.slice(0, first + i + 1).join('/'));
}

/** @returns the path of the .rpm */
export async function buildRpm({ about, files, scripts, work, out }: Order): Promise<string> {
  const top = join(work, 'rpm');
  const tree = join(top, 'tree');
  mkdirSync(tree, { recursive: true });
  writeTree(tree, files, about.epochSeconds);
  // rpm runs them with /bin/sh by itself.
  const read = (name: string) => readFileSync(join(scripts, name), 'utf8').replace(/^#!.*\n/, '');
  const scriptlets = { post: read('post'), preun: read('preun'), postun: read('postun') };
  const specFile = join(top, `${about.name}.spec`);
  writeFileSync(specFile, spec(about, files, tree, scriptlets));
  const architecture = ARCHITECTURES[about.architecture];
  await run(
    'rpmbuild',
    ['-bb', '--quiet', '--target', architecture, '--define', `_topdir ${top}`, specFile],
    { SOURCE_DATE_EPOCH: String(about.epochSeconds) },
  );
  const name = `${about.name}-${about.version}-1.${architecture}.rpm`;
  copyFileSync(join(top, 'RPMS', architecture, name), join(out, name)); // /tmp may be another file system
  return join(out, name);
}
