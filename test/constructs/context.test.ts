import { describe, expect, test } from '@jest/globals';
import { App } from 'aws-cdk-lib';
import { ContextError, readContext } from '../../lib/constructs/context.ts';

const read = (context: Record<string, unknown>) => readContext(new App({ context }).node);

/** The message, line by line, without its headline. */
function faults(context: Record<string, unknown>): string[] {
  try {
    read(context);
  } catch (error) {
    if (error instanceof ContextError) return error.message.split('\n  ').slice(1);
    throw error;
  }
  return [];
}

describe('the context of the app', () => {
  test('is nothing but defaults when nothing is said', () => {
    const { settings, terminationProtection } = read({});
    expect(settings).toEqual({});
    expect(terminationProtection).toBe(true);
  });

  test('is taken as text from the command line, and as JSON from cdk.json', () => {
    const egress = { kind: 'endpoints', securityGroupIds: ['sg-0123456789abcdef0'] };
    const said = {
      mode: 'enforce',
      observeBatchWindowSeconds: 10,
      observeMaxConcurrency: 3,
      reportMaxAgeSeconds: 600,
      apiGatewayCloudWatchRole: false,
      terminationProtection: false,
      probationEgress: egress,
      agentRoleNames: ['web', 'db'],
    };
    const typed = {
      ...said,
      observeBatchWindowSeconds: '10',
      observeMaxConcurrency: '3',
      reportMaxAgeSeconds: '600',
      apiGatewayCloudWatchRole: 'false',
      terminationProtection: 'false',
      probationEgress: JSON.stringify(egress),
      agentRoleNames: 'web,db',
    };
    expect(read(typed)).toEqual(read(said));
    const { settings, apiGatewayCloudWatchRole, terminationProtection } = read(typed);
    expect(settings).toMatchObject({
      mode: 'enforce',
      observeMaxConcurrency: 3,
      probationEgress: { ...egress, prefixListIds: [] },
      agentRoleNames: ['web', 'db'],
    });
    expect(settings.observeBatchWindow?.toSeconds()).toBe(10);
    expect(settings.reportMaxAge?.toSeconds()).toBe(600);
    expect([apiGatewayCloudWatchRole, terminationProtection]).toEqual([false, false]);
  });

  test('can say https-anywhere in one word', () => {
    expect(read({ probationEgress: 'https-anywhere' }).settings.probationEgress).toEqual({
      kind: 'https-anywhere',
    });
  });

  test('refuses a name that nobody knows, since a misspelt mode would leave the fence open', () => {
    expect(faults({ mdoe: 'enforce' })).toEqual([
      expect.stringMatching(/^mdoe: no such setting; there are mode, callerIdentity, /),
    ]);
  });

  test("leaves the CDK's own names alone", () => {
    expect(faults({ '@aws-cdk/aws-iam:minimizePolicies': true, 'aws:cdk:bundling-stacks': [] })).toEqual([]);
  });

  test('names every bad value at once', () => {
    const found = faults({
      mode: 'on',
      observeBatchWindowSeconds: 'five',
      probationEgress: 'everything',
      agentRoleNames: '',
      alarmTopicArn: 'ops',
      architecture: 'arm',
      terminationProtection: 'maybe',
    });
    for (const name of [
      'mode',
      'observeBatchWindowSeconds',
      'probationEgress',
      'agentRoleNames.0',
      'alarmTopicArn',
      'architecture',
      'terminationProtection',
    ]) {
      expect(found).toContainEqual(expect.stringMatching(new RegExp(`^${name}: \\S`)));
    }
    expect(found).toHaveLength(7);
  });
});
