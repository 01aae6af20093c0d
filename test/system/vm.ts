import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { baseEnvironment, type Service, startService, tail } from '../../bin/local/process.ts';
import type { Kernel, RootImage } from './image.ts';

/** A VM did not do what it was told, or not in time. The message ends with what was on its console. */
export class VmError extends Error {
  override readonly name = 'VmError';
}

/** An EBS volume: a file, which a test may tamper with while the VM is off. */
export interface Volume {
  /** `vol-…`; the NVMe serial is this without the dash, as on EC2. */
  readonly id: string;
  readonly file: string;
}

/** What is left of a VM while it is off. */
export interface Machine {
  readonly folder: string;
  readonly kernel: Kernel;
  readonly partUuid: string;
  /** qcow2 layer over the root image. */
  readonly rootFile: string;
  readonly rootVolumeId: string;
  readonly volumes: readonly Volume[];
  /** Folder of the software TPM's state; undefined for a VM without TPM. */
  readonly tpmState: string | undefined;
  readonly processors: number;
}

export interface MachinePlan {
  readonly rootVolumeId: string;
  readonly volumes: readonly { readonly id: string; readonly mib: number }[];
  readonly tpm: boolean;
  /** One, unless told, which leaves others to other VMs. */
  readonly processors?: number;
  /** Another VM's root volume that this one starts as a copy of; that VM is off. */
  readonly clonedFrom?: Machine;
}

export interface Result {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running VM. */
export interface Vm {
  readonly machine: Machine;
  /** Seconds from QEMU's start to the first command that could be run. */
  readonly bootSeconds: number;
  /** Runs a shell script. @throws VmError when it takes longer than `seconds` (120) */
  run(script: string, seconds?: number): Promise<Result>;
  /** @returns its standard output @throws VmError also when it ends with anything but 0 */
  ok(script: string, seconds?: number): Promise<string>;
  /** Has a loopback port of the VM lead to a loopback port of this machine. */
  openWayOut(port: number, to: number): Promise<void>;
  console(): string;
  /** Pulls the plug: what the VM did not flush is lost. */
  pullPlug(): Promise<void>;
  /** Syncs, unmounts, powers off. */
  shutDown(): Promise<void>;
}

/** Without AVX, whose 256 bits TCG emulates one by one: hashing, which opens a BitLocker volume, takes half as long. */
const CPU = 'EPYC-Rome,-avx,-avx2';
const MIB = 2 ** 20;
const BOOT_SECONDS = 240;
const COMMAND_SECONDS = 120;

/** Lays out a VM's disks. */
export async function makeMachine(
  folder: string,
  kernel: Kernel,
  image: RootImage,
  plan: MachinePlan,
): Promise<Machine> {
  mkdirSync(folder, { recursive: true });
  const rootFile = join(folder, 'root.qcow2');
  if (plan.clonedFrom) await promisify(execFile)('cp', [plan.clonedFrom.rootFile, rootFile]);
  else
    await promisify(execFile)('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      '-b',
      image.file,
      rootFile,
    ]);
  const tpmState = plan.tpm ? join(folder, 'tpm') : undefined;
  if (tpmState) mkdirSync(tpmState, { recursive: true });
  const volumes = plan.volumes.map(({ id, mib }) => makeVolume(folder, id, mib));
  return {
    folder,
    kernel,
    partUuid: image.partUuid,
    rootFile,
    rootVolumeId: plan.rootVolumeId,
    volumes,
    tpmState,
    processors: plan.processors ?? 1,
  };
}

/** A blank volume, which takes no space yet. */
export function makeVolume(folder: string, id: string, mib: number): Volume {
  const file = join(folder, `${id}.raw`);
  writeFileSync(file, '');
  truncateSync(file, mib * MIB);
  return { id, file };
}

const serial = (volumeId: string) => volumeId.replace('-', '');

/** Who is its first process: a script that hands over to the test at once, or systemd with the package's units. */
export type Init = 'script' | 'systemd';

const INIT: Readonly<Record<Init, string>> = {
  script: '/usr/lib/casemate-test/init.sh',
  systemd: '/usr/lib/systemd/systemd',
};

