import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import { alone, passOverDisks } from '../../../agent/disks/drive.ts';
import { type RunTool, runTool } from '../../../agent/disks/tool.ts';
import { describeWithMounts, mountTmpfs, unmount } from '../mounts.ts';
import { cryptsetup, describeWithCryptsetup, forge, metadata, opens, overwrite } from './luks.ts';
import { createMachine, digest, type Machine, openRecoveryKey, VOLUME } from './pipeline.ts';

// Each pass starts cryptsetup some ten times.
jest.setTimeout(120_000);

let machine: Machine;
beforeEach(() => {
  machine = createMachine();
});
afterEach(() => machine.folder.remove());

const keyOf = (generation: number) => machine.state.keys.get(generation) ?? Buffer.alloc(64);
/** One pass of an agent that was just started. */
const pass = async () => (await passOverDisks(machine.start()))[0];
/** A disk that was formatted and confirmed. */
async function formatted() {
  await expect(pass()).resolves.toMatchObject({ state: 'proven' });
  machine.state.calls.length = 0;
}
const content = () => digest(readFileSync(machine.device));
/** The pass fails with the reason, and the device is as it was. */
async function refusesAndKeeps(reason: string) {
  const before = content();
  await expect(pass()).resolves.toMatchObject({ state: 'failed', reason });
  expect(content()).toBe(before);
}

describeWithCryptsetup('a fresh volume', () => {
  test('is formatted with its UUID and key, gets a recovery key, a header backup, and is confirmed', async () => {
    const outcome = await pass();
    expect(outcome).toEqual({
      volumeId: VOLUME,
      disk: machine.state.volume.disk,
      device: machine.device,
      state: 'proven',
      mountedAt: null,
      reason: null,
      message: null,
    });
    expect(machine.state.calls).toEqual(['/disks', '/releases', '/headers', '/confirmations']);
    expect(opens(machine.device, keyOf(1))).toBe(true);
    const recovery = openRecoveryKey(machine.state.recoveryKey ?? '');
    expect(recovery.toString()).toMatch(/^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$/);
    expect(opens(machine.device, recovery)).toBe(true);
    expect(cryptsetup(['luksUUID', machine.device]).stdout.trim()).toBe(machine.state.volume.disk);

    const header = metadata(machine.device);
    expect(Object.values(header.segments)).toEqual([
      expect.objectContaining({ type: 'crypt', encryption: 'aes-xts-plain64', sector_size: 4096 }),
    ]);
    expect(Object.values(header.keyslots)).toHaveLength(2);
    for (const slot of Object.values(header.keyslots)) {
      expect(slot).toMatchObject({ key_size: 64, kdf: { type: 'pbkdf2', iterations: 1000 } });
    }
    const { disk } = machine.state.volume;
    expect(Object.values(header.tokens)).toEqual(
      expect.arrayContaining([
        { type: 'casemate', keyslots: ['0'], disk, generation: 1, role: 'disk-key' },
        { type: 'casemate', keyslots: ['1'], disk, generation: 1, role: 'recovery' },
      ]),
    );
  });

  test('has a header backup from which a wiped header comes back', async () => {
    await formatted();
    const backup = join(machine.folder.path, 'backup');
    writeFileSync(backup, gunzipSync(machine.state.headers[0] ?? Buffer.alloc(0)));
    overwrite(machine.device, 0, Buffer.alloc(4 * 1024 * 1024));
    expect(opens(machine.device, keyOf(1))).toBe(false);
    expect(cryptsetup(['luksHeaderRestore', machine.device, '--header-backup-file', backup]).status).toBe(0);
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
  });

  test('is confirmed also while no header backup can be sent, which is owed until it was', async () => {
    machine.state.withHeaders = false;
    await formatted();
    expect(machine.said.join('\n')).toContain('header backup is still owed');
    machine.state.withHeaders = true;
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
    expect(machine.state.headers).toHaveLength(1);
    await pass();
    expect(machine.state.headers).toHaveLength(1);
  });

  test('costs one release, and none while the agent goes on running', async () => {
    const agent = machine.start();
    await passOverDisks(agent);
    await passOverDisks(agent);
    await passOverDisks(agent);
    expect(machine.state.calls.filter((call) => call === '/releases')).toHaveLength(1);
  });

  test('gets no recovery key where the pipeline has no escrow', async () => {
    machine.state.withRecovery = false;
    await formatted();
    expect(Object.keys(metadata(machine.device).keyslots)).toEqual(['0']);
  });

  test('leaves no copy of a header and no mark behind', async () => {
    await formatted();
    expect(readdirSync(machine.config.runtimeDir)).toEqual([]);
    expect(readdirSync(join(machine.config.stateDir, 'disks'))).toEqual([]);
  });

  test('is left alone while the pipeline refuses its key', async () => {
    machine.state.refuses = 'RELEASE_REFUSED';
    const before = content();
    await expect(pass()).resolves.toMatchObject({ state: 'refused', reason: 'RELEASE_REFUSED' });
    expect(content()).toBe(before);
  });
});

