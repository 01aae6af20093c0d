import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

export const PROJECT = fileURLToPath(new URL('..', import.meta.url));
export const REGION = 'eu-west-1';

/** A function as `cdk deploy` would upload it. */
export interface DeployedFunction {
  /** Folder under lambdas/. */
  readonly name: string;
  /** Of the asset, with index.mjs in it. */
  readonly folder: string;
  readonly bundle: URL;
  readonly decidesByPolicy: boolean;
  /** Of its event source mapping; undefined when no queue drives it. */
  readonly batchSize: number | undefined;
  readonly maxConcurrency: number | undefined;
}

interface Template {
  readonly Resources: Record<string, { readonly Type: string; readonly Properties: Record<string, never> }>;
}

/** Synthesizes the app, which bundles every function, and reads out of its template what is deployed. */
export async function synthesize(): Promise<{
  readonly functions: readonly DeployedFunction[];
  /** Removes what was synthesized. */
  remove(): void;
}> {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-bench-'));
  const { context } = JSON.parse(readFileSync(join(PROJECT, 'cdk.json'), 'utf8')) as { context: object };
  await promisify(execFile)(process.execPath, ['bin/casemate.ts'], {
    cwd: PROJECT,
    maxBuffer: 2 ** 26,
    env: {
      ...process.env,
      CDK_OUTDIR: folder,
      CDK_CONTEXT_JSON: JSON.stringify({ ...context, mode: 'enforce', probationEgress: 'https-anywhere' }),
      CDK_DEFAULT_ACCOUNT: '123456789012',
      CDK_DEFAULT_REGION: REGION,
    },
  });
  const template = JSON.parse(readFileSync(join(folder, 'Casemate.template.json'), 'utf8')) as Template;
  return {
    functions: functionsOf(template, folder),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function functionsOf({ Resources }: Template, folder: string): readonly DeployedFunction[] {
  interface Mapping {
    readonly FunctionName: { readonly Ref: string };
    readonly BatchSize?: number;
    readonly ScalingConfig?: { readonly MaximumConcurrency?: number };
  }
  interface Code {
    readonly Code: { readonly S3Key: string };
    readonly Environment?: { readonly Variables: Record<string, string> };
  }
  const all = Object.entries(Resources);
  const mappings = all
    .filter(([, resource]) => resource.Type === 'AWS::Lambda::EventSourceMapping')
    .map(([, resource]) => resource.Properties as unknown as Mapping);
  return all.flatMap(([logicalId, { Type, Properties }]) => {
    if (Type !== 'AWS::Lambda::Function') return [];
    const { Code, Environment } = Properties as unknown as Code;
    const name = Environment?.Variables['POWERTOOLS_SERVICE_NAME'];
    if (!name) return []; // one of the CDK's own
    const asset = join(folder, `asset.${Code.S3Key.replace(/\.zip$/, '')}`);
    const mapping = mappings.find((m) => m.FunctionName.Ref === logicalId);
    return [
      {
        name,
        folder: asset,
        bundle: pathToFileURL(join(asset, 'index.mjs')),
        decidesByPolicy: readFileSync(join(asset, 'index.mjs'), 'utf8').includes('cedar_wasm_bg.wasm'),
        batchSize: mapping?.BatchSize,
        maxConcurrency: mapping?.ScalingConfig?.MaximumConcurrency,
      },
    ];
  });
}

/** Values for every variable that any function reads at its start: test/constructs/bundles.test.ts starts all by them. */
export const ENVIRONMENT: Readonly<Record<string, string>> = {
  AWS_REGION: REGION,
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  TABLE_NAME: 'casemate-state',
  BUS_NAME: 'casemate',
  REJECTED_QUEUE_URL: `https://sqs.${REGION}.amazonaws.com/123456789012/rejected`,
  OBSERVE_QUEUE_URL: `https://sqs.${REGION}.amazonaws.com/123456789012/observe`,
  DISK_KEY_ID: `arn:aws:kms:${REGION}:123456789012:key/11111111-2222-4333-8444-555555555555`,
  RECOVERY_KEY_ID: `arn:aws:kms:${REGION}:123456789012:key/22222222-2222-4333-8444-555555555555`,
  HEADER_BUCKET: 'casemate-headers',
  AMD_KEY_SERVER: 'https://kds.casemate.example',
  MODE: 'enforce',
  PROBATION_EGRESS: '{"kind":"https-anywhere"}',
  ENFORCE_SHARE: '1',
  GUARDS: JSON.stringify({
    share: 1,
    minimum: 1_000_000,
    windowSeconds: 3600,
    protected: { instanceIds: [], autoScalingGroups: [] },
  }),
  CUT_TRACKED_FLOWS: 'false',
  DETACH_ELASTIC_IPS: 'false',
  STANDBY: 'false',
  DENIES_CREDENTIALS: 'false',
  REPLACEMENTS_PER_HOUR: '1000000',
  OWN_QUEUE_URL: `https://sqs.${REGION}.amazonaws.com/123456789012/apply-isolation`,
  API_ORIGIN: 'https://api.casemate.example',
  CALLER_IDENTITY: 'iam',
  IDENTITY_ISSUERS: 'aws',
  REPORT_MAX_AGE_SECONDS: '900',
  POWERTOOLS_METRICS_NAMESPACE: 'Casemate',
  POWERTOOLS_SERVICE_NAME: 'bench',
  POWERTOOLS_LOG_LEVEL: 'INFO',
};
