import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Stack } from 'aws-cdk-lib';
import { POLICY_FOLDER, PROFILES_FILE, validatePolicies } from '../../lib/constructs/policies.ts';
import { Casemate } from '../../lib/index.ts';
import { ENV, testApp } from './synthesized.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-policies-'));
  cpSync(POLICY_FOLDER, folder, { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

const policy = (condition: string) =>
  `@id("mine") @reason("MINE") permit (principal, action == Casemate::Action::"Manage", resource) when { ${condition} };`;

describe('policies at synth', () => {
  test('are those of the project, and are accepted', () => {
    expect(() => validatePolicies()).not.toThrow();
    writeFileSync(join(folder, 'mine.cedar'), policy('principal.state == "running"'));
    expect(() => validatePolicies(folder)).not.toThrow();
  });

  test('are refused as shadow policies like any others', () => {
    writeFileSync(join(folder, 'mine.cedar'), policy('principal.colour == "red"'));
    const synth = () =>
      new Casemate(new Stack(testApp(), 'Test', { env: ENV }), 'Casemate', { shadowPoliciesFolder: folder });
    expect(synth).toThrow(/mine: .*colour/);
  });

  test('are not the only file of one’s own that is refused: profiles are, too', () => {
    const file = join(folder, 'profiles.json');
    const shipped = JSON.parse(readFileSync(PROFILES_FILE, 'utf8')) as object;
    const use = [{ stage: 'workload', profile: 'nobody-knows', tenant: 'acme' }];
    writeFileSync(file, JSON.stringify({ ...shipped, use }));
    const synth = () =>
      new Casemate(new Stack(testApp(), 'Test', { env: ENV }), 'Casemate', { profilesFile: file });
    expect(synth).toThrow(/there is no profile "nobody-knows"/);
  });

  test('are refused in a folder of one’s own like any others, what is demanded of evidence too', () => {
    const synth = () =>
      new Casemate(new Stack(testApp(), 'Test', { env: ENV }), 'Casemate', { policiesFolder: folder });
    expect(synth).not.toThrow();
    writeFileSync(join(folder, 'evidence.json'), '{"tpm": {"pcr": [0]}}');
    expect(synth).toThrow(/tpm: .*pcr/);
    writeFileSync(join(folder, 'evidence.json'), '{}');
    writeFileSync(join(folder, 'mine.cedar'), policy('principal.colour == "red"'));
    expect(synth).toThrow(/mine: .*colour/);
  });

  test.each([
    ['does not parse', 'principal.state ==', /mine\.cedar/],
    ['reads what the schema does not know', 'principal.colour == "red"', /mine: .*colour/],
  ])('refuse one that %s', (_, condition, message) => {
    writeFileSync(join(folder, 'mine.cedar'), policy(condition));
    expect(() => validatePolicies(folder)).toThrow(message);
  });
});
