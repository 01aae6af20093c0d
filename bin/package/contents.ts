import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Bundle, licences } from './bundle.ts';
import { run } from './command.ts';
import type { PackagedFile } from './tree.ts';

const LIBRARY = '/usr/lib/casemate';
const DOCUMENTATION = '/usr/share/doc/casemate-agent';

/**
 * Everything that the packages install. Below /usr/lib/casemate it lies as in the source tree, so that the agent
 * finds its addon in the same way.
 *
 * @param built folder with the stripped programs
 * @param ofNode Node's licence
 */
export function contents(
  project: string,
  built: string,
  bundle: Bundle,
  ofNode: string,
): readonly PackagedFile[] {
  const ours = (...path: string[]) => readFileSync(join(project, ...path));
  const programs = (name: string) => readFileSync(join(built, name));
  const units = readdirSync(join(project, 'packaging/systemd')).sort();
  return [
    {
      path: '/etc/casemate/agent.json.example',
      mode: 0o644,
      content: ours('packaging/agent.json.example'),
      configuration: true,
    },
    { path: '/usr/bin/casemate-agent', mode: 0o755, content: ours('packaging/casemate-agent.sh') },
    { path: '/usr/bin/casemate-probe', mode: 0o755, content: programs('casemate-probe') },
    {
      path: '/usr/lib/systemd/system-generators/casemate-mounts',
      mode: 0o755,
      content: ours('packaging/casemate-mounts.sh'),
    },
    { path: `${LIBRARY}/agent/main.mjs`, mode: 0o644, content: bundle.code },
    { path: `${LIBRARY}/bin/casemate-mounted`, mode: 0o755, content: ours('packaging/casemate-mounted.sh') },
    { path: `${LIBRARY}/bin/node`, mode: 0o755, content: programs('node') },
    { path: `${LIBRARY}/native/build/casemate.node`, mode: 0o644, content: programs('casemate.node') },
    ...units.map((name): PackagedFile => {
      return {
        path: `/usr/lib/systemd/system/${name}`,
        mode: 0o644,
        content: ours('packaging/systemd', name),
      };
    }),
    { path: `${DOCUMENTATION}/agent.md`, mode: 0o644, content: ours('docs/agent.md') },
    { path: `${DOCUMENTATION}/disks.md`, mode: 0o644, content: ours('docs/disks.md') },
    { path: `${DOCUMENTATION}/copyright`, mode: 0o644, content: licences(project, bundle, ofNode) },
  ];
}

/** Copies programs into `folder` without the symbols that nobody debugs on a VM: Node loses 17 of 127 MB. */
export async function strip(folder: string, programs: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, from] of Object.entries(programs)) {
    await run('strip', ['-o', join(folder, name), from]);
  }
}

/** The newest version of glibc's symbols that these programs ask for: the oldest glibc that they run on. */
export async function neededGlibc(programs: readonly string[]): Promise<string> {
  const symbols = await Promise.all(
    programs.map((program) => run('readelf', ['--version-info', '--wide', program])),
  );
  const versions = [...symbols.join('\n').matchAll(/\bGLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => ({
    major: Number(major),
    minor: Number(minor),
  }));
  const [newest] = versions.sort((a, b) => b.major - a.major || b.minor - a.minor);
  if (!newest) throw new Error('the programs ask for no glibc');
  return `${newest.major}.${newest.minor}`;
}
