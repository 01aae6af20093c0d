import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Kernels and root volumes that were made once; .gitignore names it. */
const CACHE = fileURLToPath(new URL('../../.local/system', import.meta.url));
const GUEST = fileURLToPath(new URL('./guest', import.meta.url));

/** Something that a VM needs cannot be had on this machine; the message says what to do. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
}

/** A Debian kernel, unpacked and never installed. */
export interface Kernel {
  /** bzImage. */
  readonly file: string;
  readonly release: string;
  /** Folder with `<release>/modules.dep` in it. */
  readonly modules: string;
}

/** A root volume that VMs start from; each boots a copy-on-write layer of its own over it. */
export interface RootImage {
  /** Raw disk with one partition. */
  readonly file: string;
  readonly partUuid: string;
}

/** Known beforehand, so that the kernel finds its root volume without an initramfs, however disks are numbered. */
const ROOT_PARTITION = '6f2a9d0e-3c41-4b57-9a0d-5b1c7e8f0a21';
const ROOT_MIB = 2048;
const MIB = 2 ** 20;

/** What the VM has of this machine, by name; libraries come along. */
const PROGRAMS = [
  ...[
    'dash',
    'cat',
    'cp',
    'mv',
    'rm',
    'ln',
    'ls',
    'mkdir',
    'rmdir',
    'chmod',
    'chown',
    'touch',
    'sync',
    'date',
  ],
  ...[
    'base64',
    'sha256sum',
    'dd',
    'head',
    'tail',
    'wc',
    'tr',
    'cut',
    'sort',
    'uniq',
    'od',
    'stat',
    'df',
    'env',
  ],
  ...[
    'sleep',
    'seq',
    'timeout',
    'truncate',
    'readlink',
    'basename',
    'dirname',
    'id',
    'uname',
    'test',
    'grep',
  ],
  ...[
    'sed',
    'find',
    'cmp',
    'kill',
    'true',
    'false',
    'mktemp',
    'nproc',
    'hostname',
    'flock',
    'setsid',
    'dmesg',
  ],
  ...[
    'mount',
    'umount',
    'mountpoint',
    'findmnt',
    'lsblk',
    'blkid',
    'wipefs',
    'blockdev',
    'losetup',
    'fallocate',
  ],
  ...['mkswap', 'swapon', 'swapoff', 'mke2fs', 'mkfs.ext4', 'e2fsck', 'resize2fs', 'tune2fs'],
  ...['cryptsetup', 'dmsetup', 'kmod', 'ip', 'socat', 'busybox', 'qemu-img', 'qemu-nbd', 'udevadm'],
  ...['mkfs.xfs', 'xfs_growfs', 'qemu-storage-daemon', 'clevis', 'jose', 'curl', 'pwmake', 'bash', 'tpm2'],
] as const;
/** Without these a VM is still worth having. */
const OPTIONAL: ReadonlySet<string> = new Set([
  ...['mkfs.xfs', 'xfs_growfs', 'qemu-storage-daemon', 'clevis', 'jose', 'curl', 'pwmake', 'udevadm'],
]);
/** What programs open by name while they run, which `ldd` does not see. */
const OPENED_LATER = [
  'libgcc_s.so.1',
  'libtss2-tcti-device.so.0',
  'libnss_files.so.2',
  'libnss_dns.so.2',
  'libstdc++.so.6',
];
const KMOD_NAMES = ['modprobe', 'insmod', 'lsmod', 'depmod', 'rmmod'];
const TPM2_NAMES = [
  ...['createprimary', 'create', 'load', 'createek', 'createak', 'quote', 'pcrread', 'pcrextend', 'getcap'],
  ...['flushcontext', 'evictcontrol', 'readpublic', 'sign', 'activatecredential', 'startauthsession'],
  ...['policysecret', 'getrandom', 'print', 'loadexternal', 'certify', 'hash', 'nvread', 'nvreadpublic'],
  ...['policyrestart', 'import', 'clear', 'startup', 'shutdown', 'testparms', 'makecredential', 'rc_decode'],
];

const run = promisify(execFile);

