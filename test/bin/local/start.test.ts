import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OPENS_DISKS } from '../../../bin/local/agents.ts';
import { missingPrerequisite } from '../../integration/cloud.ts';

const PROJECT = fileURLToPath(new URL('../../..', import.meta.url));
const missing = await missingPrerequisite();
const started = missing === undefined ? test : test.skip;

interface Result {
  readonly vms: readonly {
    readonly id: string;
    readonly inScope: boolean;
    readonly volumes: readonly {
      readonly covered: boolean;
      readonly reason?: string;
      readonly disk: string | null;
      readonly keys: readonly { readonly generation: number; readonly state: string }[];
    }[];
    readonly isolation: {
      readonly profile: string | null;
      readonly applied: boolean;
      readonly interfaces: readonly { readonly groups: readonly string[] }[];
    };
    readonly posture: { readonly verdict: string; readonly facts: Readonly<Record<string, unknown>> };
  }[];
  readonly breakIn: {
    readonly instanceId: string;
    readonly events: readonly {
      readonly what: string;
      readonly reasons: readonly string[];
      readonly interfaces: readonly { readonly id: string; readonly groups: readonly string[] }[];
    }[];
  };
  readonly timings: Readonly<Record<string, number>>;
}

function run(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['bin/local.ts', ...args], {
      cwd: PROJECT,
      env: { ...process.env, TMPDIR: folder },
    });
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (chunk: Buffer) => {
        output[name] += chunk;
      });
    }
    child.on('close', (code) => resolve({ code, ...output }));
  });
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-start-test-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe(missing === undefined ? 'npm start' : `skipped: ${missing}: npm start`, () => {
  started(
    'once, in JSON: three VMs in scope with keys and open fences, one left alone, and nothing left behind',
    async () => {
      const { code, stdout, stderr } = await run('--once', '--json', '--timeout', '240');
      expect({ code, stderr }).toMatchObject({ code: 0 });
      const { vms, breakIn, timings } = JSON.parse(stdout) as Result;

      const inScope = vms.filter((vm) => vm.inScope);
      expect(inScope.map((vm) => vm.volumes.length).sort()).toEqual([2, 2, 3]);
      for (const vm of inScope) {
        for (const { covered, reason, disk, keys } of vm.volumes) {
          if (covered) {
            expect(keys).toEqual([{ generation: 1, state: OPENS_DISKS ? 'active' : 'issued' }]);
            expect(disk).toMatch(/^[0-9a-f-]{36}$/);
          } else expect({ reason, disk, keys }).toEqual({ reason: 'ROOT_VOLUME', disk: null, keys: [] });
        }
        expect(vm.volumes.filter((volume) => !volume.covered)).toHaveLength(1);
        expect(vm.isolation).toMatchObject({ profile: 'workload', applied: true });
        expect(vm.posture.verdict).toBe('compliant');
        expect(Object.keys(vm.posture.facts).length).toBeGreaterThan(10);
      }
      // The groups that each came with: two on the first interface, one on the second.
      const groups = inScope.map((vm) => vm.isolation.interfaces.map((eni) => eni.groups.length).sort());
      expect(groups.map(String).sort()).toEqual(['1,2', '2', '2']);

      const [leftAlone, ...others] = vms.filter((vm) => !vm.inScope);
      expect(others).toEqual([]);
      expect(leftAlone).toMatchObject({
        isolation: { profile: null, applied: false, interfaces: [{ groups: { length: 2 } }] },
        posture: { verdict: 'not-managed' },
      });
      expect(leftAlone?.volumes.flatMap((volume) => volume.keys)).toEqual([]);

      // One VM was broken into: contained on its interface, and given back exactly what it had.
      expect(breakIn.events.map((event) => event.what)).toEqual([
        'broken',
        'contained',
        'repaired',
        'restored',
      ]);
      const [broken, contained, , restored] = breakIn.events;
      expect(contained?.reasons).toEqual(['FACT_CONTRADICTED']);
      expect(contained?.interfaces[0]?.groups).toHaveLength(1);
      expect(broken?.interfaces[0]?.groups).not.toEqual(contained?.interfaces[0]?.groups);
      expect(restored?.interfaces).toEqual(broken?.interfaces);

      expect(Object.keys(timings)).toEqual(expect.arrayContaining(['deploy', 'launch', 'converge', 'total']));
      expect(readdirSync(folder)).toEqual([]);
      expect(existsSync(join(PROJECT, '.local', 'environment.json'))).toBe(false);
    },
    420_000,
  );

  test('explains itself, and names what it does not understand', async () => {
    expect(await run('--help')).toMatchObject({ code: 0, stdout: expect.stringContaining('--once') });
    expect(await run('--twice')).toMatchObject({
      code: 2,
      stdout: '',
      stderr: "error: unknown option '--twice'\n",
    });
    expect(await run('--timeout', 'soon')).toMatchObject({
      code: 2,
      stderr: 'npm start: --timeout takes a number of seconds\n',
    });
  });
});
