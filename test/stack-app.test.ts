import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';

const outdir = mkdtempSync(join(tmpdir(), 'casemate-app-'));
afterAll(() => rmSync(outdir, { recursive: true }));

/** Runs the app as `cdk synth` does, without bundling. */
function synth(context: Record<string, unknown>, account: string) {
  const root = new URL('../', import.meta.url);
  const flags = JSON.parse(readFileSync(new URL('cdk.json', root), 'utf8')).context;
  return spawnSync(process.execPath, [fileURLToPath(new URL('bin/casemate.ts', root))], {
    encoding: 'utf8',
    env: {
      ...process.env,
      CDK_OUTDIR: outdir,
      CDK_CONTEXT_JSON: JSON.stringify({ ...flags, 'aws:cdk:bundling-stacks': [], ...context }),
      CDK_DEFAULT_ACCOUNT: account,
      CDK_DEFAULT_REGION: 'eu-west-1',
    },
  });
}

describe('the CDK app', () => {
  test('makes both stacks, protected from deletion', () => {
    const { status, stderr } = synth({}, '111122223333');
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/error/i)]);
    const { artifacts } = JSON.parse(readFileSync(join(outdir, 'manifest.json'), 'utf8'));
    expect(artifacts.Casemate.properties.terminationProtection).toBe(true);
    expect(artifacts.CasemateOperations.dependencies).toContain('Casemate');
  });

  test('stops at a misspelt setting and says which ones there are', () => {
    const { status, stderr } = synth({ mdoe: 'enforce' }, '111122223333');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^wrong context:\n {2}mdoe: no such setting; there are mode, /);
  });

  test('stops at settings that cannot be deployed and says what to do', () => {
    const { status, stderr } = synth({ mode: 'enforce', callerIdentity: 'embedded' }, '111122223333');
    expect(status).toBe(1);
    expect(stderr.split('\n').filter((line) => line.startsWith('  '))).toEqual([
      expect.stringMatching(/^ {2}probationEgress is missing/),
      expect.stringMatching(/^ {2}callerIdentity "embedded" believes/),
    ]);
  });
});