describeWithCryptsetup('formatting without a human', () => {
  test('refuses a device that carries a file system', async () => {
    spawnSync('/usr/sbin/mkfs.ext4', ['-q', machine.device]);
    await refusesAndKeeps('DEVICE_NOT_BLANK');
  });
  test('refuses a device with bytes that have no signature, at its start or its end', async () => {
    overwrite(machine.device, 5_000_000, Buffer.from('x'));
    await refusesAndKeeps('DEVICE_NOT_BLANK');
    overwrite(machine.device, 5_000_000, Buffer.alloc(1));
    overwrite(machine.device, 64 * 1024 * 1024 - 1, Buffer.from('x'));
    await refusesAndKeeps('DEVICE_NOT_BLANK');
  });
  test('refuses a volume made from a snapshot', async () => {
    machine.state.volume.fromSnapshot = true;
    await refusesAndKeeps('VOLUME_FROM_SNAPSHOT');
  });
  test('refuses somebody else’s LUKS disk', async () => {
    cryptsetup(
      ['luksFormat', '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', machine.device, '-'],
      keyOf(1),
    );
    await refusesAndKeeps('HEADER_OTHER_DISK');
  });
  test('refuses, and calls it an alarm, when a confirmed disk is blank', async () => {
    await formatted();
    overwrite(machine.device, 0, Buffer.alloc(17 * 1024 * 1024));
    const outcome = await pass();
    expect(outcome).toMatchObject({ state: 'failed', reason: 'DISK_BLANK_CONFIRMED' });
    expect(outcome?.message).toContain('ALARM');
    await refusesAndKeeps('DISK_BLANK_CONFIRMED');
  });
  test('calls it an alarm, too, when only the header of a confirmed disk was wiped', async () => {
    await formatted();
    overwrite(machine.device, 64 * 1024 * 1024 - 4096, Buffer.alloc(4096, 0x5a)); // data
    overwrite(machine.device, 0, Buffer.alloc(16 * 1024 * 1024));
    await refusesAndKeeps('DISK_BLANK_CONFIRMED');
  });
  test('waits for a key that is not issued yet, and for a device that is not there', async () => {
    machine.state.volume.generations = [];
    await expect(pass()).resolves.toMatchObject({ state: 'left', reason: 'KEY_NOT_ISSUED_YET' });
    rmSync(machine.device);
    await expect(pass()).resolves.toMatchObject({ state: 'failed', reason: 'DEVICE_MISSING' });
  });
  test('leaves what Casemate does not cover', async () => {
    machine.state.volume.notCovered = 'ROOT_VOLUME';
    await expect(pass()).resolves.toMatchObject({ state: 'left', reason: 'ROOT_VOLUME' });
    expect(machine.state.calls).toEqual(['/disks']);
  });
});

describeWithCryptsetup('a confirmed disk', () => {
  test('opens with its key at the next boot, and is not written to', async () => {
    await formatted();
    const before = content();
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
    expect(machine.state.calls).toEqual(['/disks', '/releases']);
    expect(content()).toBe(before);
  });
  test('refuses a key of another generation, and says what to do', async () => {
    await formatted();
    machine.state.keys.set(1, Buffer.alloc(64, 7));
    const outcome = await pass();
    expect(outcome).toMatchObject({ state: 'failed', reason: 'KEY_DOES_NOT_OPEN' });
    expect(outcome?.message).toContain('disk recover');
    await refusesAndKeeps('KEY_DOES_NOT_OPEN');
  });
  test('of another VM, moved here, is adopted by its UUID and then opened', async () => {
    await formatted();
    machine.state.volume.notCovered = 'DISK_MOVED';
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
    expect(machine.state.calls).toEqual(['/disks', '/adoptions', '/disks', '/releases']);
  });
  test('opens by the second copy of its header when the first is damaged', async () => {
    await formatted();
    overwrite(machine.device, 0, Buffer.alloc(4096, 0xff));
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
  });
});

