import { spawnSync } from 'node:child_process';
import { expect, test } from '@jest/globals';
import { make, native } from './native.ts';

// The suite is written in C, against made-up machines linked in place of hardware and kernel: each line is a test.
make('build/seams-test');
const { stdout, status } = spawnSync(`${native}/build/seams-test`, { encoding: 'utf8' });
const lines = stdout.trim().split('\n');

test.each(lines.map((line) => line.replace(/^(not )?ok /, '').replace(/: .*$/, '')))('%s', (name) => {
  expect(lines).toContain(`ok ${name}`);
});

test('the made-up machines were all looked at', () => {
  expect(lines.length).toBeGreaterThan(20);
  expect(status).toBe(0);
});
