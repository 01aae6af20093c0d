import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import { whileWaiting } from '../../../agent/disks/progress.ts';

const output = (isTTY: boolean) => {
  const said: string[] = [];
  return { isTTY, said, write: (text: string) => said.push(text) };
};

describe('waiting for a tool that does not say how far it is', () => {
  test('says nothing of what is over within two seconds, and gives back what came of it', async () => {
    const out = output(true);
    await expect(whileWaiting('making ext4', out, async () => sleep(50, 'made'), 5)).resolves.toBe('made');
    expect(out.said).toEqual([]);
  });

  test('counts the seconds on a terminal, and says it once elsewhere', async () => {
    const [terminal, log] = [output(true), output(false)];
    await Promise.all([terminal, log].map((out) => whileWaiting('making ext4', out, () => sleep(2200), 50)));
    expect(terminal.said[0]).toBe('\r\x1b[Kmaking ext4 for 2 s');
    expect(terminal.said.at(-1)).toBe('\n');
    expect(log.said).toEqual(['making ext4, which takes a while\n']);
  });

  test('ends with what failed', async () => {
    const failing = whileWaiting('making ext4', output(true), () => Promise.reject(new Error('no space')));
    await expect(failing).rejects.toThrow('no space');
  });
});
