import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { CloudFormationClient, paginateListStackResources } from '@aws-sdk/client-cloudformation';
import { DynamoDBClient, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb';
import { SetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs';
import { ACCOUNT, awsEnvironment, CREDENTIALS, type Emulators, REGION } from './emulators.ts';
import { runToEnd } from './process.ts';

export const STACK = 'Casemate';

/** Outputs of the deployed stack, by name. */
export type Outputs = Record<string, string>;

/** The CDK's own program, by path: `npx` looks from the working directory. */
const CDK = [process.execPath, createRequire(import.meta.url).resolve('aws-cdk/bin/cdk')] as const;

export async function bootstrap(emulators: Emulators, folder: string, signal: AbortSignal): Promise<void> {
  await runToEnd([...CDK, 'bootstrap', `aws://${ACCOUNT}/${REGION}`], {
    log: join(folder, 'cdk.log'),
    env: cdkEnvironment(emulators),
    cwd: folder, // outside of the project, so that its app is not synthesized for this
    signal,
  });
}

/** `cdk deploy` of the very stack that goes to AWS, in enforce mode, with this cloud's own identity issuer. */
export async function deploy(
  emulators: Emulators,
  folder: string,
  identityIssuer: string,
  signal: AbortSignal,
): Promise<Outputs> {
  const outputsFile = join(folder, 'outputs.json');
  const assembly = join(folder, 'cdk.out');
  const context = {
    mode: 'enforce',
    callerIdentity: 'embedded',
    apiOrigin: emulators.aws,
    identityIssuers: JSON.stringify(identityIssuer), // in one line: the CDK cuts a value at its first line end
    probationEgress: 'https-anywhere',
    observeBatchWindowSeconds: '1',
    terminationProtection: 'false',
  };
  await runToEnd(
    [
      ...CDK,
      'deploy',
      STACK,
      '--require-approval=never',
      '--outputs-file',
      outputsFile,
      '--output',
      assembly,
      ...Object.entries(context).flatMap(([name, value]) => ['--context', `${name}=${value}`]),
    ],
    { log: join(folder, 'cdk.log'), env: cdkEnvironment(emulators), signal },
  );
  await applyWhatTheEmulatorDrops(emulators, join(assembly, `${STACK}.template.json`));
  const outputs = JSON.parse(readFileSync(outputsFile, 'utf8')) as Record<string, Outputs>;
  return outputs[STACK] ?? {};
}

function cdkEnvironment(emulators: Emulators): Record<string, string> {
  return {
    ...awsEnvironment(emulators),
    CDK_DEFAULT_ACCOUNT: ACCOUNT,
    CDK_DEFAULT_REGION: REGION,
    CDK_DISABLE_CLI_TELEMETRY: 'true',
    CI: 'true',
  };
}

interface Template {
  readonly Resources: Record<
    string,
    { readonly Type: string; readonly Properties?: Record<string, unknown> }
  >;
}

/**
 * CloudFormation here makes queues without their redrive policy and tables without their TTL
 * (docs/embedded-cloud.md): both are read from the template and set through the services' own calls.
 */
async function applyWhatTheEmulatorDrops(emulators: Emulators, templateFile: string): Promise<void> {
  const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
  const { Resources } = JSON.parse(readFileSync(templateFile, 'utf8')) as Template;
  const physical = new Map<string, string>();
  const client = new CloudFormationClient(options);
  for await (const page of paginateListStackResources({ client }, { StackName: STACK })) {
    for (const r of page.StackResourceSummaries ?? []) {
      physical.set(r.LogicalResourceId ?? '', r.PhysicalResourceId ?? '');
    }
  }
  const sqs = new SQSClient(options);
  const dynamodb = new DynamoDBClient(options);
  for (const [logicalId, { Type, Properties = {} }] of Object.entries(Resources)) {
    const redrive = Properties['RedrivePolicy'] as
      | { deadLetterTargetArn: { 'Fn::GetAtt': [string, string] }; maxReceiveCount: number }
      | undefined;
    if (Type === 'AWS::SQS::Queue' && redrive) {
      const dlqUrl = physical.get(redrive.deadLetterTargetArn['Fn::GetAtt'][0]) ?? '';
      const deadLetterTargetArn = `arn:aws:sqs:${REGION}:${ACCOUNT}:${dlqUrl.split('/').at(-1)}`;
      await sqs.send(
        new SetQueueAttributesCommand({
          QueueUrl: physical.get(logicalId),
          Attributes: {
            RedrivePolicy: JSON.stringify({ deadLetterTargetArn, maxReceiveCount: redrive.maxReceiveCount }),
          },
        }),
      );
    }
    if (Type === 'AWS::DynamoDB::GlobalTable') {
      await dynamodb.send(
        new UpdateTimeToLiveCommand({
          TableName: physical.get(logicalId),
          TimeToLiveSpecification: Properties['TimeToLiveSpecification'] as {
            AttributeName: string;
            Enabled: boolean;
          },
        }),
      );
    }
  }
}
