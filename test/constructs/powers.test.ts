import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { build } from 'esbuild';
import {
  FUNCTION_NAMES,
  type FunctionName,
  QUEUE_DRIVEN,
  type Statement,
  statements,
  synthesize,
} from './synthesized.ts';

const stack = synthesize();
/** With every step of containing a VM that can be asked for, and so with every power that its code can use. */
const withAllSteps = synthesize({
  cutTrackedFlows: true,
  detachElasticIps: true,
  standby: true,
  denyCredentialsOfRoles: ['web', 'db'],
});
const allRoles = stack.ofType('AWS::IAM::Role').map((role) => ({ role, powers: stack.powersOf(role) }));

const touches = (statement: Statement, id: string) => statement.resources.some((r) => r.includes(`"${id}"`));
const ofService = (powers: readonly Statement[], service: string) =>
  powers.filter((statement) => statement.actions.some((action) => action.startsWith(`${service}:`)));
const actionsOf = (powers: readonly Statement[]) => [...new Set(powers.flatMap((p) => p.actions))].sort();

/** What Lambda itself does with the role, and what a creation with tags asks for. */
const NOT_CALLED_BY_CODE = [
  'ec2:CreateTags',
  'logs:CreateLogStream',
  'logs:PutLogEvents',
  'sqs:ChangeMessageVisibility',
  'sqs:DeleteMessage',
  'sqs:GetQueueAttributes',
  'sqs:ReceiveMessage',
  'xray:PutTelemetryRecords',
  'xray:PutTraceSegments',
];

/** Calls that IAM knows under another name. */
const IAM_ACTION: Record<string, string> = {
  'dynamodb:TransactWriteItems': 'dynamodb:PutItem',
  's3:ListObjectVersions': 's3:ListBucketVersions',
  'sqs:SendMessageBatch': 'sqs:SendMessage',
};

/** One call that asks for two powers. */
const TWO_ACTIONS: Record<string, readonly string[]> = {
  'kms:ReEncrypt': ['kms:ReEncryptFrom', 'kms:ReEncryptTo'],
  's3:DeleteObject': ['s3:DeleteObject', 's3:DeleteObjectVersion'],
};

const SERVICE: Record<string, string> = {
  'client-auto-scaling': 'autoscaling',
  'client-dynamodb': 'dynamodb',
  'client-ec2': 'ec2',
  'client-eventbridge': 'events',
  'client-cloudformation': 'cloudformation',
  'client-iam': 'iam',
  'client-sts': 'sts',
  'client-kms': 'kms',
  'client-s3': 's3',
  'client-service-quotas': 'servicequotas',
  'client-sqs': 'sqs',
};

const callsOf = (name: string) => callsFrom(`lambdas/${name}/index.ts`);

/** The AWS calls that are left of a program when what it does not use is shaken off. */
async function callsFrom(file: string): Promise<string[]> {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`../../${file}`, import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'node',
    treeShaking: true,
    packages: 'external',
    logLevel: 'silent',
  });
  const code = outputFiles[0]?.text ?? '';
  const imports = [...code.matchAll(/import \{([^}]*)\} from "@aws-sdk\/([\w-]+)"/g)];
  const calls = new Set<string>();
  for (const [, names = '', client = ''] of imports) {
    for (const imported of names.split(',').map((n) => n.trim())) {
      const call = /^paginate(\w+)$/.exec(imported)?.[1] ?? /^(\w+)Command$/.exec(imported)?.[1];
      // An import stays when its last use is shaken off.
      if (!call || !code.includes(`${imported}(`)) continue;
      const action = `${SERVICE[client] ?? client}:${call}`;
      for (const one of TWO_ACTIONS[action] ?? [IAM_ACTION[action] ?? action]) calls.add(one);
    }
  }
  return [...calls].sort();
}

