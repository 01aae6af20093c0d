import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { UnreachableError } from '../../../agent/api.ts';
import { passOverDisks } from '../../../agent/disks/drive.ts';
import { openSecret, sealSecret } from '../../../agent/disks/escrow.ts';
import { begin } from '../../../agent/disks/mark.ts';
import { createProgress } from '../../../agent/disks/progress.ts';
import { escrowSecret, openWithRecoveryKey, reenrol } from '../../../agent/disks/recover.ts';
import { createRecoveryKey, RECOVERY_KEY_BYTES } from '../../../agent/disks/recovery-key.ts';
import { reencrypt } from '../../../agent/disks/rotate.ts';
import { statusOf } from '../../../agent/disks/status.ts';
import { SecureMemory } from '../../../agent/secure-memory.ts';
import { temporaryFolder } from '../harness.ts';
import { cryptsetup, describeWithCryptsetup, metadata, opens } from './luks.ts';
import { createMachine, type Machine, openRecoveryKey, VOLUME } from './pipeline.ts';

jest.setTimeout(300_000);

let machine: Machine;
beforeEach(() => {
  machine = createMachine({}, 40 * 1024 * 1024);
});
afterEach(() => machine.folder.remove());

const keyOf = (generation: number) => machine.state.keys.get(generation) ?? Buffer.alloc(64);
const recoveryKey = () => openRecoveryKey(machine.state.recoveryKey ?? '');
const silent = createProgress('', Object.assign(Object.create(process.stderr), { write: () => true }));

describeWithCryptsetup('a recovery key', () => {
  beforeEach(async () => {
    await passOverDisks(machine.start());
    // The disk's own keyslot is lost.
    cryptsetup(['luksKillSlot', '--key-file', '-', machine.device, '0'], recoveryKey());
    expect(opens(machine.device, keyOf(1))).toBe(false);
  });

  test('opens the disk while the pipeline is away', async () => {
    machine.state.away = true;
    using typed = SecureMemory.from(recoveryKey());
    const on = await openWithRecoveryKey(machine.start(), VOLUME, typed, undefined);
    expect(on).toMatchObject({ volumeId: VOLUME, disk: machine.state.volume.disk });
  });

  test('puts the present key back into a keyslot, and is replaced by a new one', async () => {
    const used = recoveryKey();
    using typed = SecureMemory.from(recoveryKey());
    const agent = machine.start();
    const on = await openWithRecoveryKey(agent, VOLUME, typed, machine.list());
    await expect(reenrol(agent, on, typed, machine.list())).resolves.toBe(1);
    expect(opens(machine.device, keyOf(1))).toBe(true);
    expect(opens(machine.device, recoveryKey())).toBe(true);
    expect(opens(machine.device, used)).toBe(false);
    expect(Object.keys(metadata(machine.device).keyslots)).toHaveLength(2);
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
  });

  test('that is another’s is refused', async () => {
    using wrong = createRecoveryKey();
    await expect(openWithRecoveryKey(machine.start(), VOLUME, wrong, machine.list())).rejects.toMatchObject({
      reason: 'RECOVERY_KEY_WRONG',
    });
  });

  test('does not open a header that was tampered with', async () => {
    using typed = SecureMemory.from(recoveryKey());
    const other = '99999999-2222-4333-8444-555555555555';
    cryptsetup(['luksUUID', '--uuid', other, machine.device]);
    await expect(openWithRecoveryKey(machine.start(), VOLUME, typed, machine.list())).rejects.toMatchObject({
      reason: 'HEADER_OTHER_DISK',
    });
  });
});

test('recovery keys are of 256 bits, and no two alike', () => {
  const texts = Array.from({ length: 50 }, () => {
    using key = createRecoveryKey();
    return key.use((bytes) => Buffer.from(bytes).toString());
  });
  expect(new Set(texts).size).toBe(50);
  for (const text of texts) {
    expect(text).toHaveLength(RECOVERY_KEY_BYTES);
    expect(text).toMatch(/^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$/);
  }
  // Every letter comes, in every place: none is left over from the allocation.
  expect(new Set(texts.join('')).size).toBe(17);
});

describeWithCryptsetup('a re-encryption', () => {
  const on = () => ({
    volumeId: VOLUME,
    disk: machine.state.volume.disk ?? '',
    device: { path: machine.device, bytes: 40 * 1024 * 1024, mappedBy: 'file' as const },
  });
  const volumeKeyDigest = () => metadata(machine.device).digests['0']?.['digest'];

  test('replaces the volume key, keeps the disk’s key, and brings a new recovery key', async () => {
    await passOverDisks(machine.start());
    const [before, oldRecovery] = [volumeKeyDigest(), recoveryKey()];
    const { recoveryPublicKey } = machine.list();
    await reencrypt(machine.start(), on(), 1, recoveryPublicKey, silent);
    expect(volumeKeyDigest()).not.toBe(before);
    expect(opens(machine.device, keyOf(1))).toBe(true);
    expect(opens(machine.device, recoveryKey())).toBe(true);
    expect(opens(machine.device, oldRecovery)).toBe(false);
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
  });

  test('that was begun here is gone on from at the next start, and only then', async () => {
    await passOverDisks(machine.start());
    const before = volumeKeyDigest();
    const pbkdf = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
    const args = ['reencrypt', '--init-only', '--key-slot', '0', ...pbkdf, '--key-file', '-', machine.device];
    expect(cryptsetup(args, keyOf(1)).status).toBe(0);
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ reason: 'HEADER_REENCRYPTION' }]);
    begin(machine.config.stateDir, machine.state.volume.disk ?? '', 'reencrypting');
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
    expect(metadata(machine.device).config['requirements']).toBeUndefined();
    expect(volumeKeyDigest()).not.toBe(before);
    expect(opens(machine.device, keyOf(1))).toBe(true);
    expect(opens(machine.device, recoveryKey())).toBe(true);
  });
});

