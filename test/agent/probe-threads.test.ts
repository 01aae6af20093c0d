import { Worker } from 'node:worker_threads';
import { beforeAll, expect, test } from '@jest/globals';
import { machines, make, native } from '../native/native.ts';

beforeAll(() => make('addon'));

test('worker threads look at the same time, each at its own machine', async () => {
  const code = `const { parentPort, workerData } = require('node:worker_threads');
    const { probe } = require(workerData.addon);
    const brands = new Set();
    for (let i = 0; i < 200; i++) brands.add(JSON.parse(probe({ root: workerData.root })).machine.brand);
    parentPort.postMessage([...brands]);`;
  const addon = `${native}/build/casemate.node`;
  const seen = await Promise.all(
    ['qemu-tcg-epyc', 'qemu-tcg-icelake-server'].map(
      (name) =>
        new Promise((resolve, reject) => {
          const worker = new Worker(code, { eval: true, workerData: { addon, root: `${machines}/${name}` } });
          worker.once('message', resolve).once('error', reject);
        }),
    ),
  );
  expect(seen).toEqual([['AMD EPYC Processor'], ['Intel Xeon Processor (Icelake)']]);
});
