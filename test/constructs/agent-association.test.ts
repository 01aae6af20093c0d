import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { CfnParameter, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { AgentAssociation, type AgentAssociationProps } from '../../lib/index.ts';
import { ENV, testApp } from './synthesized.ts';

const SUMS = `${'ab'.repeat(32)}  casemate-agent_0.1.0_amd64.deb\n${'cd'.repeat(32)}  casemate-agent-0.1.0-1.x86_64.rpm\n`;

function associate(changes: Partial<AgentAssociationProps> = {}) {
  const stack = new Stack(testApp(), 'Rollout', { env: ENV });
  // Known at the deployment alone, as another stack's output is.
  const apiUrl = new CfnParameter(stack, 'ApiUrl').valueAsString;
  const props = { from: 's3://my-bucket/casemate', sums: SUMS, apiUrl, busName: 'casemate', ...changes };
  new AgentAssociation(stack, 'Agents', props);
  return stack;
}
const only = (stack: Stack, type: string) =>
  Object.values(Template.fromStack(stack).findResources(type))[0]?.['Properties'];

/** The script as SSM makes it: parameters are put in as text. */
function script(document: Record<string, never>, values: Record<string, string>): string {
  const { mainSteps } = document as unknown as { mainSteps: { inputs: { runCommand: string[] } }[] };
  const text = mainSteps[0]?.inputs.runCommand.join('\n') ?? '';
  return text.replaceAll(/\{\{ (\w+) \}\}/g, (_, name: string) => values[name] ?? 'missing');
}

describe('the association of the agent', () => {
  const stack = associate();
  const { Content: content, ...document } = only(stack, 'AWS::SSM::Document') ?? {};
  const association = only(stack, 'AWS::SSM::Association');

  test('runs the script that user data runs, on Linux alone', () => {
    expect(document).toMatchObject({ DocumentType: 'Command', UpdateMethod: 'NewVersion' });
    const [step, ...more] = content.mainSteps;
    expect(more).toEqual([]);
    expect(step).toMatchObject({
      action: 'aws:runShellScript',
      precondition: { StringEquals: ['platformType', 'Linux'] },
    });
    const packaged = readFileSync(new URL('../../packaging/install-agent.sh', import.meta.url), 'utf8');
    expect(`${step.inputs.runCommand.slice(3).join('\n')}\n`).toBe(packaged);
  });

  test('hands it the parameters, which cannot get out of their quotes', () => {
    const values = { From: 's3://my-bucket/casemate', Sums: SUMS.trim(), Config: '{"a":"b $(id) `id`"}' };
    const exports = script(content, values).split('set -eu')[0];
    const { status, stdout } = spawnSync('sh', ['-c', `${exports}\nenv`], { encoding: 'utf8', env: {} });
    expect(status).toBe(0);
    for (const [name, value] of Object.entries({
      FROM: values.From,
      SUMS: values.Sums,
      CONFIG: values.Config,
    })) {
      expect(stdout).toContain(`CASEMATE_${name}=${value}\n`);
    }
    for (const [name, value] of Object.entries(values)) {
      const pattern = new RegExp(content.parameters[name].allowedPattern);
      expect([name, pattern.test(value), pattern.test(`${value}'; id '`)]).toEqual([name, true, false]);
    }
  });

  test('is with the VMs that are in scope, a tenth at a time, and stops at failures', () => {
    expect(association).toMatchObject({
      Targets: [{ Key: 'tag:casemate:protect', Values: ['true'] }],
      MaxConcurrency: '10%',
      MaxErrors: '5%',
    });
    expect(only(associate({ tag: { key: 'team', value: 'db' } }), 'AWS::SSM::Association')).toMatchObject({
      Targets: [{ Key: 'tag:team', Values: ['db'] }],
    });
  });

  test('says what may be installed and where reports go', () => {
    const { From, Sums, Config } = association?.['Parameters'] ?? {};
    expect([From, Sums]).toEqual([['s3://my-bucket/casemate'], [SUMS.trim()]]);
    const [before, url, after] = Config[0]['Fn::Join'][1];
    expect(url).toEqual({ Ref: 'ApiUrl' });
    expect(JSON.parse(`${before}https://api.example${after}`)).toEqual({
      region: 'eu-west-1',
      apiUrl: 'https://api.example',
      busName: 'casemate',
    });
  });

  test.each<[string, Partial<AgentAssociationProps>, string]>([
    ['packages in clear', { from: 'http://example.com/casemate' }, 'from must be'],
    ['a slash too many', { from: 's3://my-bucket/' }, 'from must be'],
    ['a way out of the quotes', { from: "s3://my-bucket/'; id '" }, 'from must be'],
    ['no sums', { sums: '' }, 'SHA256SUMS'],
    ['a sum of something else', { sums: `${SUMS}${'ef'.repeat(32)}  other.deb\n` }, 'SHA256SUMS'],
  ])('is an error at synth with %s', (_, changes, says) => {
    expect(() => Template.fromStack(associate(changes))).toThrow(says);
  });
});

test('the user data in the documentation is a script that a shell reads', () => {
  const page = readFileSync(new URL('../../docs/agent.md', import.meta.url), 'utf8');
  const [, userData = ''] = /```\n(#!\/bin\/bash\n[^`]+)```/.exec(page) ?? [];
  expect(userData).toContain('install-agent.sh');
  for (const shell of ['bash', 'sh']) {
    const { status, stderr } = spawnSync(shell, ['-n'], { input: userData, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
  }
});
