import { describe, expect, jest, test } from '@jest/globals';
import { Duration, Stack } from 'aws-cdk-lib';
import { Annotations, Match } from 'aws-cdk-lib/assertions';
import { createIdentityIssuer } from '../../bin/local/identity-issuer.ts';
import { SettingsError, settingFaults } from '../../lib/constructs/casemate-settings.ts';
import { Casemate, type CasemateProps } from '../../lib/index.ts';
import { ENV, testApp } from './synthesized.ts';

const { certificatePem } = await createIdentityIssuer('us-east-1');
const EMBEDDED = { account: '000000000000', region: 'us-east-1' };

/** What `cdk synth` says about these props, line by line. */
function errors(props: CasemateProps, env: { account?: string; region?: string } = ENV): string[] {
  try {
    new Casemate(new Stack(testApp(), 'Test', { env }), 'Casemate', props);
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    const [where, ...faults] = error.message.split('\n  ');
    expect(where).toBe('Test/Casemate:');
    return faults;
  }
  return [];
}

/** Cast, as whoever writes JavaScript would. */
const unchecked = (props: Record<string, unknown>) => props as CasemateProps;

const REFUSED: [string, CasemateProps, RegExp][] = [
  ['a mode that there is not', unchecked({ mode: 'enforced' }), /^mode is "enforced": use "observe"/],
  [
    'a caller identity that there is not',
    unchecked({ callerIdentity: 'none' }),
    /^callerIdentity is "none": use "iam"/,
  ],
  [
    'a batch window longer than SQS gathers',
    { observeBatchWindow: Duration.seconds(301) },
    /^observeBatchWindow is 301 s: use whole seconds from 0 to 300/,
  ],
  [
    'a batch window of part of a second',
    { observeBatchWindow: Duration.millis(1500) },
    /^observeBatchWindow is 1.5 s: use whole seconds/,
  ],
  [
    'less concurrency than SQS has',
    { observeMaxConcurrency: 1 },
    /^observeMaxConcurrency is 1: use a whole number from 2 to 1000/,
  ],
  ['half a batch', { observeMaxConcurrency: 2.5 }, /^observeMaxConcurrency is 2.5: use a whole number/],
  [
    'a report that goes stale at once',
    { reportMaxAge: Duration.seconds(59) },
    /^reportMaxAge is 59 s: use whole seconds from 60 to 86400/,
  ],
  ['a report that never goes stale', { reportMaxAge: Duration.days(2) }, /^reportMaxAge is 172800 s/],
  [
    'an origin with a path',
    { apiOrigin: 'https://casemate.example.com/v1' },
    /^apiOrigin is "https:\/\/casemate.example.com\/v1": use scheme and host alone/,
  ],
  [
    'an origin that is none',
    { apiOrigin: 'casemate.example.com' },
    /^apiOrigin is .* use scheme and host alone/,
  ],
  [
    'a key server without TLS',
    { amdKeyServer: 'http://kds.example' },
    /^amdKeyServer is "http:\/\/kds.example": use https and a host alone/,
  ],
  [
    'a key server with a path',
    { amdKeyServer: 'https://kds.example/vlek' },
    /^amdKeyServer is .* use https and a host alone/,
  ],
  ['an origin without TLS', { apiOrigin: 'http://casemate.example.com' }, /^apiOrigin is .* must be https/],
  [
    'an issuer of identities beside AWS',
    { identityIssuers: certificatePem },
    /^identityIssuers another issuer than AWS could vouch for any VM/,
  ],
  [
    'an issuer that is no certificate',
    { callerIdentity: 'embedded', identityIssuers: 'aws' },
    /^identityIssuers is not one PEM certificate/,
  ],
  [
    'an issuer that only looks like a certificate',
    {
      callerIdentity: 'embedded',
      identityIssuers: '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n',
    },
    /^identityIssuers is not one PEM certificate/,
  ],
  [
    'two issuers',
    { callerIdentity: 'embedded', identityIssuers: certificatePem.repeat(2) },
    /^identityIssuers is not one PEM certificate/,
  ],
  [
    'enforcing without saying what VMs in probation may reach',
    { mode: 'enforce' },
    /^probationEgress is missing: VMs in probation could not reach the API/,
  ],
  [
    'enforcing with a fence that lets nothing through',
    {
      mode: 'enforce',
      probationEgress: { kind: 'endpoints', securityGroupIds: [], prefixListIds: ['pl-0123456789abcdef0'] },
    },
    /^probationEgress names no security group of an interface endpoint/,
  ],
  [
    'an egress to what is no group',
    {
      probationEgress: { kind: 'endpoints', securityGroupIds: ['pl-0123456789abcdef0'], prefixListIds: [] },
    },
    /^probationEgress pl-0123456789abcdef0: use sg-… in securityGroupIds/,
  ],
  [
    'an egress of a kind that there is not',
    unchecked({ probationEgress: { kind: 'anywhere' } }),
    /^probationEgress has no such kind/,
  ],
  ['a guard that lets policy contain nothing', { guardShare: 0 }, /^guardShare is 0: use a number above 0/],
  ['a guard above all', { guardShare: 1.1 }, /^guardShare is 1.1: use a number above 0, up to 1/],
  ['a guard without a minimum', { guardMinimum: 0 }, /^guardMinimum is 0: use a whole number from 1 on/],
  ['a guard of seconds', { guardWindow: Duration.seconds(59) }, /^guardWindow is 59 s: use whole seconds/],
  [
    'enforcing for a share while observing',
    { enforceShare: 0.1 },
    /^enforceShare enforces nothing in "observe"/,
  ],
  [
    'protecting what is no VM',
    { protectedInstanceIds: ['web'] },
    /^protectedInstanceIds "web": each must be like i-/,
  ],
  [
    'a role by its ARN',
    { agentRoleNames: ['arn:aws:iam::111122223333:role/web'] },
    /^agentRoleNames "arn:aws:iam::111122223333:role\/web": each must be the name of a role/,
  ],
  [
    'an endpoint that is none',
    { apiVpcEndpointIds: ['vpc-0123456789abcdef0'] },
    /^apiVpcEndpointIds "vpc-0123456789abcdef0": each must be like vpce-/,
  ],
  [
    'a private API where there is no VPC',
    { callerIdentity: 'embedded', apiVpcEndpointIds: ['vpce-0123456789abcdef0'] },
    /^apiVpcEndpointIds there are no VPC endpoints without AWS/,
  ],
];

