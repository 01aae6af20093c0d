import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { CloudFormationClient, paginateListStackResources } from '@aws-sdk/client-cloudformation';
import { DynamoDBClient, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb';
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

/**
 * `cdk deploy` of the very stack that goes to AWS, in enforce mode, with this cloud's own identity issuer.
 *
 * @param settings of the deployment beside these, as docs/deploy.md names them
 */
export async function deploy(
  emulators: Emulators,
  folder: string,
  identityIssuer: string,
  signal: AbortSignal,
  settings: Readonly<Record<string, string>> = {},
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
    ...settings,
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

/** What of a synthesized template is read here. */
export interface Template {
  readonly Resources: Readonly<
    Record<string, { readonly Type: string; readonly Properties?: Readonly<Record<string, unknown>> }>
  >;
}

interface TimeToLive {
  readonly AttributeName: string;
  readonly Enabled: boolean;
}

/** The TTL of each table of a template, by logical id. */
export function timesToLive(template: Template): ReadonlyMap<string, TimeToLive> {
  return new Map(
    Object.entries(template.Resources).flatMap(([logicalId, { Type, Properties }]) => {
      const ttl = Properties?.['TimeToLiveSpecification'] as TimeToLive | undefined;
      return Type === 'AWS::DynamoDB::GlobalTable' && ttl ? [[logicalId, ttl] as const] : [];
    }),
  );
}

/**
 * CloudFormation here makes tables without their TTL (docs/embedded-cloud.md): it is read from the template and
 * set by DynamoDB's own call.
 */
async function applyWhatTheEmulatorDrops(emulators: Emulators, templateFile: string): Promise<void> {
  const options = { endpoint: emulators.aws, region: REGION, credentials: CREDENTIALS };
  const template = JSON.parse(readFileSync(templateFile, 'utf8')) as Template;
  const ttls = timesToLive(template);
  const dynamodb = new DynamoDBClient(options);
  const client = new CloudFormationClient(options);
  for await (const page of paginateListStackResources({ client }, { StackName: STACK })) {
    for (const { LogicalResourceId, PhysicalResourceId } of page.StackResourceSummaries ?? []) {
      const TimeToLiveSpecification = ttls.get(LogicalResourceId ?? '');
      if (!TimeToLiveSpecification) continue;
      await dynamodb.send(
        new UpdateTimeToLiveCommand({ TableName: PhysicalResourceId, TimeToLiveSpecification }),
      );
    }
  }
}