describe('the roles of the functions', () => {
  test.each(FUNCTION_NAMES)('%s may make exactly the AWS calls that its code makes', async (name) => {
    const granted = withAllSteps
      .powersOfFunction(name)
      // The state key is used by DynamoDB and SQS in the role's name, which the next test is about.
      .filter((statement) => !touches(statement, withAllSteps.stateKey.id));
    const called = await callsOf(name);
    expect(called.length).toBeGreaterThan(0);
    expect(actionsOf(granted).filter((action) => !NOT_CALLED_BY_CODE.includes(action))).toEqual(called);
  });

  test('the state key can be used through the table, the queues and the header bucket only', () => {
    for (const { powers } of allRoles) {
      for (const statement of powers.filter((p) => touches(p, stack.stateKey.id))) {
        expect(statement.Condition['StringEquals']?.['kms:ViaService']).toMatch(
          /^(dynamodb|sqs|s3)\.eu-west-1\./,
        );
      }
    }
  });

  test('each function has a role of its own', () => {
    const roles = FUNCTION_NAMES.map((name) => JSON.stringify(stack.fn(name).Properties.Role));
    expect(new Set(roles).size).toBe(FUNCTION_NAMES.length);
  });

  test('no policy has a wildcard in an action', () => {
    const documents = [
      ...stack.ofType('AWS::IAM::Policy').map((r) => r.Properties.PolicyDocument),
      ...stack.ofType('AWS::IAM::ManagedPolicy').map((r) => r.Properties.PolicyDocument),
      ...stack.ofType('AWS::SQS::QueuePolicy').map((r) => r.Properties.PolicyDocument),
    ];
    const wild = documents
      .flatMap((document) => statements(document))
      .filter((statement) => statement.Effect === 'Allow')
      .flatMap((statement) => statement.actions)
      .filter((action) => action.includes('*'));
    expect(wild).toEqual([]);
  });

  test('every resource "*" is of an action that has no resource, and no other', () => {
    const everywhere = FUNCTION_NAMES.flatMap((name) => stack.powersOfFunction(name))
      .filter((statement) => statement.resources.includes('"*"'))
      .flatMap((statement) => statement.actions)
      .filter((action) => !/^(ec2:Describe\w+|servicequotas:Get\w+|xray:Put\w+)$/.test(action));
    expect(everywhere).toEqual([]);
  });
});

describe('disk keys and networks', () => {
  const handlesDiskKeys = (powers: readonly Statement[]) =>
    powers.some((statement) => touches(statement, stack.diskKey.id));
  const changesNetworks = (powers: readonly Statement[]) =>
    ofService(powers, 'ec2').some((s) => s.actions.some((action) => !/^ec2:(Describe|Get)/.test(action)));

  test('no role that touches the disk-key CMK can change a network', () => {
    const both = allRoles.filter(({ powers }) => handlesDiskKeys(powers) && changesNetworks(powers));
    expect(both.map(({ role }) => role.id)).toEqual([]);
    // Neither half is empty, so the sentence above says something.
    expect(allRoles.filter(({ powers }) => handlesDiskKeys(powers))).toHaveLength(4);
    expect(allRoles.filter(({ powers }) => changesNetworks(powers))).toHaveLength(1);
  });

  const onDiskKey = (name: FunctionName) =>
    stack.powersOfFunction(name).filter((statement) => touches(statement, stack.diskKey.id));

  test('one function unwraps under the disk-key CMK, and each does one thing with it', () => {
    const does = Object.fromEntries(
      FUNCTION_NAMES.map((name) => [name, actionsOf(onDiskKey(name))] as const).filter(
        ([, actions]) => actions.length > 0,
      ),
    );
    expect(does).toEqual({
      'issue-disk-keys': ['kms:GenerateDataKeyWithoutPlaintext'],
      'rotate-disk-key': ['kms:GenerateDataKeyWithoutPlaintext'],
      'release-disk-key': ['kms:Decrypt'],
      'adopt-disk': ['kms:ReEncryptFrom', 'kms:ReEncryptTo'],
    });
  });

  test.each(['issue-disk-keys', 'rotate-disk-key', 'release-disk-key', 'adopt-disk'] as const)(
    '%s uses it only with disk, generation and VM in the encryption context',
    (name) => {
      const [use] = onDiskKey(name);
      expect(use?.Condition).toEqual({
        'ForAllValues:StringEquals': {
          'kms:EncryptionContextKeys': ['casemate:disk', 'casemate:generation', 'casemate:vm'],
        },
        Null: {
          'kms:EncryptionContext:casemate:disk': 'false',
          'kms:EncryptionContext:casemate:generation': 'false',
          'kms:EncryptionContext:casemate:vm': 'false',
        },
      });
    },
  );

  test('security groups can be changed only where Casemate made them, and never opened inbound', () => {
    const powers = stack.powersOfFunction('apply-isolation');
    const rules = powers.filter((s) =>
      s.actions.some((a) => /SecurityGroup((In|E)gress)?$/.test(a) && !a.includes('Create')),
    );
    expect(actionsOf(rules)).toEqual([
      'ec2:AuthorizeSecurityGroupEgress',
      'ec2:DeleteSecurityGroup',
      'ec2:RevokeSecurityGroupEgress',
      'ec2:RevokeSecurityGroupIngress',
    ]);
    for (const statement of rules) {
      expect(statement.Condition).toEqual({ StringEquals: { 'aws:ResourceTag/casemate:managed': 'true' } });
    }
  });

  test('a profile that lets something in opens only groups that were made for that', () => {
    const powers = withAllSteps.powersOfFunction('apply-isolation');
    const opening = powers.filter((s) => s.actions.includes('ec2:AuthorizeSecurityGroupIngress'));
    expect(opening.map((s) => [s.actions, s.Condition])).toEqual([
      [
        ['ec2:AuthorizeSecurityGroupIngress'],
        {
          StringEquals: {
            'aws:ResourceTag/casemate:managed': 'true',
            'aws:ResourceTag/casemate:ingress': 'true',
          },
        },
      ],
    ]);
  });

  test('a security group can be made only with the tag of Casemate, and tagged only while it is made', () => {
    const powers = stack.powersOfFunction('apply-isolation');
    const onGroups = powers.filter((s) => s.resources.some((r) => r.includes('security-group/*')));
    const create = onGroups.find((s) => s.actions.includes('ec2:CreateSecurityGroup'));
    expect(create?.Condition['StringEquals']).toEqual({ 'aws:RequestTag/casemate:managed': 'true' });
    const tag = powers.filter((s) => s.actions.includes('ec2:CreateTags'));
    expect(tag.map((s) => s.Condition)).toEqual([
      { StringEquals: { 'ec2:CreateAction': 'CreateSecurityGroup' } },
    ]);
  });
});

