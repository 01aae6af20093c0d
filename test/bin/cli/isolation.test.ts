import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { marshall, unmarshall } from '@aws-sdk/util-dynamodb';
import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { runningLocally } from '../../../bin/cli/connection.ts';
import { changedSince, planSteps } from '../../../bin/cli/isolation.ts';
import type { AddressStep, ContainmentSettings, StandbyStep } from '../../../lib/domain/containment.ts';
import { QUOTA_PK, quotaItemOf } from '../../../lib/domain/quotas.ts';
import { serve } from '../../agent/harness.ts';
import {
  AT,
  anInterface,
  anIsolation,
  anOperator,
  aPosture,
  aVm,
  DECISION,
  VM_ID,
} from '../../world/items.ts';

const CLI = fileURLToPath(new URL('../../../bin/casemate-cli.js', import.meta.url));
const ADA = 'arn:aws:iam::123456789012:user/ada';
const QUARANTINE = 'sg-00000002';
const local = runningLocally() !== undefined;
const inAws = local ? describe.skip : describe;

// Each test starts the command line as a process, which takes seconds on a machine that is busy.
jest.setTimeout(60_000);

const OPENED = `<item><groupId>${QUARANTINE}</groupId><groupName>casemate-quarantine</groupName>
  <vpcId>vpc-0a1b2c3d4e5f60718</vpcId><ipPermissions><item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort>
  <toPort>22</toPort><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item></ipPermissions></item>`;
const EVERY_STEP: ContainmentSettings = {
  probationEgress: { kind: 'https-anywhere' },
  cutTrackedFlows: true,
  detachElasticIps: true,
  standby: true,
  denyCredentialsOfRoles: ['web'],
};

type Row = Record<string, unknown>;
interface Posted {
  readonly Entries: readonly { readonly DetailType: string; readonly Detail: string }[];
}

