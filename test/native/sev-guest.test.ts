import { spawnSync } from 'node:child_process';
import { expect, test } from '@jest/globals';
import { SnpReportError, snpReport } from '../../agent/probe.ts';
import { make, native } from './native.ts';

// The suite is written in C, with the driver made up: each line is a test.
make('addon', 'build/sev-guest-test');
const { stdout, status } = spawnSync(`${native}/build/sev-guest-test`, { encoding: 'utf8' });
const lines = stdout.trim().split('\n');

test.each(lines.map((line) => line.replace(/^(not )?ok /, '')))('%s', (name) => {
  expect(lines).toContain(`ok ${name}`);
});

test('the made-up driver was asked all of it', () => {
  expect(lines).toHaveLength(8);
  expect(status).toBe(0);
});

test('a machine without the driver says so, and a file that is none does', () => {
  expect(() => snpReport('/dev/sev-guest-that-is-not-there', Buffer.alloc(64))).toThrow(
    /^\/dev\/sev-guest-that-is-not-there: No such file/,
  );
  expect(() => snpReport('/dev/null', Buffer.alloc(64))).toThrow(SnpReportError);
});

test.each<[string, string, Uint8Array]>([
  ['63 bytes', '/dev/null', Buffer.alloc(63)],
  ['words', '/dev/null', new Uint32Array(16) as never],
  ['a path with a zero in it', '/dev/null\0x', Buffer.alloc(64)],
])('%s are refused before anything is opened', (_, device, bytes) => {
  expect(() => snpReport(device, bytes)).toThrow('not a path and 64 bytes');
});