describe('the policy for operators', () => {
  const policy = stack.only('AWS::IAM::ManagedPolicy', 'OperatorsPolicy');
  const powers = statements(policy.Properties.PolicyDocument);

  test('allows exactly the AWS calls of the casemate commands', async () => {
    const others = [
      // Of the embedded cloud alone.
      'ec2:RunInstances',
      'ec2:TerminateInstances',
      // Needs no permission.
      'sts:GetCallerIdentity',
      // RecoveryPolicyArn.
      'kms:Decrypt',
    ];
    const called = (await callsFrom('bin/cli/main.ts')).filter((call) => !others.includes(call));
    const granted = powers.filter((statement) => !touches(statement, stack.stateKey.id));
    expect(actionsOf(granted)).toEqual(called);
  });

  test('lets operators write what they decided, and open guards, and say so', () => {
    const put = powers.find((statement) => statement.actions.includes('dynamodb:PutItem'));
    expect(put?.Condition['ForAllValues:StringLike']).toEqual({
      'dynamodb:LeadingKeys': ['operator#*', 'guard#*'],
    });
    const said = powers.find((statement) => statement.actions.includes('events:PutEvents'));
    expect(said?.Condition['ForAllValues:StringEquals']).toMatchObject({
      'events:source': ['casemate'],
      'events:detail-type': ['Operator Decided'],
    });
  });
});

