import { describe, expect, test } from '@jest/globals';
import { readConfig as activateTpm } from '../../lambdas/activate-tpm/config.ts';
import { readConfig as adoptDisk } from '../../lambdas/adopt-disk/config.ts';
import { readConfig as applyIsolation } from '../../lambdas/apply-isolation/config.ts';
import { readConfig as completeLaunch } from '../../lambdas/complete-launch/config.ts';
import { readConfig as confirmDiskKey } from '../../lambdas/confirm-disk-key/config.ts';
import { readConfig as enrolAgent } from '../../lambdas/enrol-agent/config.ts';
import { EnvironmentError } from '../../lambdas/environment.ts';
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

type Environment = Record<string, string>;
const common = { TABLE_NAME: 'state', AWS_REGION: 'eu-west-1' };
const queueDriven = { ...common, BUS_NAME: 'casemate', REJECTED_QUEUE_URL: 'https://sqs.example/rejected' };
const agentApi = { ...common, API_ORIGIN: 'https://api.example', CALLER_IDENTITY: 'iam' };
const egress = { kind: 'endpoints', securityGroupIds: ['sg-00000001'], prefixListIds: ['pl-00000001'] };

const guards = {
  share: 0.25,
  minimum: 5,
  windowSeconds: 3600,
  protected: { instanceIds: [], autoScalingGroups: [] },
};

const FUNCTIONS: readonly (readonly [string, (environment?: Environment) => object, Environment])[] = [
  ['observe-vm', observeVm, queueDriven],
  [
    'issue-disk-keys',
    issueDiskKeys,
    { ...queueDriven, DISK_KEY_ID: 'arn:aws:kms:eu-west-1:123456789012:key/k' },
  ],
  [
    'ingest-report',
    ingestReport,
    {
      ...queueDriven,
      API_ORIGIN: 'https://api.example',
      REPORT_MAX_AGE_SECONDS: '600',
      EVIDENCE_MAX_AGE_SECONDS: '3600',
    },
  ],
  [
    'apply-isolation',
    applyIsolation,
    {
      ...queueDriven,
      MODE: 'enforce',
      ENFORCE_SHARE: '0.5',
      PROBATION_EGRESS: JSON.stringify(egress),
      GUARDS: JSON.stringify(guards),
      CUT_TRACKED_FLOWS: 'false',
      DETACH_ELASTIC_IPS: 'true',
      STANDBY: 'false',
      REPLACEMENTS_PER_HOUR: '3',
      OWN_QUEUE_URL: 'https://sqs.example/apply-isolation',
    },
  ],
  [
    'sweep',
    sweep,
    {
      ...common,
      OBSERVE_QUEUE_URL: 'https://sqs.example/observe',
      MODE: 'observe',
      ENFORCE_SHARE: '1',
      DENIES_CREDENTIALS: 'false',
    },
  ],
  ['issue-challenge', issueChallenge, { ...common, CALLER_IDENTITY: 'iam' }],
  [
    'enrol-agent',
    enrolAgent,
    {
      ...common,
      BUS_NAME: 'casemate',
      API_ORIGIN: 'https://api.example',
      CALLER_IDENTITY: 'embedded',
      IDENTITY_ISSUERS: 'aws',
    },
  ],
  [
    'list-disks',
    listDisks,
    { ...agentApi, MODE: 'observe', RECOVERY_KEY_ID: 'arn:aws:kms:eu-west-1:123456789012:key/r' },
  ],
  [
    'release-disk-key',
    releaseDiskKey,
    {
      ...agentApi,
      BUS_NAME: 'casemate',
      DISK_KEY_ID: 'arn:aws:kms:eu-west-1:123456789012:key/k',
      MODE: 'observe',
      EVIDENCE_MAX_AGE_SECONDS: '3600',
    },
  ],
  ['confirm-disk-key', confirmDiskKey, { ...agentApi, BUS_NAME: 'casemate' }],
  ['retire-disk-keys', retireDiskKeys, { ...common, BUS_NAME: 'casemate', HEADER_BUCKET: 'headers' }],
  ['store-header', storeHeader, { ...agentApi, HEADER_BUCKET: 'headers' }],
  [
    'adopt-disk',
    adoptDisk,
    { ...agentApi, BUS_NAME: 'casemate', DISK_KEY_ID: 'arn:aws:kms:eu-west-1:123456789012:key/k' },
  ],
  [
    'rotate-disk-key',
    rotateDiskKey,
    { ...agentApi, BUS_NAME: 'casemate', DISK_KEY_ID: 'arn:aws:kms:eu-west-1:123456789012:key/k' },
  ],
  [
    'activate-tpm',
    activateTpm,
    { ...common, BUS_NAME: 'casemate', API_ORIGIN: 'https://api.example', CALLER_IDENTITY: 'iam' },
  ],
  ['refresh-quotas', refreshQuotas, common],
  ['refresh-collateral', refreshCollateral, { ...common, AMD_KEY_SERVER: 'https://keys.example' }],
  ['complete-launch', completeLaunch, { ...common, REJECTED_QUEUE_URL: 'https://sqs.example/rejected' }],
];