/** @throws ImageError where apt does not have the kernel */
export async function ensureKernel(): Promise<Kernel> {
  mkdirSync(CACHE, { recursive: true });
  const there = readdirSync(CACHE).find((name) => name.startsWith('kernel-'));
  if (there) return kernelIn(join(CACHE, there));
  const folder = mkdtempSync(join(CACHE, 'unpacking-'));
  try {
    const { stdout } = await run('apt-cache', ['depends', 'linux-image-cloud-amd64']);
    const name = /Depends: (linux-image-\d\S+)/.exec(stdout)?.[1];
    if (!name) throw new ImageError('apt knows no linux-image-cloud-amd64: run apt-get update');
    await run('apt-get', ['download', name], { cwd: folder });
    const [archive = ''] = readdirSync(folder);
    await run('dpkg', ['-x', join(folder, archive), folder]);
    const [release = ''] = readdirSync(join(folder, 'lib/modules'));
    await run('depmod', ['-b', folder, release]); // the package leaves it to its postinst
    const made = join(CACHE, `kernel-${release}`);
    renameSync(folder, made);
    return kernelIn(made);
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw new ImageError('the kernel of the VMs cannot be had from apt', { cause });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function kernelIn(folder: string): Kernel {
  const modules = join(folder, 'lib/modules');
  const [release = ''] = readdirSync(modules);
  return { file: join(folder, 'boot', `vmlinuz-${release}`), release, modules };
}

/**
 * Makes the root volume, or finds the one that was made of the very same files.
 *
 * @param agentPackage .deb of the agent, installed the way dpkg unpacks it
 * @param files more files, by their path in the VM
 */
export async function ensureRootImage(
  kernel: Kernel,
  agentPackage: string | undefined,
  files: Readonly<Record<string, string>>,
): Promise<RootImage> {
  const copied = new Map([...(await programsWithLibraries()), ...Object.entries(files)]);
  const hash = createHash('sha256').update(`${kernel.release} ${ROOT_MIB}\n`);
  for (const [to, from] of copied) {
    const { size, mtimeMs } = statSync(from);
    hash.update(`${to} ${from} ${size} ${mtimeMs}\n`);
  }
  for (const name of readdirSync(GUEST)) hash.update(name).update(readFileSync(join(GUEST, name)));
  hash.update(readFileSync(fileURLToPath(import.meta.url)));
  if (agentPackage) hash.update(readFileSync(agentPackage));
  const file = join(CACHE, `root-${hash.digest('hex').slice(0, 24)}.img`);
  const image = { file, partUuid: ROOT_PARTITION };
  if (existsSync(file)) return image;

  const folder = mkdtempSync(join(CACHE, 'making-'));
  try {
    const tree = join(folder, 'root');
    plantTree(tree, copied);
    mkdirSync(join(tree, 'usr/lib/modules'), { recursive: true });
    await run('cp', ['-a', join(kernel.modules, kernel.release), join(tree, 'usr/lib/modules')]);
    if (agentPackage) await unpackPackage(agentPackage, tree, folder);
    const made = join(folder, 'root.img');
    await writeDisk(made, tree);
    for (const name of readdirSync(CACHE)) {
      if (name.startsWith('root-')) rmSync(join(CACHE, name)); // of files that were replaced meanwhile
    }
    renameSync(made, file);
    return image;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function plantTree(tree: string, copied: ReadonlyMap<string, string>): void {
  const folders = ['dev', 'proc', 'sys', 'run', 'tmp', 'etc', 'root', 'mnt', 'srv', 'var/lib', 'var/log'];
  for (const name of [...folders, 'usr/bin', 'usr/sbin', 'usr/lib64', 'usr/lib/x86_64-linux-gnu'])
    mkdirSync(join(tree, name), { recursive: true });
  // As Debian has it since 12.
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(tree, name));
  symlinkSync('/run', join(tree, 'var/run'));
  for (const [to, from] of copied) {
    const target = join(tree, to);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(from, target);
  }
  symlinkSync('dash', join(tree, 'usr/bin/sh'));
  for (const name of KMOD_NAMES) symlinkSync('../bin/kmod', join(tree, 'usr/sbin', name));
  for (const name of TPM2_NAMES) symlinkSync('tpm2', join(tree, 'usr/bin', `tpm2_${name}`));
  for (const name of readdirSync(GUEST)) {
    mkdirSync(join(tree, 'usr/lib/casemate-test'), { recursive: true });
    copyFileSync(join(GUEST, name), join(tree, 'usr/lib/casemate-test', name));
    chmodSync(join(tree, 'usr/lib/casemate-test', name), 0o755);
  }
  const etc = {
    passwd: 'root:x:0:0:root:/root:/bin/sh\n',
    group: 'root:x:0:\n',
    hosts: '127.0.0.1 localhost\n',
  };
  for (const [name, content] of Object.entries(etc)) writeFileSync(join(tree, 'etc', name), content);
}

/** As dpkg does it, but for its scripts: there is no service manager in this VM to tell. */
async function unpackPackage(archive: string, tree: string, scratch: string): Promise<void> {
  const unpacked = join(scratch, 'package');
  await run('dpkg', ['-x', archive, unpacked]);
  await run('cp', ['-a', '--keep-directory-symlink', `${unpacked}/.`, tree]);
}

async function writeDisk(file: string, tree: string): Promise<void> {
  writeFileSync(file, '');
  truncateSync(file, ROOT_MIB * MIB);
  const table = `label: gpt\nstart=1MiB, size=${ROOT_MIB - 2}MiB, uuid=${ROOT_PARTITION}\n`;
  const sfdisk = run('sfdisk', ['--quiet', file]);
  sfdisk.child.stdin?.end(table);
  await sfdisk;
  const options = ['-q', '-t', 'ext4', '-d', tree, '-E', `offset=${MIB},root_owner=0:0`];
  await run('mke2fs', [...options, file, `${ROOT_MIB - 2}M`], { env: { ...process.env, PATH: SYSTEM_PATH } });
}

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Where each program is on this machine; undefined where it is not. */
export function findProgram(name: string): string | undefined {
  return SYSTEM_PATH.split(':')
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
}

/** @returns where to copy from, by path in the VM */
async function programsWithLibraries(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const name of PROGRAMS) {
    const from = findProgram(name);
    if (from) found.set(from, from);
    else if (!OPTIONAL.has(name)) throw new ImageError(`${name} is not on this machine`);
  }
  for (const name of readdirSync('/usr/bin')) {
    if (/^clevis-/.test(name)) found.set(`/usr/bin/${name}`, `/usr/bin/${name}`);
  }
  const { stdout: known } = await run('ldconfig', ['-p'], { env: { PATH: SYSTEM_PATH } });
  for (const name of OPENED_LATER) {
    const path = new RegExp(`\\t${name.replace(/[.+]/g, '\\$&')} .*x86-64.* => (\\S+)`).exec(known)?.[1];
    if (path) found.set(path, path);
  }
  // A shell script has no libraries, and ldd's status says no more than that.
  const { stdout } = await run('ldd', [...found.keys()]).catch((error: { stdout?: string }) => ({
    stdout: error.stdout ?? '',
  }));
  for (const [, path = ''] of stdout.matchAll(/(?:=> |^\t)(\/\S+) \(0x/gm)) found.set(path, path);
  return found;
}
