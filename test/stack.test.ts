import { describe, expect, test } from '@jest/globals';
import { Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import * as s3 from 'aws-cdk-lib/aws-s3';
import { AwsSolutionsChecks } from 'cdk-nag';
import { CasemateStack } from '../lib/casemate-stack.ts';
import type { CasemateProps } from '../lib/index.ts';
import { OperationsStack } from '../lib/operations-stack.ts';
import { ENV, testApp } from './constructs/synthesized.ts';

function bothStacks(props: CasemateProps = {}, env: { account?: string; region: string } = ENV) {
  const app = testApp();
  const main = new CasemateStack(app, 'Casemate', { env, casemate: props });
  const operations = new OperationsStack(app, 'CasemateOperations', { env, casemate: main.casemate });
  return { app, main, operations };
}

/** Each finding of cdk-nag's AwsSolutions, and where. */
function findings(app: ReturnType<typeof testApp>): string[] {
  const report = new AwsSolutionsChecks(app).validateScope(app);
  return report.violations.flatMap((violation) =>
    violation.violatingResources.map((c) => `${violation.ruleName} at ${c.constructPath}`),
  );
}

describe('cdk-nag', () => {
  test.each<[string, CasemateProps, { account?: string; region: string }]>([
    ['as deployed without a word', {}, ENV],
    [
      'with everything set',
      {
        mode: 'enforce',
        probationEgress: { kind: 'https-anywhere' },
        apiVpcEndpointIds: ['vpce-0123456789abcdef0'],
        agentRoleNames: ['web'],
      },
      ENV,
    ],
    ['in an account that is not known yet', {}, { region: 'cn-north-1' }],
  ])('finds nothing %s', (_, props, env) => {
    expect(findings(bothStacks(props, env).app)).toEqual([]);
  });

  test('would find something', () => {
    const app = testApp();
    new s3.Bucket(new Stack(app, 'Careless'), 'Bucket');
    expect(findings(app)).toContainEqual(expect.stringMatching(/AwsSolutions-S1.* at Careless\/Bucket/));
  });
});

describe('the stack', () => {
  const { main, operations } = bothStacks();

  test('says what a user has to know of it', () => {
    expect(Object.keys(Template.fromStack(main).toJSON().Outputs)).toEqual(
      expect.arrayContaining([
        'Containment',
        'TableName',
        'DiskKeyArn',
        'StateKeyArn',
        'BusName',
        'ApiId',
        'ApiOrigin',
        'ApiUrl',
        'AgentPolicyArn',
        'AgentInstanceProfileName',
        'RejectedQueueUrl',
        'ObserveQueueUrl',
      ]),
    );
  });

  test('deletes nothing that holds a key', () => {
    const kept = Object.values(
      Template.fromStack(main).toJSON().Resources as Record<
        string,
        { Type: string; DeletionPolicy?: string }
      >,
    )
      .filter(({ DeletionPolicy }) => DeletionPolicy === 'Retain')
      .map(({ Type }) => Type);
    expect(kept).toEqual(
      expect.arrayContaining(['AWS::KMS::Key', 'AWS::KMS::Key', 'AWS::DynamoDB::GlobalTable']),
    );
  });

  test('keeps the names of what holds keys: under another one it would be made anew, and empty', () => {
    const holding = Object.entries(
      Template.fromStack(main).toJSON().Resources as Record<string, { Type: string }>,
    ).filter(([, { Type }]) =>
      ['AWS::KMS::Key', 'AWS::DynamoDB::GlobalTable', 'AWS::S3::Bucket'].includes(Type),
    );
    expect(holding.map(([id]) => id).sort()).toEqual([
      'CasemateHeadersBucketB2E6E1E6',
      'CasemateKeysDisksCEEA359F',
      'CasemateKeysRecovery75838691',
      'CasemateKeysStateA23779CA',
      'CasemateStateTableF7F99ACD',
    ]);
  });

  test('leaves to the operations stack what the embedded cloud refuses', () => {
    expect(Template.fromStack(main).findResources('AWS::Events::Archive')).toEqual({});
    const archive = Object.values(Template.fromStack(operations).findResources('AWS::Events::Archive'));
    expect(archive.map((a) => a['Properties'])).toMatchObject([
      { EventPattern: { source: ['casemate', 'casemate.agent'] }, RetentionDays: 90 },
    ]);
  });
});
