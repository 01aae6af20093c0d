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
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { withLock } from '../../agent/lock.ts';

/** Kernels and root volumes that were made once; .gitignore names it. */
const CACHE = fileURLToPath(new URL('../../.local/system', import.meta.url));
const GUEST = fileURLToPath(new URL('./guest', import.meta.url));
const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

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
const DAY_MS = 24 * 60 * 60 * 1000;

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
const OPENED_LATER = ['libgcc_s.so.1', 'libtss2-tcti-device.so.0', 'libnss_files.so.2', 'libnss_dns.so.2'];
const KMOD_NAMES = ['modprobe', 'insmod', 'lsmod', 'depmod', 'rmmod'];
const TPM2_NAMES = [
  ...['createprimary', 'create', 'load', 'createek', 'createak', 'quote', 'pcrread', 'pcrextend', 'getcap'],
  ...['flushcontext', 'evictcontrol', 'readpublic', 'sign', 'activatecredential', 'startauthsession'],
  ...['policysecret', 'getrandom', 'print', 'loadexternal', 'certify', 'hash', 'nvread', 'nvreadpublic'],
  ...['policyrestart', 'import', 'clear', 'startup', 'shutdown', 'testparms', 'makecredential', 'rc_decode'],
];

/** A service manager with all of its parts, for VMs that boot by it. Units among them are links, and stay so. */
const SYSTEMD_FOLDERS = ['/usr/lib/systemd', '/usr/lib/udev', '/usr/lib/tmpfiles.d'];
const SYSTEMD_PROGRAMS = ['systemctl', 'journalctl', 'systemd-escape', 'systemd-tmpfiles', 'systemd-run'];
/** Of the units that come with systemd, those that would wait for what is not in this VM. */
const MASKED = [
  'systemd-logind.service',
  'getty.target',
  'systemd-hwdb-update.service',
  'systemd-resolved.service',
];

const run = promisify(execFile);

/** Suites run beside each other: what one makes, the other waits for. */
function once<T>(make: () => Promise<T>): Promise<T> {
  mkdirSync(CACHE, { recursive: true });
  return withLock(join(CACHE, 'lock'), MAKING_SECONDS, make);
}
const MAKING_SECONDS = 600;

/** @throws ImageError where apt does not have the kernel */
export function ensureKernel(): Promise<Kernel> {
  return once(unpackKernel);
}

