import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { findPython, isCurrent, PrerequisiteError, requirementsHash } from '../../../bin/local/python.ts';

const PINS = 'ministack==1.5.33\nmoto==5.2.5\n';
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-python-test-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const venv = (pins: string, interpreter = true) => {
  mkdirSync(join(folder, 'bin'));
  if (interpreter) writeFileSync(join(folder, 'bin', 'python'), '');
  writeFileSync(join(folder, 'casemate-requirements'), requirementsHash(pins));
};

describe('the Python environment', () => {
  test('is used again when it was made from the same pins', () => {
    venv(PINS);
    expect(isCurrent(folder, PINS)).toBe(true);
  });

  test('is made anew when a pin changed', () => {
    venv(PINS);
    expect(isCurrent(folder, PINS.replace('5.2.5', '5.2.6'))).toBe(false);
  });

  test('is made anew when it is not there, or was not made to its end', () => {
    expect(isCurrent(join(folder, 'nowhere'), PINS)).toBe(false);
    expect(isCurrent(folder, PINS)).toBe(false);
  });

  test('is made anew when the Python that it stands on is gone', () => {
    venv(PINS, false);
    expect(isCurrent(folder, PINS)).toBe(false);
  });

  test('pins every package that it installs', () => {
    const requirements = readFileSync(
      new URL('../../../bin/local/requirements.txt', import.meta.url),
      'utf8',
    );
    const unpinned = requirements
      .split('\n')
      .filter((line) => line && !/^[\w.-]+(\[\w+\])?==[\w.]+$/.test(line));
    expect(unpinned).toEqual([]);
  });
});

describe('the search for a Python', () => {
  const interpreter = (name: string, status: number) => {
    const file = join(folder, name);
    writeFileSync(file, `#!/bin/sh\nexit ${status}\n`, { mode: 0o755 });
    return file;
  };

  test('takes the first that is new enough', async () => {
    const candidates = [join(folder, 'absent'), interpreter('old', 1), interpreter('new', 0)];
    const log = join(folder, 'log');
    await expect(findPython(candidates, { log })).resolves.toBe(join(folder, 'new'));
  });

  test('says what to install when there is none', async () => {
    const search = findPython([join(folder, 'absent'), interpreter('old', 1)], { log: join(folder, 'log') });
    await expect(search).rejects.toThrow(
      new PrerequisiteError(
        'the embedded cloud needs Python 3.10 or newer: install it (Debian: apt-get install python3 python3-venv)',
      ),
    );
  });
});