describe('the function that denies credentials', () => {
  const role = withAllSteps.only('AWS::IAM::Role', 'DenyCredentialsDenierRole');
  const powers = withAllSteps.powersOf(role);

  test('is not there unless roles are named', () => {
    expect(stack.resources.filter(({ id }) => id.includes('DenyCredentials'))).toEqual([]);
  });

  test('may make exactly the AWS calls that its code makes', async () => {
    const granted = powers.filter((statement) => !touches(statement, withAllSteps.stateKey.id));
    expect(actionsOf(granted).filter((action) => !NOT_CALLED_BY_CODE.includes(action))).toEqual(
      await callsOf('deny-credentials'),
    );
  });

  test('changes the named roles alone, and nobody else changes any', () => {
    const [iam, ...more] = ofService(powers, 'iam');
    expect(more).toEqual([]);
    expect(iam?.resources.map((arn) => /:role\/[^"]*/.exec(arn)?.[0])).toEqual([':role/db', ':role/web']);
    for (const other of withAllSteps.ofType('AWS::IAM::Role').filter(({ id }) => id !== role.id)) {
      expect(ofService(withAllSteps.powersOf(other), 'iam')).toEqual([]);
    }
  });

  test('reads no more of the table than VMs and where they are, and keeps its own list', () => {
    const kinds = powers
      .filter((statement) => touches(statement, withAllSteps.table.id))
      .map((statement) => [
        statement.actions.join(),
        statement.Condition['ForAllValues:StringLike']?.['dynamodb:LeadingKeys'],
      ]);
    expect(kinds).toEqual([
      ['dynamodb:BatchGetItem', ['vm#*', 'isolation#*', 'credential#*']],
      ['dynamodb:PutItem', ['credential#*']],
    ]);
    expect(ofService(powers, 'ec2')).toEqual([]);
  });
});

describe('the kinds of the state table', () => {
  const onTable = (name: FunctionName) =>
    stack.powersOfFunction(name).filter((statement) => touches(statement, stack.table.id));

  const leadingKeys = (statement: Statement) =>
    (statement.Condition['ForAllValues:StringLike']?.['dynamodb:LeadingKeys'] ?? []) as string[];

  /** docs/architecture.md, "Functions". */
  const KINDS: Record<Exclude<FunctionName, 'sweep' | 'retire-disk-keys'>, Record<string, string[]>> = {
    'observe-vm': { BatchGetItem: ['vm', 'operator'], PutItem: ['vm'] },
    'issue-disk-keys': { BatchGetItem: ['vm', 'disk'], PutItem: ['disk'] },
    'ingest-report': {
      BatchGetItem: ['vm', 'enrol', 'tpm', 'posture', 'nonce', 'collateral'],
      PutItem: ['posture', 'collateral'],
      UpdateItem: ['nonce'],
    },
    'apply-isolation': {
      BatchGetItem: ['vm', 'posture', 'isolation', 'operator', 'guard', 'quota'],
      PutItem: ['isolation', 'guard'],
    },
    'complete-launch': { BatchGetItem: ['vm', 'isolation'] },
    'issue-challenge': { PutItem: ['nonce'] },
    'enrol-agent': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce', 'operator'],
      PutItem: ['enrol'],
      UpdateItem: ['nonce'],
    },
    'list-disks': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce', 'release', 'operator'],
      UpdateItem: ['nonce'],
    },
    'release-disk-key': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce', 'posture', 'isolation', 'operator', 'release'],
      PutItem: ['release'],
      UpdateItem: ['nonce'],
    },
    'confirm-disk-key': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce'],
      PutItem: ['disk'],
      UpdateItem: ['nonce'],
    },
    'rotate-disk-key': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce'],
      PutItem: ['disk'],
      UpdateItem: ['nonce'],
    },
    'adopt-disk': {
      BatchGetItem: ['vm', 'disk', 'enrol', 'nonce', 'operator'],
      PutItem: ['disk'],
      UpdateItem: ['nonce'],
    },
    'store-header': { BatchGetItem: ['vm', 'disk', 'enrol', 'nonce'], UpdateItem: ['nonce'] },
    'refresh-collateral': { BatchGetItem: ['collateral'], PutItem: ['collateral'] },
    'refresh-quotas': { BatchGetItem: ['quota'], PutItem: ['quota'] },
    'activate-tpm': {
      BatchGetItem: ['vm', 'enrol', 'tpm', 'nonce'],
      PutItem: ['tpm', 'nonce'],
      UpdateItem: ['nonce'],
    },
  };

  test.each(Object.keys(KINDS) as (keyof typeof KINDS)[])('%s is held to its kinds', (name) => {
    const held = Object.fromEntries(
      onTable(name).map((statement) => [
        statement.actions.join().replace('dynamodb:', ''),
        leadingKeys(statement).map((pattern) => pattern.replace(/#\*$/, '')),
      ]),
    );
    expect(held).toEqual(KINDS[name]);
  });

  test('a request without a leading key does not slip through ForAllValues', () => {
    for (const name of Object.keys(KINDS) as (keyof typeof KINDS)[]) {
      for (const statement of onTable(name)) {
        expect(statement.Condition['Null']).toEqual({ 'dynamodb:LeadingKeys': 'false' });
      }
    }
  });

  test('only the sweep, which writes nothing, and the retirement of keys, which writes disks, scan', () => {
    const scanning = FUNCTION_NAMES.filter((name) => actionsOf(onTable(name)).includes('dynamodb:Scan'));
    expect(scanning).toEqual(['retire-disk-keys', 'sweep']);
    const retires = onTable('retire-disk-keys');
    expect(actionsOf(retires)).toEqual(['dynamodb:PutItem', 'dynamodb:Scan']);
    expect(retires.flatMap(leadingKeys)).toEqual(['disk#*']);
    expect(actionsOf(onTable('sweep'))).toEqual(['dynamodb:Scan']);
    const stateKey = stack.powersOfFunction('sweep').filter((s) => touches(s, stack.stateKey.id));
    const throughTable = stateKey.filter((s) =>
      `${s.Condition['StringEquals']?.['kms:ViaService']}`.startsWith('dynamodb'),
    );
    expect(actionsOf(throughTable)).toEqual(['kms:Decrypt', 'kms:DescribeKey']);
  });

  test('nobody may delete an item, query across kinds, or change the table', () => {
    const actions = allRoles.flatMap(({ powers }) => actionsOf(ofService(powers, 'dynamodb')));
    expect([...new Set(actions)].sort()).toEqual([
      'dynamodb:BatchGetItem',
      'dynamodb:PutItem',
      'dynamodb:Scan',
      'dynamodb:UpdateItem',
    ]);
  });
});

