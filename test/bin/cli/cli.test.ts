import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { marshall } from '@aws-sdk/util-dynamodb';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { runningLocally } from '../../../bin/cli/connection.ts';
import { fleetTable } from '../../../bin/cli/table.ts';
import { viewOf } from '../../../bin/cli/view.ts';
import { POLICY_FOLDER } from '../../../lib/constructs/policies.ts';
import type { VmRecord } from '../../../lib/domain/convergence.ts';
import { serve } from '../../agent/harness.ts';
import { fact } from '../../world/agent.ts';
import {
  AT,
  aDisk,
  aGeneration,
  anInterface,
  anIsolation,
  aPosture,
  aVm,
  aVolume,
  DISK,
  later,
  NOW,
  VM_ID,
} from '../../world/items.ts';

// Each command is a process of its own.
jest.setTimeout(60_000);

const record = (overrides: Partial<VmRecord> = {}): VmRecord => ({
  vm: aVm({ observation: { volumes: [aVolume({ id: 'vol-00000001', root: true }), aVolume()] } }),
  disks: new Map([[aVolume().id, aDisk()]]),
  posture: aPosture({ facts: [fact('mem.swap', 'absent'), fact('virt.hypervisor', 'present', 'KVMKVMKVM')] }),
  isolation: anIsolation(),
  operator: undefined,
  ...overrides,
});

describe('a VM in a listing', () => {
  test('has exactly the shape that --json promises', () => {
    const { posture, ...view } = viewOf(record(), NOW);
    expect(view).toEqual({
      id: VM_ID,
      state: 'running',
      inScope: true,
      volumes: [
        { id: 'vol-00000001', covered: false, reason: 'ROOT_VOLUME', disk: null, keys: [] },
        { id: aVolume().id, covered: true, disk: DISK, keys: [{ generation: 1, state: 'issued' }] },
      ],
      isolation: {
        profile: 'workload',
        applied: true,
        interfaces: [{ id: anInterface().id, groups: ['sg-0000aaaa', 'sg-0000bbbb'] }],
      },
    });
    expect(posture).toMatchObject({ verdict: 'compliant', reasons: ['POSTURE_PROVEN'] });
    expect(posture.facts['virt.hypervisor']).toEqual({
      state: 'present',
      source: 'claimed',
      value: 'KVMKVMKVM',
    });
    expect(posture.facts['ec2.amd-sev-snp']).toEqual({ state: 'unknown', source: 'asserted' });
    expect(Object.keys(posture).sort()).toEqual(['facts', 'reasons', 'verdict']);
  });

  test('tells no wrapped key', () => {
    expect(JSON.stringify(viewOf(record(), NOW))).not.toContain(aGeneration().wrappedKey);
  });

  test('shows what a posture is worth now', () => {
    expect(viewOf(record(), later(901)).posture).toMatchObject({
      verdict: 'unproven',
      reasons: ['REPORT_STALE'],
    });
    expect(viewOf(record({ posture: undefined }), NOW).posture).toMatchObject({
      verdict: 'unproven',
      reasons: ['NO_REPORT'],
    });
  });

  test('shows a VM out of scope as left alone, with the reason', () => {
    const vm = aVm({ managed: false, decision: { at: AT, reasons: ['NOT_IN_SCOPE'], policies: [] } });
    const view = viewOf(
      { vm, disks: new Map(), posture: undefined, isolation: undefined, operator: undefined },
      NOW,
    );
    expect(view).toMatchObject({
      inScope: false,
      volumes: [{ covered: false, reason: 'VM_NOT_MANAGED', keys: [] }],
      isolation: { profile: null, applied: false, interfaces: [{ groups: ['sg-0000aaaa', 'sg-0000bbbb'] }] },
      posture: { verdict: 'not-managed', reasons: ['NOT_IN_SCOPE'], facts: {} },
    });
  });

  test.each([
    ['AWAITING_ADOPTION', aVolume({ snapshotId: 'snap-00000001' }), undefined],
    ['DISK_MOVED', aVolume(), aDisk({ instanceId: 'i-00000002' })],
    ['MULTI_ATTACH_VOLUME', aVolume({ multiAttach: true }), undefined],
  ])('says %s of a volume', (reason, volume, disk) => {
    const vm = aVm({ observation: { volumes: [volume] } });
    const disks = new Map(disk ? [[volume.id, disk]] : []);
    expect(viewOf(record({ vm, disks }), NOW).volumes).toMatchObject([{ id: volume.id, reason }]);
  });

  test('keeps a detached volume and its key in sight', () => {
    const vm = aVm({ observation: { volumes: [] } });
    expect(viewOf(record({ vm }), NOW).volumes).toEqual([
      {
        id: aVolume().id,
        covered: true,
        reason: 'DETACHED',
        disk: DISK,
        keys: [{ generation: 1, state: 'issued' }],
      },
    ]);
  });

  test('stands in the table in words, one row a VM, in the order of ids', () => {
    const other = aVm({ observation: { instanceId: 'i-00000001', volumes: [] }, managed: false });
    const views = [
      viewOf(record({ isolation: anIsolation({ profile: 'probation', applied: false }) }), NOW),
      viewOf(
        { vm: other, disks: new Map(), posture: undefined, isolation: undefined, operator: undefined },
        NOW,
      ),
    ];
    const text = fleetTable(views, new PassThrough() as never);
    expect(text.indexOf('i-00000001')).toBeLessThan(text.indexOf(VM_ID));
    for (const words of [
      'key 1 issued',
      'not covered: ROOT_VOLUME',
      'probation (not applied)',
      'left alone',
    ]) {
      expect(text).toContain(words);
    }
  });
});

