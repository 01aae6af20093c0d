import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { diskItem } from '../../../lib/domain/disk-key.ts';
import { REGION } from '../../world/ec2.ts';
import { VM_ID } from '../../world/items.ts';
import { launch } from '../../world/vm.ts';
import { createWorld, type World } from '../../world/world.ts';
import { temporaryFolder } from '../harness.ts';
import { surroundings } from '../surroundings.ts';
import { describeWithCryptsetup, opens } from './luks.ts';

jest.setTimeout(300_000);

const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));
const MACHINE = fileURLToPath(new URL('../../fixtures/machines/epyc-milan-snp-guest', import.meta.url));

let world: World;
let around: Awaited<ReturnType<typeof surroundings>>;
let folder: ReturnType<typeof temporaryFolder>;
let config: string;
let device: string;
let volume: string;
const running = new Set<ChildProcess>();
beforeEach(async () => {
  around = await surroundings(
    async (apiOrigin) => {
      world = createWorld({ apiOrigin });
      world.advance((Date.now() - world.now().getTime()) / 1000);
      const vm = launch(world, 1, { id: VM_ID, amdSevSnp: 'enabled' });
      world.stateChange(vm);
      await world.drain();
      return world;
    },
    async (detail) => {
      world.emit('casemate.agent', 'Capability Report', detail);
      await world.drain();
    },
  );
  folder = temporaryFolder();
  device = join(folder.path, 'volume.img');
  writeFileSync(device, '');
  truncateSync(device, 64 * 1024 * 1024);
  volume = disk().volumeId;
  config = join(folder.path, 'agent.json');
  const settings = {
    region: REGION,
    apiUrl: `${around.url}/v1`,
    busName: 'casemate',
    stateDir: join(folder.path, 'state'),
    runtimeDir: join(folder.path, 'run'),
    metadataEndpoint: around.url,
    reportIntervalSeconds: 1,
    devices: { [volume]: device },
    tpm: false,
    machine: { root: MACHINE },
  };
  writeFileSync(config, JSON.stringify(settings));
});
afterEach(async () => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
  await around.close();
  folder.remove();
});

/** The disk of the VM's data volume, as the table has it. */
function disk() {
  const rows = [...world.rows.values()].filter((row) => row['generations'] !== undefined);
  return diskItem.parse(rows[0]);
}
const states = () => disk().generations.map((g) => g.state);
const plaintext = (i = 0) => world.plaintextOf(disk().generations[i]?.wrappedKey ?? '');

function start(...args: string[]) {
  const child = spawn(process.execPath, ['--no-warnings', MAIN, ...args, '--config', config], {
    env: {
      PATH: process.env['PATH'],
      AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
      AWS_SECRET_ACCESS_KEY: 'a-secret-that-stays-here',
      AWS_ENDPOINT_URL_EVENTBRIDGE: around.url,
      AWS_MAX_ATTEMPTS: '1',
    },
  });
  running.add(child);
  let [stdout, text] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk));
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk));
  const ended = once(child, 'close').then(([code, signal]) => code ?? signal) as Promise<number | string>;
  return { child, ended, text: () => text, stdout: () => stdout };
}
async function until(what: () => boolean, seconds = 120): Promise<void> {
  for (let i = 0; i < seconds * 20; i++) {
    if (what()) return;
    await sleep(50);
  }
  throw new Error(`it did not come to it: ${what}`);
}
/** The agent runs until the disk is confirmed. */
async function runUntilConfirmed() {
  const agent = start('run');
  await until(() => states().includes('active')).catch((error: unknown) => {
    throw new Error(agent.text(), { cause: error });
  });
  agent.child.kill('SIGTERM');
  await expect(agent.ended).resolves.toBe(0);
  return agent;
}

describeWithCryptsetup('casemate-agent with the real functions', () => {
  test('proves its VM, is given the key, formats and confirms; then every command says so', async () => {
    const agent = await runUntilConfirmed();
    const key = plaintext();
    expect(key).toHaveLength(64);
    expect(opens(device, key ?? Buffer.alloc(0))).toBe(true);
    for (const encoding of ['hex', 'base64', 'latin1'] as const) {
      expect(agent.text()).not.toContain(key?.toString(encoding));
    }

    const status = start('disk', 'status', '--json');
    await expect(status.ended).resolves.toBe(0);
    const listed = JSON.parse(status.stdout()) as { volumeId: string }[];
    expect(listed.find((each) => each.volumeId === volume)).toMatchObject({
      disk: disk().disk,
      device,
      generations: [{ generation: 1, state: 'active' }],
      problem: null,
    });

    const open = start('disk', 'open', '--all', '--wait');
    await expect(open.ended).resolves.toBe(0);
    expect(open.stdout()).toContain(`${volume}: proven, ${device}`);

    // A file stands for the device, and is never mapped.
    const close = start('disk', 'close', volume, '--json');
    await expect(close.ended).resolves.toBe(0);
    expect(JSON.parse(close.stdout())).toEqual({ volumeId: volume, open: false, wasOpen: false });

    const rotate = start('disk', 'rotate', volume);
    await expect(rotate.ended).resolves.toBe(0);
    expect(rotate.stdout()).toBe(`${volume}: key 2 active\n`);
    expect(states()).toEqual(['retiring', 'active']);
    expect(opens(device, plaintext(0) ?? Buffer.alloc(0))).toBe(false);
    expect(opens(device, plaintext(1) ?? Buffer.alloc(0))).toBe(true);
  });

  test('refused, waits, says so, and exits 1; unreachable, it exits 75', async () => {
    // Enrolled, and its report shows plain swap: the posture refuses the key.
    const enrol = start('enrol');
    await expect(enrol.ended).resolves.toBe(0);
    const refused = start('disk', 'open', '--all', '--wait', '--timeout', '1');
    await expect(refused.ended).resolves.toBe(1);
    expect(refused.text()).toMatch(/waiting for disks, up to 1 s: .*RELEASE_REFUSED/);
    expect(opens(device, plaintext() ?? Buffer.alloc(0))).toBe(false);

    around.state.apiDown = true;
    const away = start('disk', 'open', '--all', '--wait', '--timeout', '1');
    await expect(away.ended).resolves.toBe(75);
    expect(away.text()).toMatch(/waiting for disks, up to 1 s: unreachable: /);
    const status = start('disk', 'status');
    await expect(status.ended).resolves.toBe(75);
  });

  test.each<[string, string[], number, RegExp]>([
    ['no volume id', ['disk', 'close', 'sda'], 2, /looks like vol-/],
    ['a format that names no device', ['disk', 'format', 'vol-0123456789abcdef0', '--yes'], 2, /--device/],
    ['nothing to do', ['disk'], 2, /Usage: casemate-agent disk/],
  ])('with %s says what is wrong', async (_, args, code, says) => {
    const child = spawn(process.execPath, ['--no-warnings', MAIN, ...args]);
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk));
    const [exit] = (await once(child, 'close')) as [number];
    expect([exit, text]).toEqual([code, expect.stringMatching(says)]);
  });
});