/** Starts a VM and waits until it takes commands. */
export async function boot(machine: Machine, init: Init = 'script'): Promise<Vm> {
  const began = Date.now();
  const { folder } = machine;
  const console = join(folder, 'console.log');
  const control = join(folder, 'control');
  rmSync(control, { force: true });
  const services: Service[] = [];
  const stop = async () => {
    for (const service of services.toReversed()) await service.stop();
  };
  try {
    const tpmSocket = machine.tpmState && join(folder, 'tpm.sock');
    if (tpmSocket) services.push(await startTpm(machine.tpmState, tpmSocket, folder));
    const qemu = startService(['qemu-system-x86_64', ...qemuArguments(machine, init, control, tpmSocket)], {
      log: console,
      env: baseEnvironment(),
    });
    services.push(qemu);
    const port = await attach(control, qemu, console);
    return {
      machine,
      bootSeconds: (Date.now() - began) / 1000,
      ...port,
      async openWayOut(from, to) {
        const listening = ` 0100007F:${from.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A `;
        await port.ok(
          `socat TCP-LISTEN:${from},bind=127.0.0.1,reuseaddr,fork TCP:10.0.2.2:${to} > /dev/null 2>&1 &
          for try in $(seq 100); do grep -q '${listening}' /proc/net/tcp && exit 0; sleep 0.1; done
          exit 1`,
        );
      },
      console: () => readFileSync(console, 'utf8'),
      async pullPlug() {
        try {
          process.kill(qemu.pid, 'SIGKILL');
        } catch {
          // it had ended by itself
        }
        await stop();
      },
      async shutDown() {
        await port.ok('sync; mount -o remount,ro / 2> /dev/null; true');
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function qemuArguments(
  machine: Machine,
  init: Init,
  control: string,
  tpmSocket: string | undefined,
): string[] {
  const kernelArguments = [
    ...['console=ttyS0', 'quiet', 'loglevel=4', 'no_timer_check', 'mitigations=off'],
    // The frequency of the TSC is measured at boot: on a machine with other work it comes out wrong, and the clock
    // gains minutes within the hour. That of the HPET is known.
    ...['tsc=reliable', 'clocksource=hpet'],
    ...['random.trust_cpu=on', 'panic=-1', `root=PARTUUID=${machine.partUuid}`, 'rootfstype=ext4', 'rw'],
    ...['rootwait', 'net.ifnames=0', `init=${INIT[init]}`],
  ];
  const nvme = (id: string, drive: string) => [
    '-drive',
    drive,
    '-device',
    `nvme,drive=${id},serial=${serial(id)}`,
  ];
  return [
    ...[
      '-machine',
      'q35',
      '-accel',
      'tcg,thread=multi',
      '-smp',
      String(machine.processors),
      '-m',
      '2G',
      '-cpu',
      CPU,
    ],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-kernel', machine.kernel.file, '-append', kernelArguments.join(' ')],
    ...nvme(
      machine.rootVolumeId,
      `file=${machine.rootFile},format=qcow2,if=none,id=${machine.rootVolumeId},cache=unsafe`,
    ),
    ...machine.volumes.flatMap(({ id, file }) =>
      nvme(id, `file=${file},format=raw,if=none,id=${id},cache=unsafe,discard=unmap`),
    ),
    ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net,romfile='],
    ...['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=control,path=${control},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=control,name=control'],
    ...(tpmSocket
      ? ['-chardev', `socket,id=tpm,path=${tpmSocket}`, '-tpmdev', 'emulator,id=tpm0,chardev=tpm']
      : []),
    ...(tpmSocket ? ['-device', 'tpm-crb,tpmdev=tpm0'] : []),
  ];
}

async function startTpm(state: string | undefined, socket: string, folder: string): Promise<Service> {
  rmSync(socket, { force: true });
  const swtpm = startService(
    [
      ...(['swtpm', 'socket', '--tpm2', '--tpmstate', `dir=${state}`] as const),
      ...['--ctrl', `type=unixio,path=${socket}`, '--flags', 'startup-clear'],
    ],
    { log: join(folder, 'tpm.log'), env: baseEnvironment() },
  );
  await Promise.race([untilThere(socket), swtpm.died]);
  return swtpm;
}

async function untilThere(path: string): Promise<void> {
  for (const deadline = Date.now() + 10_000; !existsSync(path); ) {
    if (Date.now() > deadline) throw new VmError(`${path} is not there after 10 s`);
    await sleep(20);
  }
}

/** Connects to the VM's control port and waits until something listens behind it. */
async function attach(control: string, qemu: Service, log: string): Promise<Pick<Vm, 'run' | 'ok'>> {
  const socket = await Promise.race([connectTo(control), qemu.died]);
  const waiting = new Map<string, (result: Result) => void>();
  let ready: () => void = () => undefined;
  const isReady = new Promise<void>((resolve) => {
    ready = resolve;
  });
  createInterface({ input: socket }).on('line', (line) => {
    const [id = '', status = '', stdout = '', stderr = ''] = line.split(' ');
    const text = (field: string) => Buffer.from(field.slice(1), 'base64').toString('utf8');
    if (id === 'ready') ready();
    else waiting.get(id)?.({ status: Number(status), stdout: text(stdout), stderr: text(stderr) });
    waiting.delete(id);
  });
  socket.on('error', () => undefined); // the VM went down: `died` says so
  await within(BOOT_SECONDS, isReady, qemu, () => `the VM did not come up in ${BOOT_SECONDS} s`, log);
  let sent = 0;
  const run = (script: string, seconds = COMMAND_SECONDS): Promise<Result> => {
    const id = String(++sent);
    const answer = new Promise<Result>((resolve) => waiting.set(id, resolve));
    socket.write(`${id} ${Buffer.from(script).toString('base64')}\n`);
    return within(seconds, answer, qemu, () => `not done after ${seconds} s: ${script}`, log);
  };
  return {
    run,
    async ok(script, seconds) {
      const { status, stdout, stderr } = await run(script, seconds);
      if (status !== 0)
        throw new VmError(
          `${script}\nended with ${status}\n${stdout}${stderr}\n--- console\n${tail(log, 15)}`,
        );
      return stdout;
    },
  };
}

/** Connects as soon as QEMU listens: the socket is there a moment before it does. */
async function connectTo(path: string): Promise<Socket> {
  for (const deadline = Date.now() + 10_000; ; ) {
    const socket = connect(path);
    const fault = await new Promise<Error | undefined>((resolve) => {
      socket.once('connect', () => resolve(undefined)).once('error', resolve);
    });
    if (!fault) return socket;
    if (Date.now() > deadline) throw new VmError(`nothing listens on ${path}`, { cause: fault });
    await sleep(20);
  }
}

async function within<T>(
  seconds: number,
  what: Promise<T>,
  qemu: Service,
  late: () => string,
  log: string,
): Promise<T> {
  const over = new AbortController();
  try {
    return await Promise.race([
      what,
      qemu.died,
      sleep(seconds * 1000, undefined, { signal: over.signal }).then((): never => {
        throw new VmError(`${late()}\n--- console\n${tail(log, 15)}`);
      }),
    ]);
  } finally {
    over.abort();
  }
}
