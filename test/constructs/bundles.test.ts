import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';
import { App } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { ENVIRONMENT } from '../../bench/deployed.ts';
import { CasemateStack } from '../../lib/casemate-stack.ts';
import { POLICY_FOLDER } from '../../lib/constructs/policies.ts';
import { ENV, FUNCTION_NAMES, type FunctionName, Synthesized } from './synthesized.ts';

/** The bundles as `cdk deploy` uploads them. One synth with esbuild, for all tests of this file. */
const outdir = mkdtempSync(join(tmpdir(), 'casemate-bundles-'));
const folder = mkdtempSync(join(tmpdir(), 'casemate-policies-'));
cpSync(POLICY_FOLDER, folder, { recursive: true });
const EVIDENCE = '{"tpm": {"pcrs": [0, 7]}}';
writeFileSync(join(folder, 'evidence.json'), EVIDENCE);
writeFileSync(
  join(folder, 'mine.cedar'),
  '@id("mine") @reason("MINE") forbid (principal, action, resource) when { false };',
);
const app = new App({ outdir });
const stack = new CasemateStack(app, 'Casemate', {
  env: ENV,
  casemate: { policiesFolder: folder, shadowPoliciesFolder: POLICY_FOLDER },
});
const synthesized = new Synthesized(Template.fromStack(stack));

afterAll(() => {
  for (const each of [outdir, folder]) rmSync(each, { recursive: true });
});

function bundleOf(name: FunctionName): string {
  const key: string = synthesized.fn(name).Properties.Code.S3Key;
  return join(outdir, `asset.${key.replace(/\.zip$/, '')}`);
}

const DECIDING: readonly FunctionName[] = [
  'observe-vm',
  'issue-disk-keys',
  'ingest-report',
  'release-disk-key',
  'rotate-disk-key',
  'adopt-disk',
];

/** Read isolation profiles. */
const FENCING: readonly FunctionName[] = ['apply-isolation', 'sweep'];

describe('the bundle', () => {
  test.each(FUNCTION_NAMES)(
    'of %s loads alone, in a process that has nothing else, and has a handler',
    (name) => {
      const url = pathToFileURL(join(bundleOf(name), 'index.mjs')).href;
      const script = `import(${JSON.stringify(url)}).then((m) => process.stdout.write(typeof m.handler))`;
      const said = execFileSync(process.execPath, ['-e', script], {
        cwd: outdir,
        env: ENVIRONMENT,
        encoding: 'utf8',
      });
      expect(said).toBe('function');
    },
  );

  test.each(FUNCTION_NAMES)('of %s has the policies beside it if it decides by them', (name) => {
    const beside = readdirSync(bundleOf(name)).sort();
    if (!DECIDING.includes(name)) {
      expect(beside).toEqual(FENCING.includes(name) ? ['index.mjs', 'profiles.json'] : ['index.mjs']);
      return;
    }
    // Postures are decided by one function, and shadow policies are asked there alone.
    const shadow = name === 'ingest-report' ? ['policies-shadow.json'] : [];
    expect(beside).toEqual(['cedar_wasm_bg.wasm', 'index.mjs', 'policies', ...shadow, 'policies.json']);
    const policies = readdirSync(join(bundleOf(name), 'policies'));
    expect(policies).toEqual(readdirSync(folder));
    expect(readFileSync(join(bundleOf(name), 'policies', 'evidence.json'), 'utf8')).toBe(EVIDENCE);
    expect(readFileSync(join(bundleOf(name), 'policies.json'), 'utf8')).toContain('MINE');
    expect(existsSync(join(bundleOf(name), 'policies', 'schema.cedarschema'))).toBe(true);
  });
});