/** The variables that an error names, in its own words. */
function named(read: () => object): string[] {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(EnvironmentError);
    const { message } = error as Error;
    expect(message).toMatch(/^wrong settings: /);
    return [...message.matchAll(/(?:^wrong settings: |; )([A-Z_]+)(?:\.[\w.]+)?: /g)].map(
      (m) => m[1] as string,
    );
  }
  return [];
}
/** Has a default. */
const OPTIONAL = new Set(['REPORT_MAX_AGE_SECONDS', 'EVIDENCE_MAX_AGE_SECONDS']);

describe.each(FUNCTIONS)('the settings of %s', (_, read, good) => {
  test('are read into an object that nothing can change', () => {
    const settings = read({ ...good, PATH: '/usr/bin' });
    expect(Object.keys(settings).sort()).toEqual(Object.keys(good).sort());
    expect(Object.isFrozen(settings)).toBe(true);
  });

  test('that are all missing are all named in one error', () => {
    const wanted = Object.keys(good).filter((name) => !OPTIONAL.has(name));
    expect(named(() => read({})).sort()).toEqual(wanted.sort());
  });

  test('that are all empty are all named in one error, and none counts as a default', () => {
    const empty = Object.fromEntries(Object.keys(good).map((name) => [name, '']));
    expect([...new Set(named(() => read(empty)))].sort()).toEqual(Object.keys(good).sort());
  });

  test.each(Object.keys(good))('name %s alone when it alone is missing', (name) => {
    const { [name]: _left, ...rest } = good;
    expect(named(() => read(rest))).toEqual(OPTIONAL.has(name) ? [] : [name]);
  });
});

describe('a setting is refused', () => {
  const without = (i: number) => FUNCTIONS[i] as (typeof FUNCTIONS)[number];
  test.each<[string, number, Environment]>([
    ['REJECTED_QUEUE_URL', 0, { REJECTED_QUEUE_URL: 'rejected' }],
    ['DISK_KEY_ID', 1, { DISK_KEY_ID: 'alias/disk-keys' }],
    ['API_ORIGIN', 2, { API_ORIGIN: 'https://api.example/v1' }],
    ['API_ORIGIN', 2, { API_ORIGIN: 'https://api.example/' }],
    ['API_ORIGIN', 2, { API_ORIGIN: 'api.example' }],
    ['REPORT_MAX_AGE_SECONDS', 2, { REPORT_MAX_AGE_SECONDS: '59' }],
    ['REPORT_MAX_AGE_SECONDS', 2, { REPORT_MAX_AGE_SECONDS: '86401' }],
    ['REPORT_MAX_AGE_SECONDS', 2, { REPORT_MAX_AGE_SECONDS: '15m' }],
    ['REPORT_MAX_AGE_SECONDS', 2, { REPORT_MAX_AGE_SECONDS: '90.5' }],
    ['MODE', 3, { MODE: 'Enforce' }],
    ['PROBATION_EGRESS', 3, { PROBATION_EGRESS: '{' }],
    ['PROBATION_EGRESS', 3, { PROBATION_EGRESS: '{"kind":"anywhere"}' }],
    ['PROBATION_EGRESS', 3, { PROBATION_EGRESS: JSON.stringify({ ...egress, cidrs: ['0.0.0.0/0'] }) }],
    ['PROBATION_EGRESS', 3, { PROBATION_EGRESS: JSON.stringify({ ...egress, securityGroupIds: ['vpc-1'] }) }],
    ['ENFORCE_SHARE', 3, { ENFORCE_SHARE: '1.5' }],
    ['GUARDS', 3, { GUARDS: JSON.stringify({ ...guards, share: 0 }) }],
    ['CUT_TRACKED_FLOWS', 3, { CUT_TRACKED_FLOWS: 'yes' }],
    ['OBSERVE_QUEUE_URL', 4, { OBSERVE_QUEUE_URL: 'observe' }],
    ['CALLER_IDENTITY', 5, { CALLER_IDENTITY: 'none' }],
    ['CALLER_IDENTITY', 6, { CALLER_IDENTITY: 'IAM' }],
    ['IDENTITY_ISSUERS', 6, { IDENTITY_ISSUERS: 'AWS' }],
  ])('by name: %s (%#)', (name, i, change) => {
    const [, read, good] = without(i);
    expect(named(() => read({ ...good, ...change }))).toEqual([name]);
  });

  test('together with every other that is wrong', () => {
    const [, read, good] = without(2);
    const wrong = { ...good, API_ORIGIN: 'x', REPORT_MAX_AGE_SECONDS: 'x', TABLE_NAME: '' };
    expect(named(() => read(wrong)).sort()).toEqual(['API_ORIGIN', 'REPORT_MAX_AGE_SECONDS', 'TABLE_NAME']);
  });

  test('without its value in the error: it may be a secret that was put into the wrong variable', () => {
    const [, read, good] = without(6);
    const secret = 'hunter2-hunter2';
    const wrong = Object.fromEntries(Object.keys(good).map((name) => [name, secret]));
    expect(() => read(wrong)).toThrow(EnvironmentError);
    expect(() => read(wrong)).not.toThrow(secret);
  });
});

test('a report’s age has a default of fifteen minutes', () => {
  const { REPORT_MAX_AGE_SECONDS: _left, ...rest } = (FUNCTIONS[2] as (typeof FUNCTIONS)[number])[2];
  expect(ingestReport(rest)).toMatchObject({ REPORT_MAX_AGE_SECONDS: 900 });
});