describe('wrong settings', () => {
  test.each(REFUSED)('refuses %s', (_, props, message) => {
    const faults = settingFaults(props).map((fault) => `${fault.setting} ${fault.message}`);
    expect(faults).toEqual([expect.stringMatching(message)]);
  });

  test('are errors of the synth, all of them at once', () => {
    const found = errors({ mode: 'enforce', observeMaxConcurrency: 1, apiOrigin: 'http://x.example' });
    expect(found).toHaveLength(3);
    expect(found.join()).toMatch(
      /probationEgress.*observeMaxConcurrency|observeMaxConcurrency.*probationEgress/,
    );
  });

  test('include unauthorised callers in a real account', () => {
    expect(errors({ callerIdentity: 'embedded' }, ENV)).toEqual([
      expect.stringMatching(/^callerIdentity "embedded" believes callers .* 111122223333 is a real account/),
    ]);
  });

  test('include a stack that does not know its Region', () => {
    expect(errors({}, {})).toEqual(['env.region is missing on the stack: say which Region it is for']);
  });
});

describe('right settings', () => {
  test('that would put VMs back into probation for one late report are warned of', () => {
    // The CDK prints every warning as well.
    jest.spyOn(console, 'error').mockImplementation(() => {});
    const stack = new Stack(testApp(), 'Test', { env: ENV });
    new Casemate(stack, 'Casemate', { reportMaxAge: Duration.minutes(5) });
    const warnings = Annotations.fromStack(stack).findWarning(
      '*',
      Match.stringLikeRegexp('reportMaxAge is 300 s'),
    );
    expect(warnings).toHaveLength(1);
  });

  test.each<[string, CasemateProps, typeof ENV]>([
    ['none at all', {}, ENV],
    [
      'enforcing through endpoints',
      {
        mode: 'enforce',
        probationEgress: {
          kind: 'endpoints',
          securityGroupIds: ['sg-0123456789abcdef0'],
          prefixListIds: ['pl-01234567'],
        },
        reportMaxAge: Duration.minutes(5),
        observeBatchWindow: Duration.minutes(5),
        apiVpcEndpointIds: ['vpce-0123456789abcdef0'],
        agentRoleNames: ['web'],
      },
      ENV,
    ],
    [
      'the embedded cloud',
      {
        mode: 'enforce',
        probationEgress: { kind: 'https-anywhere' },
        callerIdentity: 'embedded',
        identityIssuers: certificatePem,
        apiOrigin: 'http://127.0.0.1:4566',
      },
      EMBEDDED,
    ],
  ])('accepts %s', (_, props, env) => {
    expect(errors(props, env)).toEqual([]);
  });
});
