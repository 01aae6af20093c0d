import { constants, copyFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { Api } from '../../../agent/api.ts';
import { passOverDisks } from '../../../agent/disks/drive.ts';
import { type RunTool, runTool } from '../../../agent/disks/tool.ts';
import { cryptsetup, describeWithCryptsetup, metadata, opens, overwrite } from './luks.ts';
import { createMachine, type Machine, openRecoveryKey } from './pipeline.ts';

jest.setTimeout(600_000);

/** The process ended here: nothing of it goes on. */
class Killed extends Error {
  override readonly name = 'Killed';
}

let machine: Machine;
beforeEach(() => {
  machine = createMachine({}, 40 * 1024 * 1024);
});
afterEach(() => machine.folder.remove());

const keyOf = (generation: number) => machine.state.keys.get(generation) ?? Buffer.alloc(64);

/** What changes something, on the disk or at the pipeline. */
const WRITES = ['luksFormat', 'luksAddKey', 'luksKillSlot'];
const CALLS = ['/rotations', '/confirmations', '/headers'];

/** An agent that is killed right after its `last`-th effect: done, and its answer lost. */
function killedAfter(last: number) {
  const effects: string[] = [];
  const count = (name: string) => {
    effects.push(name);
    if (effects.length === last) throw new Killed(name);
  };
  const run: RunTool = async (tool, args, options) => {
    const result = await runTool(tool, args, options);
    const write = WRITES.find((each) => args.includes(each));
    if (write) count(write);
    return result;
  };
  const api: Api = {
    async post(path, body, schema) {
      const answer = await machine.api.post(path, body, schema);
      if (CALLS.includes(path)) count(path);
      return answer;
    },
  };
  return { agent: machine.start(api, run), effects };
}

/** One keyslot for the disk's key and one for the recovery key that is in escrow, and nothing begun. */
function expectSettled(generation: number) {
  const { keyslots, tokens } = metadata(machine.device);
  expect(Object.keys(keyslots)).toHaveLength(2);
  expect(Object.values(tokens).flatMap((token) => token['keyslots'])).toHaveLength(2);
  expect(opens(machine.device, keyOf(generation))).toBe(true);
  expect(opens(machine.device, openRecoveryKey(machine.state.recoveryKey ?? ''))).toBe(true);
  expect(readdirSync(join(machine.config.stateDir, 'disks'))).toEqual([]);
}

/** Runs an agent that is killed after its first effect, then one after its second, … until one comes to its end. */
async function killAtEachStep(reset: () => void, afterKill: (effects: readonly string[]) => void) {
  const seen: string[][] = [];
  for (let last = 1; ; last++) {
    reset();
    const { agent, effects } = killedAfter(last);
    const outcome = await passOverDisks(agent).catch((error: unknown) => error);
    if (!(outcome instanceof Killed)) return { steps: seen, all: effects };
    seen.push(effects);
    afterKill(effects);
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
  }
}

describeWithCryptsetup('formatting, killed after each of its steps,', () => {
  test('is gone on from at the next start', async () => {
    const { all } = await killAtEachStep(
      () => {
        machine.folder.remove();
        machine = createMachine({}, 40 * 1024 * 1024);
      },
      () => undefined,
    );
    expectSettled(1);
    expect(all).toEqual(['luksFormat', 'luksAddKey', '/headers', '/confirmations']);
  });

  test.each<[string, () => void]>([
    ['both copies of the header', () => overwrite(machine.device, 0, Buffer.alloc(32 * 1024))],
    ['its keyslots', () => void cryptsetup(['luksErase', machine.device])],
    [
      'the UUID of the first copy and all of the second',
      () => {
        overwrite(machine.device, 0, Buffer.alloc(4096));
        overwrite(machine.device, 16 * 1024, Buffer.alloc(16 * 1024));
      },
    ],
  ])('in the middle of luksFormat, before it wrote %s, formats again', async (_, cut) => {
    const { agent } = killedAfter(1);
    await expect(passOverDisks(agent)).rejects.toThrow(Killed);
    cut();
    expect(opens(machine.device, keyOf(1))).toBe(false);
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
    expectSettled(1);
  });

  test('is not gone on from by an agent that did not begin it, once its header is damaged', async () => {
    const { agent } = killedAfter(1);
    await expect(passOverDisks(agent)).rejects.toThrow(Killed);
    overwrite(machine.device, 0, Buffer.alloc(32 * 1024));
    for (const mark of readdirSync(join(machine.config.stateDir, 'disks'))) {
      rmSync(join(machine.config.stateDir, 'disks', mark));
    }
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ reason: 'DEVICE_NOT_BLANK' }]);
  });
});

describeWithCryptsetup('a rotation, killed after each of its steps,', () => {
  let golden: string;
  let generations: Machine['state']['volume']['generations'];
  let firstKey: Buffer;
  let recoveryKey: string | undefined;
  beforeEach(async () => {
    await passOverDisks(machine.start());
    golden = join(machine.folder.path, 'golden.img');
    copyFileSync(machine.device, golden, constants.COPYFILE_FICLONE);
    ({ generations } = machine.state.volume);
    firstKey = keyOf(1);
    ({ recoveryKey } = machine.state);
  });
  const reset = () => {
    copyFileSync(golden, machine.device, constants.COPYFILE_FICLONE);
    machine.state.volume.generations = generations;
    machine.state.volume.rotate = 'OPERATOR_ASKED';
    machine.state.recoveryKey = recoveryKey;
    machine.state.keys.delete(2);
    for (const mark of readdirSync(join(machine.config.stateDir, 'disks'))) {
      rmSync(join(machine.config.stateDir, 'disks', mark));
    }
  };

  test('leaves a disk that opens, is gone on from, and leaves no old keyslot', async () => {
    const { all } = await killAtEachStep(reset, () => {
      // Whatever happened: some key that the pipeline still releases opens the disk.
      const active = machine.state.volume.generations.find((g) => g.state === 'active');
      expect(opens(machine.device, keyOf(active?.generation ?? 0))).toBe(true);
    });
    expect(all).toEqual([
      '/rotations',
      'luksAddKey',
      'luksAddKey',
      '/confirmations',
      'luksKillSlot',
      'luksKillSlot',
      '/headers',
    ]);
    expectSettled(2);
    expect(opens(machine.device, firstKey)).toBe(false);
    expect(opens(machine.device, openRecoveryKey(recoveryKey ?? ''))).toBe(false);
    expect(machine.state.volume.generations.map((g) => g.state)).toEqual(['retiring', 'active']);
  });

  test('ends also after it was killed again and again, with every keyslot taken', async () => {
    reset();
    // The first adds the new key; each that follows adds a recovery key that dies with it.
    for (let i = 0; i < 7; i++) {
      const { agent } = killedAfter(i === 0 ? 3 : 1);
      await expect(passOverDisks(agent)).rejects.toThrow(Killed);
    }
    await expect(passOverDisks(machine.start())).resolves.toMatchObject([{ state: 'proven' }]);
    expectSettled(2);
  });
});
