import { readFileSync } from 'node:fs';
import { App } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { CasemateStack } from '../../lib/casemate-stack.ts';
import type { CasemateProps } from '../../lib/index.ts';

/** Where nothing else is said: no real account, a Region, the flags of cdk.json, and no bundles. */
export const ENV = { account: '111122223333', region: 'eu-west-1' };

export function testApp(context: Record<string, unknown> = {}): App {
  const { context: flags } = JSON.parse(readFileSync(new URL('../../cdk.json', import.meta.url), 'utf8')) as {
    context: Record<string, unknown>;
  };
  return new App({ context: { ...flags, 'aws:cdk:bundling-stacks': [], ...context } });
}

export interface Resource {
  readonly id: string;
  readonly Type: string;
  // biome-ignore lint/suspicious/noExplicitAny: a template is any JSON
  readonly Properties: any;
  readonly DeletionPolicy?: string;
  readonly UpdateReplacePolicy?: string;
  readonly DependsOn?: string[];
}

export interface Statement {
  readonly Sid?: string;
  readonly Effect: 'Allow' | 'Deny';
  readonly actions: readonly string[];
  /** As JSON text, with references named by logical id. */
  readonly resources: readonly string[];
  readonly principals: readonly string[];
  readonly Condition: Record<string, Record<string, unknown>>;
}

/** A synthesized stack, with what the assertions about security ask of it. */
export class Synthesized {
  readonly template: Template;
  readonly resources: readonly Resource[];

  constructor(template: Template) {
    this.template = template;
    this.resources = Object.entries(template.toJSON().Resources as Record<string, Omit<Resource, 'id'>>).map(
      ([id, resource]) => ({ id, ...resource }),
    );
  }

  ofType(type: string): readonly Resource[] {
    return this.resources.filter((resource) => resource.Type === type);
  }

  /** The one resource of this type whose logical id holds the text. */
  only(type: string, idPart = ''): Resource {
    const found = this.ofType(type).filter(({ id }) => id.includes(idPart));
    if (found.length !== 1 || !found[0]) {
      throw new Error(`${found.length} of ${type} with "${idPart}": ${found.map((f) => f.id).join(', ')}`);
    }
    return found[0];
  }

  fn(name: FunctionName): Resource {
    return this.only('AWS::Lambda::Function', `${FUNCTIONS[name]}Function`);
  }

  /** What a role may do, of all its policies. */
  powersOf(role: Resource): readonly Statement[] {
    const policies = this.ofType('AWS::IAM::Policy').filter((policy) =>
      JSON.stringify(policy.Properties.Roles ?? []).includes(`"${role.id}"`),
    );
    const managed = this.ofType('AWS::IAM::ManagedPolicy').filter((policy) =>
      JSON.stringify(role.Properties.ManagedPolicyArns ?? []).includes(`"${policy.id}"`),
    );
    return [...policies, ...managed].flatMap((policy) => statements(policy.Properties.PolicyDocument));
  }

  powersOfFunction(name: FunctionName): readonly Statement[] {
    return this.powersOf(this.only('AWS::IAM::Role', `${FUNCTIONS[name]}Role`));
  }

  get diskKey(): Resource {
    return this.only('AWS::KMS::Key', 'Disks');
  }

  get recoveryKey(): Resource {
    return this.only('AWS::KMS::Key', 'KeysRecovery');
  }

  get stateKey(): Resource {
    return this.only('AWS::KMS::Key', 'KeysState');
  }

  get table(): Resource {
    return this.only('AWS::DynamoDB::GlobalTable');
  }
}

/** Function name to the part of logical ids. */
export const FUNCTIONS = {
  'observe-vm': 'ObserveVm',
  'issue-disk-keys': 'IssueDiskKeys',
  'ingest-report': 'IngestReport',
  'apply-isolation': 'ApplyIsolation',
  'complete-launch': 'CompleteLaunch',
  'issue-challenge': 'IssueChallenge',
  'enrol-agent': 'EnrolAgent',
  'list-disks': 'ListDisks',
  'release-disk-key': 'ReleaseDiskKey',
  'confirm-disk-key': 'ConfirmDiskKey',
  'rotate-disk-key': 'RotateDiskKey',
  'adopt-disk': 'AdoptDisk',
  'store-header': 'StoreHeader',
  'retire-disk-keys': 'RetireDiskKeys',
  'activate-tpm': 'ActivateTpm',
  'refresh-collateral': 'RefreshCollateral',
  'refresh-quotas': 'RefreshQuotas',
  sweep: 'Sweep',
} as const;
export type FunctionName = keyof typeof FUNCTIONS;
export const FUNCTION_NAMES = Object.keys(FUNCTIONS) as FunctionName[];
export const QUEUE_DRIVEN = [
  'observe-vm',
  'issue-disk-keys',
  'ingest-report',
  'apply-isolation',
  'complete-launch',
] as const;

export function synthesize(
  props: CasemateProps = {},
  env: { account?: string; region: string } = ENV,
): Synthesized {
  const stack = new CasemateStack(testApp(), 'Casemate', { env, casemate: props });
  return new Synthesized(Template.fromStack(stack));
}

export function statements(document: { Statement: Record<string, unknown>[] }): readonly Statement[] {
  const list = (value: unknown): unknown[] =>
    value === undefined ? [] : Array.isArray(value) ? value : [value];
  return document.Statement.map((raw) => ({
    ...(raw['Sid'] === undefined ? {} : { Sid: String(raw['Sid']) }),
    Effect: raw['Effect'] as 'Allow' | 'Deny',
    actions: list(raw['Action']).map(String),
    resources: list(raw['Resource']).map((resource) => JSON.stringify(resource)),
    principals: list(raw['Principal']).map((principal) => JSON.stringify(principal)),
    Condition: (raw['Condition'] ?? {}) as Statement['Condition'],
  }));
}