describe('the bus and the queues', () => {
  test('each function says its own detail types, of the source casemate', () => {
    const says = Object.fromEntries(
      FUNCTION_NAMES.flatMap((name) =>
        ofService(stack.powersOfFunction(name), 'events').map((statement) => {
          const values = statement.Condition['ForAllValues:StringEquals'];
          expect(values?.['events:source']).toEqual(['casemate']);
          expect(statement.Condition['Null']).toEqual({
            'events:source': 'false',
            'events:detail-type': 'false',
          });
          return [name, values?.['events:detail-type']];
        }),
      ),
    );
    expect(says).toEqual({
      'observe-vm': ['VM Changed'],
      'issue-disk-keys': ['Disk Key Issued'],
      'ingest-report': ['Posture Changed', 'Report Refused'],
      'apply-isolation': ['Isolation Changed'],
      'enrol-agent': ['Enrolment Refused'],
      'release-disk-key': ['Key Release Decided'],
      'confirm-disk-key': ['Disk Key Retired'],
      'rotate-disk-key': ['Disk Key Issued'],
      'adopt-disk': ['Disk Key Issued'],
      'retire-disk-keys': ['Disk Key Retired'],
      'activate-tpm': ['Enrolment Refused'],
    });
  });

  test('a queue-driven function takes from its own queue and rejects into one', () => {
    for (const name of QUEUE_DRIVEN) {
      const powers = ofService(stack.powersOfFunction(name), 'sqs');
      const mapping = stack
        .ofType('AWS::Lambda::EventSourceMapping')
        .find((m) => JSON.stringify(m.Properties.FunctionName).includes(stack.fn(name).id));
      const queue: string = mapping?.Properties.EventSourceArn['Fn::GetAtt'][0];
      const take = powers.filter((s) => s.actions.includes('sqs:ReceiveMessage'));
      expect(take.map((s) => s.resources)).toEqual([[expect.stringContaining(`"${queue}"`)]]);
      const put = powers.filter((s) => s.actions.includes('sqs:SendMessage'));
      expect(put.map((s) => s.resources)).toEqual([[expect.stringContaining('Rejected')]]);
    }
  });

  test('the sweep puts its hints into the queue of observe-vm and no other', () => {
    const send = ofService(stack.powersOfFunction('sweep'), 'sqs');
    expect(send.map((s) => [s.actions, s.resources])).toEqual([
      [['sqs:SendMessage'], [expect.stringMatching(/ObserveVmQueue(?!DeadLetters)/)]],
    ]);
  });
});