describeWithCryptsetup('a hostile header', () => {
  let hostile: Machine;
  let sound: Buffer;
  beforeAll(async () => {
    hostile = createMachine();
    hostile.state.withRecovery = false;
    await passOverDisks(hostile.start());
    sound = readFileSync(hostile.device);
  });
  afterAll(() => hostile.folder.remove());
  beforeEach(() => {
    machine.folder.remove();
    machine = { ...hostile, folder: { ...hostile.folder, remove: () => undefined } };
    writeFileSync(machine.device, sound);
    hostile.state.calls.length = 0;
  });
  /** Refused before a key was even asked for. */
  const refusesUnasked = async (reason: string) => {
    await refusesAndKeeps(reason);
    expect(machine.state.calls).not.toContain('/releases');
  };

  test('with a null cipher is refused', async () => {
    forge(machine.device, (h) => Object.assign(h.segments['0'] ?? {}, { encryption: 'cipher_null-ecb' }));
    await refusesUnasked('HEADER_CIPHER');
  });
  test('with the token of another tool is refused', async () => {
    forge(machine.device, (h) => {
      h.tokens['7'] = { type: 'clevis', keyslots: ['0'], jwe: {} };
    });
    await refusesUnasked('HEADER_FOREIGN_TOKEN');
  });
  test('with a keyslot that would take the memory of the machine is refused', async () => {
    forge(machine.device, (h) => {
      const slot = h.keyslots['0'];
      if (slot) slot.kdf = { type: 'argon2id', time: 4, memory: 4_194_304, cpus: 4, salt: slot.kdf['salt'] };
    });
    await refusesUnasked('HEADER_KEYSLOTS');
  });
  test('with data that begins elsewhere is refused', async () => {
    forge(machine.device, (h) => Object.assign(h.segments['0'] ?? {}, { offset: String(48 * 1024 * 1024) }));
    await refusesUnasked('HEADER_GEOMETRY');
  });
  test('with a re-encryption that this agent did not start is refused, though its key began it', async () => {
    const pbkdf = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
    const begun = cryptsetup(
      ['reencrypt', '--init-only', ...pbkdf, '--key-file', '-', machine.device],
      keyOf(1),
    );
    expect(begun.status).toBe(0);
    await refusesUnasked('HEADER_REENCRYPTION');
  });
  test('corrupted in both copies, or overwritten, is refused', async () => {
    for (const at of [0, 16 * 1024]) overwrite(machine.device, at + 5000, Buffer.alloc(200, 0x20));
    await refusesUnasked('HEADER_UNREADABLE');
    overwrite(machine.device, 0, Buffer.alloc(64 * 1024, 0xff));
    await refusesUnasked('HEADER_UNREADABLE');
  });
  test('cut off behind its first sector is refused', async () => {
    overwrite(machine.device, 512, Buffer.alloc(16 * 1024 * 1024));
    await refusesUnasked('HEADER_UNREADABLE');
  });
  test('of another disk is refused, though its key is the same', async () => {
    const other = '99999999-2222-4333-8444-555555555555';
    expect(cryptsetup(['luksUUID', '--uuid', other, machine.device]).status).toBe(0);
    await refusesUnasked('HEADER_OTHER_DISK');
  });
});

describeWithCryptsetup('trouble', () => {
  test('two agents at once: the second waits, and nothing is done twice', async () => {
    const [first, second] = await Promise.all([
      passOverDisks(machine.start()),
      passOverDisks(machine.start()),
    ]);
    expect([first[0]?.state, second[0]?.state]).toEqual(['proven', 'proven']);
    expect(machine.state.calls.filter((call) => call === '/confirmations')).toHaveLength(1);
  });

  test('an agent that is at work for longer than others wait has them say so, and do nothing', async () => {
    const [work, others] = [jest.fn(async () => undefined), jest.fn(async () => undefined)];
    await alone(machine.config.stateDir, async () => {
      await work();
      await expect(alone(machine.config.stateDir, others, 0)).rejects.toMatchObject({
        reason: 'DISK_BUSY',
        message: expect.stringContaining('try again when it is done'),
      });
    });
    expect([work.mock.calls.length, others.mock.calls.length]).toEqual([1, 0]);
  });

  test('without cryptsetup the outcome says so', async () => {
    const run: RunTool = (tool, args, options) =>
      runTool(tool === 'cryptsetup' ? 'cryptsetup-gone' : tool, args, options);
    const [outcome] = await passOverDisks(machine.start(machine.api, run));
    expect(outcome).toMatchObject({ state: 'failed', reason: 'DEVICE_FAILED' });
    expect(outcome?.message).toContain('is not installed');
  });

  test('a device that is gone between the look and the format is an error, not a file', async () => {
    const run: RunTool = async (tool, args, options) => {
      if (args.includes('luksFormat')) rmSync(machine.device);
      return runTool(tool, args, options);
    };
    const [outcome] = await passOverDisks(machine.start(machine.api, run));
    expect(outcome).toMatchObject({ state: 'failed', reason: 'DEVICE_FAILED' });
    expect(existsSync(machine.device)).toBe(false);
  });

  test('a volume too small for a header is refused, and not touched', async () => {
    machine.folder.remove();
    machine = createMachine({}, 31 * 1024 * 1024);
    await refusesAndKeeps('DEVICE_TOO_SMALL');
  });
});

describeWithMounts('a full disk of the machine’s own', () => {
  test('is told, before anything is written to the volume', async () => {
    const marks = join(machine.config.stateDir, 'disks');
    mkdirSync(marks);
    // The folder takes the one inode that there is.
    expect(mountTmpfs(marks, 'size=4k,nr_inodes=1')).toBe(true);
    try {
      const before = content();
      await expect(pass()).rejects.toThrow('ENOSPC');
      expect(content()).toBe(before);
    } finally {
      unmount(marks);
    }
    await expect(pass()).resolves.toMatchObject({ state: 'proven' });
  });
});
