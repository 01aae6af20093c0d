import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const emulator = 'swtpm';

/** What this machine lacks to run a software TPM. */
export const missingTools = [emulator, 'tpm2_activatecredential'].filter(
  (tool) => spawnSync('sh', ['-c', 'command -v "$0"', tool], { stdio: 'ignore' }).status !== 0,
);

export interface SoftwareTpm {
  /** How tpm2-tools find it. */
  readonly tcti: string;
  /** Of the test's own; goes away with the TPM. */
  readonly folder: string;
  /** Power off and on again: contexts are lost, seeds stay. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** A software TPM on a socket, with seeds of its own. */
export async function startSoftwareTpm(): Promise<SoftwareTpm> {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-tpm-'));
  const state = join(folder, 'state');
  mkdirSync(state);
  // tpm2-tss looks for the control channel beside the server, under this name.
  const [server, control] = [join(folder, 'server'), join(folder, 'server.ctrl')];
  const start = async () => {
    const swtpm = spawn(
      emulator,
      // biome-ignore format: one option a line says nothing more
      ['socket', '--tpm2', '--tpmstate', `dir=${state}`, '--server', `type=unixio,path=${server}`, '--ctrl', `type=unixio,path=${control}`, '--flags', 'startup-clear,not-need-init'],
      { stdio: 'ignore' },
    );
    const ended = new Promise((resolve) => swtpm.once('exit', resolve));
    for (let wait = 0; !(existsSync(server) && existsSync(control)) && wait < 500; wait++) await sleep(20);
    return async () => {
      swtpm.kill();
      await ended;
      rmSync(server, { force: true });
      rmSync(control, { force: true });
    };
  };
  let end = await start();
  return {
    tcti: `swtpm:path=${server}`,
    folder,
    async restart() {
      await end();
      end = await start();
    },
    async stop() {
      await end();
      rmSync(folder, { recursive: true });
    },
  };
}