/** AWS as far as these commands see it: a table, STS, a bus behind which `act` stands, and one VM's interfaces. */
inAws(
  `operators${local ? ': skipped: an embedded cloud runs in this project and would be asked' : ''}`,
  () => {
    let server: Awaited<ReturnType<typeof serve>>;
    let rows: Map<string, Row>;
    let opened = false;
    let posted: Posted['Entries'][number][];
    let deleted: Set<string>;
    /** Before somebody's Put is looked at: what another operator does in that moment. */
    let meanwhile: (() => void) | undefined;
    let act: () => void;
    let mode: string;
    let containment: ContainmentSettings | undefined;
    const folder = mkdtempSync(join(tmpdir(), 'casemate-isolation-'));
    afterAll(() => rmSync(folder, { recursive: true }));

    beforeAll(async () => {
      server = await serve(async (request, body, response) => {
        const target = String(request.headers['x-amz-target'] ?? '');
        const answer = (text: unknown, status = 200): void => {
          response.writeHead(status).end(typeof text === 'string' ? text : JSON.stringify(text));
        };
        if (target.endsWith('.BatchGetItem')) {
          const [[name, { Keys }]] = Object.entries(JSON.parse(body).RequestItems) as [
            [string, { Keys: Parameters<typeof unmarshall>[0][] }],
          ];
          const found = Keys.map((key) => rows.get(String(unmarshall(key)['pk']))).filter((row) => row);
          const all = found.map((row) => marshall(row, { removeUndefinedValues: true }));
          return answer({ Responses: { [name]: all }, UnprocessedKeys: {} });
        }
        if (target.endsWith('.Scan')) {
          const found = [...rows.values()].filter((row) => String(row['pk']).startsWith('guard#'));
          const all = found.map((row) => marshall(row, { removeUndefinedValues: true }));
          return answer({ Count: all.length, Items: all });
        }
        if (target.endsWith('.PutItem')) {
          meanwhile?.();
          meanwhile = undefined;
          const { Item, ConditionExpression, ExpressionAttributeValues } = JSON.parse(body);
          const item = unmarshall(Item);
          const there = rows.get(String(item['pk']));
          const read = ExpressionAttributeValues && unmarshall(ExpressionAttributeValues)[':read'];
          const holds = ConditionExpression.startsWith('attribute_not_exists')
            ? !there
            : there?.['version'] === read;
          if (!holds) return answer({ __type: 'ConditionalCheckFailedException', message: 'failed' }, 400);
          rows.set(String(item['pk']), item);
          return answer({});
        }
        if (target.endsWith('.PutEvents')) {
          const { Entries } = JSON.parse(body) as Posted;
          posted.push(...Entries);
          act();
          return answer({ FailedEntryCount: 0, Entries: Entries.map((_, i) => ({ EventId: `e-${i}` })) });
        }
        const query = new URLSearchParams(body);
        switch (query.get('Action')) {
          case 'GetCallerIdentity':
            return answer(
              `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>${ADA}</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`,
            );
          case 'DescribeAddresses':
            return answer(
              `<DescribeAddressesResponse><addressesSet><item><allocationId>eipalloc-00000001</allocationId>
              <associationId>eipassoc-00000001</associationId><networkInterfaceId>${anInterface().id}</networkInterfaceId>
              <privateIpAddress>10.0.0.7</privateIpAddress></item></addressesSet></DescribeAddressesResponse>`,
            );
          case 'DescribeNetworkInterfaces':
            return answer(
              `<DescribeNetworkInterfacesResponse><networkInterfaceSet><item>
              <networkInterfaceId>${anInterface().id}</networkInterfaceId><vpcId>vpc-0a1b2c3d4e5f60718</vpcId>
              <groupSet><item><groupId>sg-0000aaaa</groupId></item><item><groupId>sg-0000bbbb</groupId></item></groupSet>
              <attachment><instanceId>${VM_ID}</instanceId></attachment>
            </item></networkInterfaceSet></DescribeNetworkInterfacesResponse>`,
            );
          case 'DescribeSecurityGroups': {
            if (query.get('Filter.1.Name') === 'vpc-id') {
              // Somebody opened the group of quarantine to the inside.
              return answer(
                `<DescribeSecurityGroupsResponse><securityGroupInfo>${opened ? OPENED : ''}</securityGroupInfo></DescribeSecurityGroupsResponse>`,
              );
            }
            const ids = [...query]
              .filter(([key, value]) => key.includes('.Value.') && value.startsWith('sg-'))
              .map(([, value]) => value);
            const there = ids.filter((id) => !deleted.has(id));
            return answer(
              `<DescribeSecurityGroupsResponse><securityGroupInfo>${there.map((id) => `<item><groupId>${id}</groupId></item>`).join('')}</securityGroupInfo></DescribeSecurityGroupsResponse>`,
            );
          }
          default: {
            const outputs = {
              TableName: 'state',
              Mode: mode,
              BusName: 'casemate',
              ...(containment ? { Containment: JSON.stringify(containment) } : {}),
            };
            const members = Object.entries(outputs).map(
              ([key, value]) =>
                `<member><OutputKey>${key}</OutputKey><OutputValue>${value}</OutputValue></member>`,
            );
            return answer(
              `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>Casemate</StackName>
            <Outputs>${members.join('')}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`,
            );
          }
        }
      });
    });
    afterAll(() => server.close());

    const put = (...items: (Row & { pk: string })[]) => {
      for (const item of items) rows.set(item.pk, item);
    };
    beforeEach(() => {
      rows = new Map();
      posted = [];
      deleted = new Set();
      meanwhile = undefined;
      mode = 'enforce';
      containment = undefined;
      opened = false;
      put(aVm(), aPosture({ validUntil: new Date(Date.now() + 900_000).toISOString() }), anIsolation());
      act = () => put(contained());
    });
    const contained = (overrides: Parameters<typeof anIsolation>[0] = {}) =>
      anIsolation({
        profile: 'quarantine',
        reasons: ['OPERATOR_QUARANTINE'],
        interfaces: [
          { id: anInterface().id, originals: ['sg-0000aaaa', 'sg-0000bbbb'], groups: [QUARANTINE] },
        ],
        ...overrides,
      });

    async function run(...args: string[]) {
      const child = spawn(process.execPath, ['--no-warnings', CLI, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          PATH: process.env['PATH'],
          AWS_REGION: 'eu-west-1',
          AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
          AWS_SECRET_ACCESS_KEY: 'secret',
          AWS_ENDPOINT_URL: server.url,
          AWS_MAX_ATTEMPTS: '1',
        },
      });
      let [stdout, stderr] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk));
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk));
      const [status] = (await once(child, 'close')) as [number];
      return { status, stdout, stderr };
    }
    const stored = () => rows.get(`operator#${VM_ID}`);

    test('quarantine stores who and why, says so on the bus, and waits until it was read back', async () => {
      const { status, stdout } = await run('quarantine', VM_ID, '--reason', 'seen scanning');
      expect([status, stdout]).toEqual([0, expect.stringContaining('quarantine on every interface after')]);
      expect(stdout).toContain(`${anInterface().id} ${QUARANTINE}: read back in quarantine`);
      expect(stored()).toMatchObject({ quarantine: { by: ADA, reason: 'seen scanning' } });
      expect(posted.map((e) => e.DetailType)).toEqual(['Operator Decided']);
      expect(JSON.parse(posted[0]?.Detail ?? '')).toMatchObject({ what: 'quarantine', by: ADA });
    });

    test('quarantine --json prints one document', async () => {
      const { stdout } = await run('quarantine', VM_ID, '--reason', 'x', '--json');
      expect(JSON.parse(stdout)).toMatchObject({ id: VM_ID, profile: 'quarantine', applied: true });
    });

    test('quarantine of what another operator contained tells who and why, and stores nothing', async () => {
      put(anOperator(), contained());
      const { status, stdout } = await run('quarantine', VM_ID, '--reason', 'mine');
      expect(status).toBe(0);
      expect(stdout).toContain(`${anOperator().quarantine?.by} contained it at`);
      expect(stdout).toContain('because: seen scanning');
      expect([stored(), posted]).toEqual([anOperator(), []]);
    });

    test('of two operators at once one wins, and the other is told who and why', async () => {
      const other = anOperator({ quarantine: undefined, hold: DECISION });
      meanwhile = () => put(other);
      const { status, stderr } = await run('quarantine', VM_ID, '--reason', 'mine');
      expect(status).toBe(1);
      expect(stderr).toContain(`${other.history[0]?.by} decided "quarantine"`);
      expect(stderr).toContain('because: seen scanning');
      expect([stored(), posted]).toEqual([other, []]);
    });

    test('quarantine that does not come through in time says what is left, with status 1', async () => {
      act = () => put(contained({ applied: false, reasons: ['OPERATOR_QUARANTINE', 'NO_GROUPS_IN_VPC'] }));
      const { status, stderr } = await run('quarantine', VM_ID, '--reason', 'x', '--timeout', '1');
      expect(status).toBe(1);
      expect(stderr).toContain('is not in quarantine on every interface');
      expect(stderr).toContain('NO_GROUPS_IN_VPC: The security groups of Casemate could not be made');
    });

    test('quarantine in observe mode says at once that nothing is changed', async () => {
      mode = 'observe';
      act = () => put(contained({ mode: 'observe', applied: false }));
      const { status, stderr } = await run('quarantine', VM_ID, '--reason', 'x');
      expect([status, stderr]).toEqual([
        1,
        expect.stringContaining('in observe mode no interface is changed'),
      ]);
    });

    test('restore takes the quarantine back and waits for the groups', async () => {
      put(anOperator(), contained());
      act = () => put(anIsolation());
      const { status, stdout } = await run('restore', VM_ID, '--reason', 'false alarm');
      expect([status, stdout]).toEqual([0, expect.stringContaining('workload on every interface')]);
      expect(stored()).not.toHaveProperty('quarantine');
      expect(stored()).toMatchObject({ history: [{ what: 'restore', by: ADA }, { what: 'quarantine' }] });
    });

    test('restore tells what was deleted since and does nothing without an answer', async () => {
      put(anOperator(), contained());
      deleted.add('sg-0000bbbb');
      const { status, stdout, stderr } = await run('restore', VM_ID, '--reason', 'x');
      expect([status, stderr]).toEqual([1, expect.stringContaining('say --yes')]);
      expect(stdout).toContain('of these sg-0000bbbb was deleted since');
      expect(stored()).toEqual(anOperator());
    });

    test('restore --yes leaves out what was deleted', async () => {
      put(anOperator(), contained());
      deleted.add('sg-0000bbbb');
      act = () => put(anIsolation());
      expect(await run('restore', VM_ID, '--reason', 'x', '--yes')).toMatchObject({ status: 0 });
      expect(stored()).toMatchObject({ workloadGroups: { [anInterface().id]: ['sg-0000aaaa'] } });
    });

    test('restore of a VM that its posture keeps contained says so, with status 1', async () => {
      put(anOperator(), contained(), aPosture({ verdict: 'noncompliant', reasons: ['SNP_NOT_SHOWN'] }));
      act = () => put(contained({ reasons: ['SNP_NOT_SHOWN'] }));
      const { status, stderr } = await run('restore', VM_ID, '--reason', 'x');
      expect([status, stderr]).toEqual([1, expect.stringContaining('its posture keeps it in quarantine')]);
      expect(stderr).toContain('SNP_NOT_SHOWN');
    });

    test('restore of what no operator contained says why it is where it is', async () => {
      const { status, stderr } = await run('restore', VM_ID, '--reason', 'x');
      expect([status, stderr]).toEqual([
        1,
        expect.stringContaining('no operator contained it. POSTURE_PROVEN'),
      ]);
      expect(stored()).toBeUndefined();
    });

    test('plan shows each call and makes none', async () => {
      const { status, stdout } = await run('plan', VM_ID, '--profile', 'quarantine', '--json');
      expect(status).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({
        profile: 'quarantine',
        mode: 'enforce',
        calls: expect.arrayContaining([
          {
            call: 'ec2:CreateSecurityGroup',
            parameters: { GroupName: 'casemate-quarantine', VpcId: 'vpc-0a1b2c3d4e5f60718' },
          },
          {
            call: 'ec2:ModifyNetworkInterfaceAttribute',
            parameters: { NetworkInterfaceId: anInterface().id, Groups: ['casemate-quarantine'] },
          },
        ]),
      });
      expect(posted).toEqual([]);
    });

    test.each(['enforce', 'observe'])(
      'plan shows repairs of rules and every step, in %s, too',
      async (how) => {
        mode = how;
        containment = EVERY_STEP;
        opened = true;
        put(aVm({ observation: { autoScalingGroup: 'web' } }));
        const { stdout } = await run('plan', VM_ID, '--profile', 'quarantine', '--json');
        const { calls } = JSON.parse(stdout) as {
          calls: { call: string; parameters: Record<string, unknown> }[];
        };
        const repair = calls.find(({ call }) => call === 'ec2:RevokeSecurityGroupIngress');
        expect(repair?.parameters).toMatchObject({ GroupId: QUARANTINE, IpPermissions: [{ FromPort: 22 }] });
        const steps = calls.slice(calls.findIndex(({ call }) => call === 'autoscaling:EnterStandby'));
        const eni = anInterface().id;
        expect(steps.map(({ call, parameters }) => [call, parameters['Groups'] ?? ''])).toEqual([
          ['autoscaling:EnterStandby', ''],
          ['ec2:ModifyNetworkInterfaceAttribute', [QUARANTINE]],
          ['ec2:DisassociateAddress', ''],
          ['ec2:ModifyNetworkInterfaceAttribute', ['casemate-cut']],
          ['ec2:ModifyNetworkInterfaceAttribute', [QUARANTINE]],
          ['iam:PutRolePolicy', ''],
        ]);
        expect(steps[1]?.parameters['NetworkInterfaceId']).toBe(eni);
      },
    );

    test.each([
      ['composes under the quotas that were read', 2],
      ['says what an interface does not take', 1],
    ])('plan %s', async (_, groupsPerInterface) => {
      const profiles = join(folder, 'profiles.json');
      const open = { ports: 22, peer: { cidr: '10.9.0.4/32' } };
      const quarantine = { egress: [open], ingress: [open] };
      writeFileSync(
        profiles,
        JSON.stringify({
          schemaVersion: 1,
          profiles: { probation: {}, workload: { originals: true }, quarantine },
        }),
      );
      rows.set(QUOTA_PK, {
        pk: QUOTA_PK,
        version: 1,
        ...quotaItemOf({ groupsPerInterface, rulesPerGroup: 60 }, new Date()),
      });
      const { stdout } = await run(
        'plan',
        VM_ID,
        '--profile',
        'quarantine',
        '--profiles',
        profiles,
        '--json',
      );
      const { calls, reasons } = JSON.parse(stdout) as {
        reasons: string[];
        calls: { call: string; parameters: Record<string, unknown> }[];
      };
      const set = calls.find(({ call }) => call === 'ec2:ModifyNetworkInterfaceAttribute');
      const both = ['casemate-quarantine', 'casemate-quarantine.in1'];
      expect(set?.parameters['Groups']).toEqual(both.slice(0, groupsPerInterface));
      expect(reasons).toEqual(groupsPerInterface < 2 ? ['PROFILE_OVER_QUOTA'] : []);
    });

    test('plan of a VM that is where it belongs changes no interface', async () => {
      const { stdout } = await run('plan', VM_ID);
      expect(stdout).toContain('workload (enforce)');
      expect(stdout).not.toContain('ModifyNetworkInterfaceAttribute');
    });

    test('guard open lets policy go on for a while, and guard list shows who said so', async () => {
      const contained = [{ instanceId: VM_ID, at: AT }];
      const guard = { pk: 'guard#vpc/vpc-1', version: 3, scope: 'vpc/vpc-1', contained, reachedAt: AT };
      put(guard);
      expect(await run('guard', 'open', 'vpc/vpc-1', '--reason', 'known rollout')).toMatchObject({
        status: 0,
      });
      expect(rows.get(guard.pk)).toMatchObject({
        version: 4,
        contained,
        open: { by: ADA, reason: 'known rollout' },
      });
      const { stdout } = await run('guard', 'list');
      expect(stdout).toContain(`vpc/vpc-1  reached at ${AT}: VMs wait`);
      expect(stdout).toContain(`by ${ADA}: known rollout`);
      expect(stdout).toContain(`${VM_ID} contained at ${AT}`);
    });

    test('tenant confirms what the tag says, and nothing else', async () => {
      put(aVm({ observation: { tags: { 'casemate:tenant': 'umbrella' } } }));
      expect(await run('tenant', VM_ID, 'acme', '--reason', 'x')).toMatchObject({
        status: 1,
        stderr: expect.stringContaining('is not tagged casemate:tenant=acme, but umbrella'),
      });
      expect(await run('tenant', VM_ID, 'umbrella', '--reason', 'moved')).toMatchObject({ status: 0 });
      expect(stored()).toMatchObject({ tenant: { tenant: 'umbrella', by: ADA, reason: 'moved' } });
      expect(posted.map((e) => e.DetailType)).toEqual(['Operator Decided']);
    });

    test.each<[string, string[], RegExp]>([
      ['no reason', ['quarantine', VM_ID], /required option '--reason/],
      ['a reason without a word', ['quarantine', VM_ID, '--reason', ' '], /--reason takes a text/],
      ['no VM', ['quarantine', 'vol-00000001', '--reason', 'x'], /is not an instance id/],
      ['a demand without a reason', ['policy', 'relax', VM_ID], /--reason/],
      ['a guard of nothing', ['guard', 'open', 'vpc-1', '--reason', 'x'], /is no scope/],
      ['an unknown profile', ['plan', VM_ID, '--profile', 'open'], /Allowed choices are probation/],
      [
        'groups that are none',
        ['restore', VM_ID, '--reason', 'x', '--groups', 'eni-1=web'],
        /it is eni-…=sg-…/,
      ],
      [
        'groups for an interface that has its own',
        ['restore', VM_ID, '--reason', 'x', '--groups', `${anInterface().id}=sg-0000cccc`],
        /has groups to be given back/,
      ],
    ])('%s is wrong usage', async (_, args, says) => {
      put(anOperator(), contained());
      const { status, stderr } = await run(...args);
      expect([status, stderr]).toEqual([2, expect.stringMatching(says)]);
    });

    test('policy relax confirms exactly what the tags no longer demand', async () => {
      const demands = { standing: ['iommu', 'smt-off'], fewerSince: AT };
      put(aVm({ demands, observation: { tags: { 'casemate:require': 'iommu' } } }));
      const { status, stdout } = await run('policy', 'relax', VM_ID, '--reason', 'moved');
      expect([status, stdout]).toEqual([0, expect.stringContaining('may go without smt-off')]);
      expect(stored()?.demandLess).toMatchObject({ by: ADA, reason: 'moved', requirements: ['smt-off'] });
    });

    test('policy relax confirms nothing ahead of the tags, with status 1', async () => {
      const demands = { standing: ['iommu'], fewerSince: null };
      put(aVm({ demands, observation: { tags: { 'casemate:require': 'iommu' } } }));
      const { status, stderr } = await run('policy', 'relax', VM_ID, '--reason', 'moved');
      expect([status, stderr]).toEqual([1, expect.stringContaining('take a demand from them first')]);
      expect(stored()).toBeUndefined();
    });
  },
);