const CLI = fileURLToPath(new URL('../../../bin/casemate-cli.js', import.meta.url));
const local = runningLocally() !== undefined;
const inAws = local ? describe.skip : describe;

inAws(
  `casemate${local ? ': skipped: an embedded cloud runs in this project and would be asked' : ''}`,
  () => {
    let server: Awaited<ReturnType<typeof serve>>;
    let rows: Record<string, unknown>[] = [];
    beforeAll(async () => {
      server = await serve((request, body, response) => {
        if (request.headers['x-amz-target'] === 'DynamoDB_20120810.Scan') {
          const Items = rows.map((row) => marshall(row, { removeUndefinedValues: true }));
          response.writeHead(200).end(JSON.stringify({ Count: Items.length, Items }));
          return;
        }
        if (request.headers['x-amz-target'] === 'DynamoDB_20120810.BatchGetItem') {
          const { RequestItems } = JSON.parse(body) as {
            RequestItems: { state: { Keys: { pk: { S: string } }[] } };
          };
          const asked = RequestItems.state.Keys.map((key) => key.pk.S);
          const state = rows
            .filter((row) => asked.includes(String(row['pk'])))
            .map((row) => marshall(row, { removeUndefinedValues: true }));
          response.writeHead(200).end(JSON.stringify({ Responses: { state } }));
          return;
        }
        const stack = new URLSearchParams(body).get('StackName');
        if (stack !== 'Casemate') {
          response
            .writeHead(400)
            .end(
              `<ErrorResponse><Error><Code>ValidationError</Code><Message>Stack ${stack} does not exist</Message></Error></ErrorResponse>`,
            );
          return;
        }
        const outputs = { TableName: 'state', Mode: 'enforce' };
        const members = Object.entries(outputs).map(
          ([key, value]) =>
            `<member><OutputKey>${key}</OutputKey><OutputValue>${value}</OutputValue></member>`,
        );
        response.writeHead(200).end(
          `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>Casemate</StackName>
         <CreationTime>${AT}</CreationTime><StackStatus>CREATE_COMPLETE</StackStatus>
         <Outputs>${members.join('')}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`,
        );
      });
      const decided = {
        at: later(2).toISOString(),
        verdict: 'compliant' as const,
        reasons: ['POSTURE_PROVEN'],
        policies: ['posture.reported'],
      };
      rows = [
        record().vm,
        aDisk(),
        { pk: `disk#${aVolume().id}`, disk: DISK },
        aPosture({
          decisions: [decided],
          refusals: { count: 2, last: { at: later(3).toISOString(), reason: 'REPORT_TIME_SKEW' } },
          validUntil: new Date(Date.now() + 900_000).toISOString(),
        }),
        anIsolation({
          decisions: [
            { at: later(1).toISOString(), profile: 'workload', mode: 'enforce', reasons: ['POSTURE_PROVEN'] },
          ],
        }),
        {
          pk: `release#${VM_ID}`,
          version: 1,
          instanceId: VM_ID,
          decisions: [
            {
              at: later(4).toISOString(),
              disk: DISK,
              generation: 1,
              outcome: 'refused',
              mode: 'enforce',
              reasons: ['OPERATOR_HOLD'],
              policies: ['release.held'],
            },
          ],
          marks: [],
        },
      ];
    });
    afterAll(() => server.close());

    const environment = () => ({
      PATH: process.env['PATH'],
      AWS_REGION: 'eu-west-1',
      AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
      AWS_SECRET_ACCESS_KEY: 'secret',
      AWS_ENDPOINT_URL: server.url,
      AWS_MAX_ATTEMPTS: '1',
    });
    /** Not synchronous: the server that answers lives in this very process. */
    async function run(...args: string[]) {
      const child = spawn(process.execPath, ['--no-warnings', CLI, ...args], { env: environment() });
      let [stdout, stderr] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk));
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk));
      const [status] = (await once(child, 'close')) as [number];
      return { status, stdout, stderr };
    }

    test('vms --json prints one document and nothing else', async () => {
      const { status, stdout, stderr } = await run('vms', '--json');
      expect([status, stderr]).toEqual([0, '']);
      const { vms } = JSON.parse(stdout) as { vms: unknown[] };
      expect(vms).toHaveLength(1);
      expect(vms[0]).toMatchObject({ id: VM_ID, posture: { verdict: 'compliant' } });
    });

    test('vms prints a table without colours into a pipe', async () => {
      const { status, stdout } = await run('vms');
      expect([status, stdout]).toEqual([0, expect.stringContaining(VM_ID)]);
      expect(stdout).not.toContain('\u001b');
    });

    test('show tells everything of one VM', async () => {
      const { stdout } = await run('show', VM_ID);
      for (const words of ['m6a.large', 'casemate:protect=true', 'converged  yes', '1 in boot', 'facts']) {
        expect(stdout).toContain(words);
      }
      const json = JSON.parse((await run('show', VM_ID, '--json')).stdout) as Record<string, unknown>;
      expect(json).toMatchObject({ id: VM_ID, divergences: [], observation: { instanceId: VM_ID } });
    });

    test('policy simulate tells who would change, and why', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'casemate-policies-'));
      cpSync(POLICY_FOLDER, folder, { recursive: true });
      writeFileSync(
        join(folder, 'mine.cedar'),
        '@id("mine") @reason("MINE") forbid (principal, action == Casemate::Action::"Manage", resource);',
      );
      const { status, stdout } = await run('policy', 'simulate', '--policies', folder);
      rmSync(folder, { recursive: true });
      expect(status).toBe(0);
      expect(stdout).toContain(
        `${VM_ID}: scope\n  live       in scope, IN_SCOPE, by scope.tagged\n  candidate  leaving scope, MINE, by mine\n`,
      );
      expect(stdout).toMatch(/1 changes over 1 VMs\n$/);
      const { stdout: same } = await run('policy', 'simulate', '--json');
      expect(JSON.parse(same)).toEqual({ vms: 1, changes: [] });
    });

    test('explain tells the decisions newest first, with meanings, policies and the last refusal', async () => {
      const { status, stdout } = await run('explain', VM_ID);
      expect(status).toBe(0);
      const places = ['posture compliant', 'profile workload (enforce)', 'in scope'].map((w) =>
        stdout.indexOf(w),
      );
      expect(places).toEqual(places.toSorted((a, b) => a - b));
      expect(places[0]).toBeGreaterThanOrEqual(0);
      for (const words of [
        'POSTURE_PROVEN: Every condition for leaving probation holds.',
        'policies: posture.reported',
        `key for ${aVolume().id} (${DISK})`,
        'last of 2 refused reports',
        'REPORT_TIME_SKEW: The report was sent more than five minutes',
        'OPERATOR_HOLD: ',
        'policies: release.held',
      ]) {
        expect(stdout).toContain(words);
      }
      const { decisions, refusals } = JSON.parse((await run('explain', VM_ID, '--json')).stdout) as {
        decisions: { at: string }[];
        refusals: object;
      };
      expect(decisions).toHaveLength(5);
      expect(decisions.map((d) => d.at)).toEqual(
        decisions
          .map((d) => d.at)
          .toSorted()
          .reverse(),
      );
      expect(refusals).toMatchObject({ count: 2 });
    });

    test.each<[string, string[], number, RegExp]>([
      ['a VM that nobody observed', ['show', 'i-000000ff'], 1, /i-000000ff was not observed/],
      [
        'a stack that there is not',
        ['--stack', 'Other', 'vms'],
        1,
        /stack Other cannot be read.*does not exist/,
      ],
      ['something that is no VM', ['explain', 'vol-00000001'], 2, /vol-00000001 is not an instance id/],
      ['two options that exclude each other', ['vms', '--json', '--watch'], 2, /do not go together/],
    ])('%s', async (_, args, code, says) => {
      const { status, stdout, stderr } = await run(...args);
      expect([status, stdout, stderr]).toEqual([code, '', expect.stringMatching(says)]);
      expect(stderr).not.toMatch(/\n\s+at /);
    });

    test('ends quietly when nobody reads on', async () => {
      rows.push(
        ...Array.from({ length: 400 }, (_, i) => {
          const instanceId = `i-${i.toString(16).padStart(8, '0')}`;
          return aVm({ observation: { instanceId } });
        }),
      );
      const child = spawn(
        'sh',
        ['-c', `"$0" --no-warnings "$1" vms --json | head -c 10`, process.execPath, CLI],
        {
          env: environment(),
        },
      );
      let [stdout, stderr] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk));
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk));
      await once(child, 'close');
      expect([stdout, stderr]).toEqual(['{\n  "vms":', '']);
    });
  },
);

describe('the words of the command line', () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ['--no-warnings', CLI, ...args], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'] },
    });
  test.each<[string, string[], number, RegExp]>([
    ['help is no fault', ['--help'], 0, /Usage: casemate/],
    ['nothing to do', [], 2, /Usage: casemate/],
    ['an unknown command', ['vm'], 2, /unknown command 'vm'/],
    ['an unknown option', ['vms', '--jsno'], 2, /unknown option '--jsno'/],
    [
      'interfaces that are no number',
      ['local', 'launch', '--interfaces', 'two'],
      2,
      /--interfaces takes a number/,
    ],
    ['a machine that there is not', ['local', 'launch', '--machine', 'zx81'], 2, /no recorded machine zx81/],
  ])('%s', (_, args, code, says) => {
    const { status, stdout, stderr } = run(...args);
    expect([status, stdout + stderr]).toEqual([code, expect.stringMatching(says)]);
  });
});