async function unpackKernel(): Promise<Kernel> {
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

/** Makes the root volume with the agent installed, or finds the one that was made of the very same files. */
export async function ensureRootImage(kernel: Kernel): Promise<RootImage> {
  const programs = await programsWithLibraries();
  const hash = createHash('sha256').update(`${kernel.release} ${ROOT_MIB}\n`);
  for (const [to, from] of programs) {
    const { size, mtimeMs } = statSync(from);
    hash.update(`${to} ${from} ${size} ${mtimeMs}\n`);
  }
  for (const name of filesIn(GUEST)) hash.update(name).update(readFileSync(join(GUEST, name)));
  hash.update((await run('dpkg-query', ['-W', 'systemd', 'udev', 'dmsetup'])).stdout);
  hash.update(readFileSync(fileURLToPath(import.meta.url)));
  const folder = mkdtempSync(join(tmpdir(), 'casemate-deb-'));
  try {
    const agentPackage = await buildPackage(folder);
    hash.update(readFileSync(agentPackage));
    const file = join(CACHE, `root-${hash.digest('hex').slice(0, 24)}.img`);
    await once(async () => {
      if (existsSync(file)) utimesSync(file, new Date(), new Date());
      else await makeRootImage(file, kernel, programs, agentPackage);
    });
    return { file, partUuid: ROOT_PARTITION };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The agent as it is installed on VMs: the path of its .deb. */
async function buildPackage(folder: string): Promise<string> {
  const packaging = [join(PROJECT, 'bin/package.ts'), '--only', 'deb', '--out', folder];
  const { stdout } = await run(process.execPath, packaging, { cwd: PROJECT });
  return stdout.trim();
}

async function makeRootImage(
  file: string,
  kernel: Kernel,
  copied: ReadonlyMap<string, string>,
  agentPackage: string,
): Promise<void> {
  const folder = mkdtempSync(join(CACHE, 'making-'));
  try {
    const tree = join(folder, 'root');
    plantTree(tree, copied);
    await plantSystemd(tree);
    mkdirSync(join(tree, 'usr/lib/modules'), { recursive: true });
    await run('cp', ['-a', join(kernel.modules, kernel.release), join(tree, 'usr/lib/modules')]);
    // Without its scripts: there is no service manager in this VM to tell.
    await run('dpkg', ['-x', agentPackage, tree]);
    await plantLibraries(tree, [join(tree, 'usr/lib/casemate/bin/node')]);
    // As the package's own script does it.
    const units = readdirSync(join(tree, 'usr/lib/systemd/system')).filter((name) =>
      /^casemate-.*\.service$/.test(name),
    );
    await run('systemctl', [`--root=${tree}`, 'enable', ...units]);
    const made = join(folder, 'root.img');
    await writeDisk(made, tree);
    forgetUnused();
    renameSync(made, file);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Root images that nothing boots any more; one of today may be another test's. */
function forgetUnused(): void {
  const names = readdirSync(CACHE).filter((name) => name.startsWith('root-'));
  for (const path of names.map((name) => join(CACHE, name))) {
    if (Date.now() - statSync(path).mtimeMs > DAY_MS) rmSync(path);
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
  for (const name of filesIn(GUEST)) {
    const target = join(tree, 'usr/lib/casemate-test', name);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(GUEST, name), target);
    if (!name.includes('/')) chmodSync(target, 0o755);
  }
  for (const name of ['passwd', 'group'])
    copyFileSync(`/usr/share/base-passwd/${name}.master`, join(tree, 'etc', name));
  writeFileSync(join(tree, 'etc/hosts'), '127.0.0.1 localhost\n');
}

async function plantSystemd(tree: string): Promise<void> {
  for (const folder of SYSTEMD_FOLDERS) await run('cp', ['-a', folder, join(tree, dirname(folder))]);
  rmSync(join(tree, 'usr/lib/udev/hwdb.bin'), { force: true }); // names of hardware that is not here
  rmSync(join(tree, 'usr/lib/udev/hwdb.d'), { recursive: true, force: true });
  const programs = SYSTEMD_FOLDERS.flatMap((folder) =>
    filesIn(folder).map((name) => join(folder, name)),
  ).filter((path) => (statSync(path).mode & 0o111) !== 0);
  await plantLibraries(tree, programs);
  const units = join(tree, 'etc/systemd/system');
  mkdirSync(units, { recursive: true });
  for (const name of MASKED) symlinkSync('/dev/null', join(units, name));
  await run('cp', ['-a', `${join(GUEST, 'units')}/.`, units]);
  symlinkSync('/usr/lib/systemd/system/multi-user.target', join(units, 'default.target'));
  writeFileSync(join(tree, 'etc/machine-id'), '');
  const own = filesIn(join(GUEST, 'units')).filter((name) => /^[^/]+\.service$/.test(name));
  await run('systemctl', [`--root=${tree}`, 'enable', ...own]);
}

async function plantLibraries(tree: string, programs: readonly string[]): Promise<void> {
  for (const path of await librariesOf(programs)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    copyFileSync(path, join(tree, path));
  }
}

/** Regular files below a folder, by their path from there. */
function filesIn(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
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
  for (const name of [...PROGRAMS, ...SYSTEMD_PROGRAMS]) {
    const from = findProgram(name);
    if (from) found.set(from, from);
    else if (!OPTIONAL.has(name)) throw new ImageError(`${name} is not on this machine`);
  }
  for (const name of readdirSync('/usr/bin')) {
    if (/^clevis-/.test(name)) found.set(`/usr/bin/${name}`, `/usr/bin/${name}`);
  }
  // pwmake, by which clevis makes its keys, measures them against a dictionary.
  const dictionary = ['hwm', 'pwd', 'pwi'].map((end) => `/var/cache/cracklib/cracklib_dict.${end}`);
  for (const path of ['/usr/libexec/tangd', '/usr/libexec/tangd-keygen', ...dictionary])
    if (existsSync(path)) found.set(path, path);
  const { stdout: known } = await run('ldconfig', ['-p'], { env: { PATH: SYSTEM_PATH } });
  for (const name of OPENED_LATER) {
    const path = new RegExp(`\\t${name.replace(/[.+]/g, '\\$&')} .*x86-64.* => (\\S+)`).exec(known)?.[1];
    if (path) found.set(path, path);
  }
  for (const path of await librariesOf([...found.keys()])) found.set(path, path);
  return found;
}

async function librariesOf(programs: readonly string[]): Promise<readonly string[]> {
  // Among them are shell scripts, which have none: that is all that a status of ldd's says.
  const { stdout } = await run('ldd', [...programs]).catch((error: { stdout?: string }) => ({
    stdout: error.stdout ?? '',
  }));
  return [...stdout.matchAll(/(?:=> |^\t)(\/\S+) \(0x/gm)].map(([, path = '']) => path);
}