describe('what changed since an interface was taken', () => {
  const ENI = anInterface().id;
  const record = { id: ENI, originals: ['sg-0000aaaa', 'sg-0000bbbb'], groups: [QUARANTINE] };
  const changed = (overrides: object, missing: string[] = [], attached = [ENI], named = {}) =>
    changedSince([{ ...record, ...overrides }], new Set(attached), new Set(missing), named);
  test('is nothing where every group is there', () => {
    expect(changed({})).toEqual([]);
    expect(changed({ originals: null })).toEqual([]);
  });
  test('is a group that was deleted, and what is left of them', () => {
    expect(changed({}, ['sg-0000bbbb'])).toMatchObject([{ interfaceId: ENI, gets: ['sg-0000aaaa'] }]);
    expect(changed({}, ['sg-0000aaaa', 'sg-0000bbbb'])).toMatchObject([{ gets: [] }]);
  });
  test('is an interface that was detached, which can wait', () => {
    expect(changed({}, [], [])).toMatchObject([{ text: expect.stringContaining('not attached any more') }]);
  });
  test('is an interface that started fenced, unless groups were named for it', () => {
    expect(changed({ originals: [] })).toMatchObject([{ gets: [] }]);
    expect(changed({ originals: [] }, [], [ENI], { [ENI]: ['sg-0000aaaa'] })).toEqual([]);
  });
});

describe('steps that are planned beyond groups', () => {
  test('take back what was done, once a VM is out of quarantine', () => {
    const at = AT;
    const standby: StandbyStep = {
      kind: 'standby',
      autoScalingGroup: 'web',
      replaced: true,
      state: 'done',
      at,
    };
    const address: AddressStep = {
      kind: 'elastic-ip',
      interfaceId: anInterface().id,
      allocationId: 'eipalloc-00000001',
      privateAddress: '10.0.0.7',
      state: 'done',
      at,
    };
    const facts = { vm: aVm(), isolation: anIsolation({ steps: [standby, address] }) };
    const free = [{ allocationId: address.allocationId, association: undefined }];
    const { before, after } = planSteps(facts, EVERY_STEP, 'workload', [anInterface()], free, new Date(AT));
    expect(before).toEqual([]);
    expect(after.map(({ call }) => call)).toEqual(['ec2:AssociateAddress', 'autoscaling:ExitStandby']);
  });
});
