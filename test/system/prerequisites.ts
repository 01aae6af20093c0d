import { readFileSync } from 'node:fs';
import { findProgram } from './image.ts';

/** What must be on this machine, by the Debian package that has it. */
const NEEDED: Readonly<Record<string, string>> = {
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-img': 'qemu-utils',
  swtpm: 'swtpm',
  tpm2: 'tpm2-tools',
  cryptsetup: 'cryptsetup-bin',
  dmsetup: 'dmsetup',
  busybox: 'busybox-static',
  depmod: 'kmod',
  sfdisk: 'fdisk',
  mke2fs: 'e2fsprogs',
  ip: 'iproute2',
  socat: 'socat',
};

/** Why there can be no VM here; undefined when there can. */
export function missingForVms(): string | undefined {
  const debian = /^ID=debian$/m.test(readFileSync('/etc/os-release', 'utf8'));
  if (!debian || process.arch !== 'x64') return 'VMs are made of what a Debian on x86-64 has installed';
  const missing = Object.entries(NEEDED).filter(([program]) => !findProgram(program));
  if (missing.length === 0) return undefined;
  return `apt-get install --no-install-recommends ${missing.map(([, name]) => name).join(' ')}`;
}
