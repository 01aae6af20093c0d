import { Duration } from 'aws-cdk-lib';
import type { Node } from 'constructs';
import * as z from 'zod';
import type { CasemateSettings } from './casemate-settings.ts';

/** A context value of the CDK app is wrong. The message names every one, with what it must be. */
export class ContextError extends Error {
  override readonly name = 'ContextError';
}

/** `-c name=value` gives text, cdk.json gives anything: both are taken. */
const fromText = (text: unknown): unknown => {
  if (typeof text !== 'string') return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};
const number = z.preprocess(fromText, z.number());
const boolean = z.preprocess(fromText, z.boolean());
const list = z.preprocess(
  (value) => (typeof value === 'string' && !value.startsWith('[') ? value.split(',') : fromText(value)),
  z.array(z.string().min(1)).min(1),
);
const probationEgress = z.preprocess(
  (value) => (value === 'https-anywhere' ? { kind: value } : fromText(value)),
  z.discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('endpoints'),
      securityGroupIds: z.array(z.string()).default([]),
      prefixListIds: z.array(z.string()).default([]),
    }),
    z.strictObject({ kind: z.literal('https-anywhere') }),
  ]),
);

const schema = z.strictObject({
  mode: z.enum(['observe', 'enforce']).optional(),
  callerIdentity: z.enum(['iam', 'embedded']).optional(),
  apiOrigin: z.string().optional(),
  identityIssuers: z.preprocess(fromText, z.string()).optional(),
  probationEgress: probationEgress.optional(),
  observeBatchWindowSeconds: number.optional(),
  observeMaxConcurrency: number.optional(),
  reportMaxAgeSeconds: number.optional(),
  agentRoleNames: list.optional(),
  apiVpcEndpointIds: list.optional(),
  amdKeyServer: z.string().optional(),
  policiesFolder: z.string().min(1).optional(),
  shadowPoliciesFolder: z.string().min(1).optional(),
  profilesFile: z.string().min(1).optional(),
  guardShare: number.optional(),
  guardMinimum: number.optional(),
  guardWindowSeconds: number.optional(),
  protectedInstanceIds: list.optional(),
  protectedAutoScalingGroups: list.optional(),
  enforceShare: number.optional(),
  cutTrackedFlows: boolean.optional(),
  detachElasticIps: boolean.optional(),
  denyCredentialsOfRoles: list.optional(),
  standby: boolean.optional(),
  replacementsPerHour: number.optional(),
  alarmTopicArn: z
    .string()
    .regex(/^arn:[^:]+:sns:[^:]+:\d{12}:[^:]+$/, { error: 'must be the ARN of an SNS topic' })
    .optional(),
  architecture: z.enum(['arm64', 'x86_64']).optional(),
  logLevel: z.enum(['DEBUG', 'INFO', 'WARN', 'ERROR']).optional(),
  apiGatewayCloudWatchRole: boolean.optional(),
  terminationProtection: boolean.optional(),
});

export interface Context {
  readonly settings: CasemateSettings;
  readonly alarmTopicArn: string | undefined;
  readonly architecture: 'arm64' | 'x86_64' | undefined;
  readonly logLevel: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR' | undefined;
  readonly apiGatewayCloudWatchRole: boolean | undefined;
  readonly terminationProtection: boolean;
}

/**
 * Reads the settings out of the app's context. A name that nobody knows is refused, since a misspelt
 * `mode` would leave the fence open; the CDK's own names hold a colon or a slash and are left alone.
 *
 * @throws ContextError
 */
export function readContext(node: Node): Context {
  const own = Object.entries(node.getAllContext() as Record<string, unknown>).filter(
    ([name]) => !/[:/]/.test(name),
  );
  const parsed = schema.safeParse(Object.fromEntries(own));
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) =>
      issue.code === 'unrecognized_keys'
        ? `${issue.keys.join(', ')}: no such setting; there are ${Object.keys(schema.shape).join(', ')}`
        : `${issue.path.join('.')}: ${issue.message}`,
    );
    throw new ContextError(`wrong context:\n  ${faults.join('\n  ')}`);
  }
  const {
    observeBatchWindowSeconds,
    reportMaxAgeSeconds,
    guardWindowSeconds,
    alarmTopicArn,
    architecture,
    logLevel,
    apiGatewayCloudWatchRole,
    terminationProtection,
    ...settings
  } = parsed.data;
  return {
    settings: withoutUndefined({
      ...settings,
      observeBatchWindow: seconds(observeBatchWindowSeconds),
      reportMaxAge: seconds(reportMaxAgeSeconds),
      guardWindow: seconds(guardWindowSeconds),
    }),
    alarmTopicArn,
    architecture,
    logLevel,
    apiGatewayCloudWatchRole,
    terminationProtection: terminationProtection ?? true,
  };
}

function seconds(value: number | undefined): Duration | undefined {
  return value === undefined ? undefined : Duration.millis(value * 1000);
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
