import { describe, expect, test } from '@jest/globals';
import { readConfig as activateTpm } from '../../lambdas/activate-tpm/config.ts';
import { readConfig as adoptDisk } from '../../lambdas/adopt-disk/config.ts';
import { readConfig as applyIsolation } from '../../lambdas/apply-isolation/config.ts';
import { readConfig as completeLaunch } from '../../lambdas/complete-launch/config.ts';
import { readConfig as confirmDiskKey } from '../../lambdas/confirm-disk-key/config.ts';
import { readConfig as denyCredentials } from '../../lambdas/deny-credentials/config.ts';
import { readConfig as enrolAgent } from '../../lambdas/enrol-agent/config.ts';
import { readConfig as ingestReport } from '../../lambdas/ingest-report/config.ts';
import { readConfig as issueChallenge } from '../../lambdas/issue-challenge/config.ts';
import { readConfig as issueDiskKeys } from '../../lambdas/issue-disk-keys/config.ts';
import { readConfig as listDisks } from '../../lambdas/list-disks/config.ts';
import { readConfig as observeVm } from '../../lambdas/observe-vm/config.ts';
import { readConfig as refreshCollateral } from '../../lambdas/refresh-collateral/config.ts';
import { readConfig as refreshQuotas } from '../../lambdas/refresh-quotas/config.ts';
import { readConfig as releaseDiskKey } from '../../lambdas/release-disk-key/config.ts';
import { readConfig as retireDiskKeys } from '../../lambdas/retire-disk-keys/config.ts';
import { readConfig as rotateDiskKey } from '../../lambdas/rotate-disk-key/config.ts';
import { readConfig as storeHeader } from '../../lambdas/store-header/config.ts';
import { readConfig as sweep } from '../../lambdas/sweep/config.ts';
import { FUNCTION_NAMES, type FunctionName, synthesize } from './synthesized.ts';

const stack = synthesize();

const READ: Record<FunctionName, (environment: Record<string, string>) => object> = {
  'observe-vm': observeVm,
  'issue-disk-keys': issueDiskKeys,
  'ingest-report': ingestReport,
  'apply-isolation': applyIsolation,
  'complete-launch': completeLaunch,
  'issue-challenge': issueChallenge,
  'enrol-agent': enrolAgent,
  'list-disks': listDisks,
  'release-disk-key': releaseDiskKey,
  'confirm-disk-key': confirmDiskKey,
  'rotate-disk-key': rotateDiskKey,
  'adopt-disk': adoptDisk,
  'store-header': storeHeader,
  'retire-disk-keys': retireDiskKeys,
  'activate-tpm': activateTpm,
  'refresh-collateral': refreshCollateral,
  'refresh-quotas': refreshQuotas,
  sweep,
};

/** What CloudFormation would make of a value: references become something of the right form. */
function deployed(value: unknown): string {
  if (typeof value === 'string') return value;
  const { Ref, 'Fn::GetAtt': attribute, 'Fn::Join': join } = value as Record<string, unknown>;
  if (Array.isArray(join)) return (join[1] as unknown[]).map(deployed).join(String(join[0]));
  if (Array.isArray(attribute)) return `arn:aws:service:eu-west-1:111122223333:${attribute[0]}`;
  if (Ref === 'AWS::URLSuffix') return 'amazonaws.com';
  if (Ref === 'AWS::Partition') return 'aws';
  const id = String(Ref);
  return /Queue|Rejected/.test(id)
    ? `https://sqs.eu-west-1.amazonaws.com/111122223333/${id}`
    : id.toLowerCase();
}

describe('the environment that the stack gives', () => {
  test.each(FUNCTION_NAMES)('%s can be read by its own schema', (name) => {
    const variables: Record<string, unknown> = stack.fn(name).Properties.Environment.Variables;
    const environment = Object.fromEntries(
      Object.entries(variables).map(([variable, value]) => [variable, deployed(value)]),
    );
    const config = READ[name]({ ...environment, AWS_REGION: 'eu-west-1' });
    // Nothing is given that the function does not read.
    const read = [...Object.keys(config), 'API_ORIGIN', 'CALLER_IDENTITY'];
    const unread = Object.keys(environment).filter(
      (variable) => !variable.startsWith('POWERTOOLS_') && !read.includes(variable),
    );
    expect(unread).toEqual([]);
  });

  test('deny-credentials can be read by its own schema, where it is deployed', () => {
    const denier = synthesize({ denyCredentialsOfRoles: ['web'] }).only(
      'AWS::Lambda::Function',
      'DenyCredentialsDenierFunction',
    );
    const environment = Object.fromEntries(
      Object.entries(denier.Properties.Environment.Variables as Record<string, unknown>).map(
        ([name, value]) => [name, deployed(value)],
      ),
    );
    const config = denyCredentials({ ...environment, AWS_REGION: 'eu-west-1' });
    expect(config.ROLE_NAMES).toEqual(['web']);
    expect(config.INSTANCE_ARN_PREFIX).toBe('arn:aws:ec2:eu-west-1:111122223333:instance/');
  });
});