describeWithCryptsetup('disk status', () => {
  test('shows keys, keyslots and what is wrong, and asks for no key', async () => {
    await passOverDisks(machine.start());
    machine.state.calls.length = 0;
    const [status] = await statusOf(machine.start(), machine.list());
    expect(status).toMatchObject({
      volumeId: VOLUME,
      device: machine.device,
      open: false,
      generations: [{ generation: 1, state: 'active' }],
      keyslots: [
        { slot: 0, holds: 'key 1' },
        { slot: 1, holds: 'recovery 1' },
      ],
      underWay: [],
      problem: null,
    });
    cryptsetup(['luksUUID', '--uuid', '99999999-2222-4333-8444-555555555555', machine.device]);
    const [wrong] = await statusOf(machine.start(), machine.list());
    expect(wrong?.problem?.reason).toBe('HEADER_OTHER_DISK');
    rmSync(machine.device);
    const [gone] = await statusOf(machine.start(), machine.list());
    expect(gone?.problem?.reason).toBe('DEVICE_MISSING');
    expect(machine.state.calls).toEqual([]);
  });
});

describe('an escrowed secret', () => {
  const disk = '11111111-2222-4333-8444-555555555555';
  test('opens with the key, disk and generation that it was sealed under, and with no other', () => {
    using key = SecureMemory.from(Buffer.alloc(64, 1));
    using other = SecureMemory.from(Buffer.alloc(64, 2));
    using secret = SecureMemory.from(Buffer.from('a recovery password'));
    const sealed = sealSecret(secret, key, disk, 1);
    using opened = openSecret(sealed, key, disk, 1);
    expect(opened.equals(secret)).toBe(true);
    expect(sealSecret(secret, key, disk, 1).equals(sealed)).toBe(false);
    const refused = expect.objectContaining({ reason: 'KEY_DOES_NOT_OPEN' });
    expect(() => openSecret(sealed, other, disk, 1)).toThrow(refused);
    expect(() => openSecret(sealed, key, disk, 2)).toThrow(refused);
    expect(() => openSecret(sealed, key, disk.replace('1', '2'), 1)).toThrow(refused);
    for (let i = 0; i < sealed.length; i++) {
      const changed = Buffer.from(sealed);
      changed[i] = (changed[i] ?? 0) ^ 1;
      expect(() => openSecret(changed, key, disk, 1)).toThrow(refused);
    }
    for (let length = 0; length < sealed.length; length++) {
      expect(() => openSecret(sealed.subarray(0, length), key, disk, 1)).toThrow(refused);
    }
  });
});

const SAMPLE = fileURLToPath(
  new URL('../../../../shared/vectors/bitlk/bitlk-sample.tar.xz', import.meta.url),
);
const there = existsSync(SAMPLE);
// Recovery password of the sample, as its images.conf has it.
const PASSWORD = '235818-357951-253979-013365-241120-245575-342914-591910';
describeWithCryptsetup(
  `a BitLocker volume${there ? '' : ' (skipped: ../shared/vectors is not here)'}`,
  () => {
    (there ? test : test.skip)(
      'is escrowed by its recovery password, and opens with what is released',
      async () => {
        const sample = temporaryFolder();
        try {
          spawnSync('tar', ['-xf', SAMPLE, '-C', sample.path, 'bitlk-aes-xts-128.img']);
          const device = join(sample.path, 'bitlk-aes-xts-128.img');
          machine.folder.remove();
          machine = createMachine({ devices: { [VOLUME]: device } });
          machine.state.volume.kind = 'bitlk';
          await expect(passOverDisks(machine.start())).resolves.toMatchObject([
            { reason: 'SECRET_NOT_ESCROWED' },
          ]);

          // Groups of a recovery password are multiples of 11; anything else is a passphrase, which fails otherwise.
          for (const other of ['335818', '235829']) {
            using wrong = SecureMemory.from(Buffer.from(PASSWORD.replace('235818', other)));
            await expect(escrowSecret(machine.start(), machine.list(), VOLUME, wrong)).rejects.toMatchObject({
              reason: 'BITLOCKER_SECRET_WRONG',
            });
          }
          using secret = SecureMemory.from(Buffer.from(PASSWORD));
          await escrowSecret(machine.start(), machine.list(), VOLUME, secret);
          expect(machine.state.escrow).not.toBeNull();
          await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);

          machine.state.keys.set(1, Buffer.alloc(64, 9));
          await expect(passOverDisks(machine.start())).resolves.toMatchObject([
            { reason: 'KEY_DOES_NOT_OPEN' },
          ]);
        } finally {
          sample.remove();
        }
      },
    );
  },
);

test('a pipeline that is away is not a refusal', async () => {
  machine.state.away = true;
  await expect(passOverDisks(machine.start())).rejects.toBeInstanceOf(UnreachableError);
});
