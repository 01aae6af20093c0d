import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as nodejs from 'aws-cdk-lib/aws-lambda-nodejs';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';
import { CEDAR_WASM } from './policies.ts';

/** Of the package: where package-lock.json, lambdas/ and policies/ are. */
const PACKAGE_ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Metrics of all functions stand in this CloudWatch namespace, with the function's name as `service`. */
export const METRICS_NAMESPACE = 'Casemate';

/** What all functions of a deployment share. */
interface FunctionDefaults {
  readonly architecture: lambda.Architecture;
  readonly logRetention: logs.RetentionDays;
  readonly logLevel: string;
}

export interface PipelineFunctionProps extends FunctionDefaults {
  /** Folder under lambdas/. */
  readonly name: string;
  readonly description: string;
  readonly timeout: Duration;
  readonly memorySize: number;
  readonly environment: Record<string, string>;
  /** The function asks Cedar: its wasm and the policies go beside the bundle. */
  readonly decidesByPolicy: boolean;
  /** The folder that they are in. */
  readonly policiesFolder: string;
  /** A folder of policies that the function asks beside, and that decide nothing. */
  readonly shadowPoliciesFolder?: string;
  /** The function reads isolation profiles: this file goes beside the bundle. */
  readonly profilesFile?: string;
}

/**
 * One function with a role of its own, which can write its own log and traces and nothing else until a
 * grant says so.
 */
export class PipelineFunction extends Construct {
  readonly name: string;
  readonly role: iam.Role;
  readonly fn: lambda.Function;

  constructor(scope: Construct, id: string, props: PipelineFunctionProps) {
    super(scope, id);
    this.name = props.name;
    const logGroup = new logs.LogGroup(this, 'Logs', {
      retention: props.logRetention,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    this.role = new iam.Role(this, 'Role', {
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
      description: `Casemate: ${props.name}`,
    });
    this.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'WriteItsLog',
        actions: ['logs:CreateLogStream', 'logs:PutLogEvents'],
        resources: [logGroup.logGroupArn],
      }),
    );
    Validations.of(this.role).acknowledge({
      id: 'AwsSolutions-IAM5[Resource::*]',
      reason: 'xray:PutTraceSegments and xray:PutTelemetryRecords have no resource to limit them to.',
    });
    this.fn = new nodejs.NodejsFunction(this, 'Function', {
      description: `Casemate: ${props.description}`,
      runtime: lambda.Runtime.NODEJS_24_X,
      architecture: props.architecture,
      entry: join(PACKAGE_ROOT, 'lambdas', props.name, 'index.ts'),
      handler: 'handler',
      projectRoot: PACKAGE_ROOT,
      depsLockFilePath: join(PACKAGE_ROOT, 'package-lock.json'),
      role: this.role,
      logGroup,
      timeout: props.timeout,
      memorySize: props.memorySize,
      tracing: lambda.Tracing.ACTIVE,
      environment: {
        POWERTOOLS_SERVICE_NAME: props.name,
        POWERTOOLS_METRICS_NAMESPACE: METRICS_NAMESPACE,
        POWERTOOLS_LOG_LEVEL: props.logLevel,
        ...props.environment,
      },
      bundling: {
        format: nodejs.OutputFormat.ESM,
        target: 'node24',
        minify: true,
        sourceMap: false,
        logLevel: nodejs.LogLevel.WARNING,
        mainFields: ['module', 'main'],
        // The SDK that was tested is the SDK that runs; the runtime's own changes under us.
        bundleAwsSDK: true,
        ...(props.decidesByPolicy
          ? {
              commandHooks: besideTheBundle((output) =>
                policies(output, props.policiesFolder, props.shadowPoliciesFolder),
              ),
            }
          : {}),
        ...(props.profilesFile === undefined
          ? {}
          : {
              commandHooks: besideTheBundle((output) => [
                `cp "${props.profilesFile}" "${output}/profiles.json"`,
              ]),
            }),
      },
    });
  }
}

const COMPILE = join(PACKAGE_ROOT, 'lib/policy/compile.ts');

/**
 * Cedar's wasm and the policies are read from beside the bundle: esbuild would have to inline 4 MB of wasm
 * as text otherwise, and the policies would be compiled into code that an operator cannot look at. What the
 * functions read of Cedar's policies is policies.json: checked and compiled here, not at each start.
 */
const policies = (output: string, folder: string, shadow: string | undefined) => [
  `cp "${CEDAR_WASM}" "${output}"`,
  `mkdir -p "${output}/policies"`,
  `cp -r "${folder}"/. "${output}/policies"`,
  compiled(folder, `${output}/policies.json`),
  ...(shadow === undefined ? [] : [compiled(shadow, `${output}/policies-shadow.json`)]),
];

function compiled(folder: string, out: string): string {
  return `"${process.execPath}" --no-warnings "${COMPILE}" "${CEDAR_WASM}" "${folder}" "${out}"`;
}

function besideTheBundle(commands: (output: string) => string[]): nodejs.ICommandHooks {
  return {
    beforeInstall: () => [],
    beforeBundling: () => [],
    afterBundling: (_input, output) => commands(output),
  };
}
