import { spawn } from 'node:child_process';
import { constants, generateKeyPairSync, privateDecrypt, publicEncrypt } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { marshall, unmarshall } from '@aws-sdk/util-dynamodb';
import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { runningLocally } from '../../../bin/cli/connection.ts';
import { serve } from '../../agent/harness.ts';
import { AT, aDisk, aGeneration, aVm, aVolume, DISK, VM_ID } from '../../world/items.ts';

const CLI = fileURLToPath(new URL('../../../bin/casemate-cli.js', import.meta.url));
const ADA = 'arn:aws:iam::123456789012:user/ada';
const RECOVERY_KEY = 'cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv';
const local = runningLocally() !== undefined;
const inAws = local ? describe.skip : describe;
const pair = generateKeyPairSync('rsa', { modulusLength: 2048 });
const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' } as const;

// Each test starts the command line as a process, which takes seconds on a machine that is busy.
jest.setTimeout(60_000);

type Row = Record<string, unknown>;

inAws(`operators of keys${local ? ': skipped: an embedded cloud runs in this project' : ''}`, () => {
  let server: Awaited<ReturnType<typeof serve>>;
  let rows: Map<string, Row>;
  /** What happened, in order. */
  let events: string[];

  beforeAll(async () => {
    server = await serve(async (request, body, response) => {
      const call = String(request.headers['x-amz-target'] ?? '').replace(/^.*\./, '');
      const answer = (text: unknown): void => {
        response.end(typeof text === 'string' ? text : JSON.stringify(text));
      };
      const all = (found: Row[]) => found.map((row) => marshall(row, { removeUndefinedValues: true }));
      switch (call) {
        case 'Scan':
          return answer({ Items: all([...rows.values()]), Count: rows.size });
        case 'BatchGetItem': {
          const [[name, { Keys }]] = Object.entries(JSON.parse(body).RequestItems) as [
            [string, { Keys: Parameters<typeof unmarshall>[0][] }],
          ];
          const found = Keys.flatMap((key): Row[] => {
            const row = rows.get(String(unmarshall(key)['pk']));
            return row ? [row] : [];
          });
          return answer({ Responses: { [name]: all(found) }, UnprocessedKeys: {} });
        }
        case 'PutItem': {
          const item = unmarshall(JSON.parse(body).Item);
          rows.set(String(item['pk']), item);
          events.push(`put ${item['pk']}`);
          return answer({});
        }
        case 'PutEvents': {
          const { Entries } = JSON.parse(body) as { Entries: { Detail: string }[] };
          for (const { Detail } of Entries) events.push(`said ${JSON.parse(Detail).what}`);
          return answer({ FailedEntryCount: 0, Entries: Entries.map((_, i) => ({ EventId: `e-${i}` })) });
        }
        case 'Decrypt': {
          const { CiphertextBlob, EncryptionAlgorithm } = JSON.parse(body);
          events.push(`decrypt ${EncryptionAlgorithm}`);
          const key = privateDecrypt(
            { key: pair.privateKey, ...oaep },
            Buffer.from(CiphertextBlob, 'base64'),
          );
          return answer({ Plaintext: key.toString('base64') });
        }
      }
      if (new URLSearchParams(body).get('Action') === 'GetCallerIdentity') {
        return answer(
          `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>${ADA}</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`,
        );
      }
      const outputs = {
        TableName: 'state',
        Mode: 'enforce',
        BusName: 'casemate',
        RecoveryKeyArn: 'arn:aws:kms:::key/r',
      };
      const members = Object.entries(outputs).map(
        ([key, value]) => `<member><OutputKey>${key}</OutputKey><OutputValue>${value}</OutputValue></member>`,
      );
      return answer(
        `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>Casemate</StackName><Outputs>${members.join('')}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`,
      );
    });
  });
  afterAll(() => server.close());

  beforeEach(() => {
    rows = new Map();
    events = [];
    const sealed = publicEncrypt({ key: pair.publicKey, ...oaep }, Buffer.from(RECOVERY_KEY)).toString(
      'base64',
    );
    const disk = aDisk({
      generations: [aGeneration({ state: 'active', confirmedAt: AT })],
      recoveryKeys: [{ at: AT, generation: 1, sealed }],
    });
    const pointer = { pk: `disk#${aVolume().id}`, disk: DISK };
    const releases = {
      pk: `release#${VM_ID}`,
      version: 1,
      instanceId: VM_ID,
      decisions: [
        {
          at: AT,
          disk: DISK,
          generation: 1,
          outcome: 'refused',
          mode: 'enforce',
          reasons: ['NO_REPORT'],
          policies: [],
        },
      ],
      marks: [],
    };
    for (const row of [aVm(), disk, pointer, releases]) rows.set(row.pk, row);
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
  const operator = () => rows.get(`operator#${VM_ID}`);
  const why = ['--reason', 'audit'];
  const by = { by: ADA, reason: 'audit' };

  test('keys shows generations, what was escrowed and the last decisions, and no key', async () => {
    const { stdout } = await run('keys', VM_ID);
    expect(stdout).toContain(`${DISK}  ${aVolume().id}`);
    expect(stdout).toContain('key 1 active   confirmed');
    expect(stdout).toContain('recovery key escrowed');
    expect(stdout).toContain('NO_REPORT: The agent has not reported yet.');
    const { stdout: json } = await run('keys', VM_ID, '--json');
    expect(JSON.parse(json)).toMatchObject({ id: VM_ID, disks: [{ disk: DISK, retire: null }] });
    expect(json).not.toContain(aGeneration().wrappedKey);
  });

  test('explain tells of releases, too', async () => {
    const { stdout } = await run('explain', VM_ID);
    expect(stdout).toContain(`key 1 of ${DISK} refused (enforce)`);
  });

  test('hold and unhold store who and why', async () => {
    await run('keys', 'hold', VM_ID, ...why);
    expect(operator()).toMatchObject({ hold: by });
    await run('keys', 'unhold', VM_ID, ...why);
    expect(operator()).not.toHaveProperty('hold');
    expect(events.filter((e) => e.startsWith('said'))).toEqual(['said hold', 'said unhold']);
  });

  test('retire is asked for and taken back, and says what shredding is', async () => {
    const { stdout } = await run('keys', 'retire', DISK, ...why);
    expect(stdout).toContain('point-in-time recovery');
    expect(operator()).toMatchObject({ retire: { [DISK]: by } });
    await run('keys', 'retire', DISK, '--cancel', ...why);
    expect(operator()).toMatchObject({ retire: {}, keep: { [DISK]: by } });
  });

  test('rotate asks the agent', async () => {
    await run('keys', 'rotate', DISK, ...why);
    expect(operator()).toMatchObject({ rotate: { [DISK]: by } });
  });

  test('recover writes who and why before it asks KMS, and prints the key alone on stdout', async () => {
    const { status, stdout } = await run('keys', 'recover', DISK, ...why);
    expect([status, stdout]).toEqual([0, `${RECOVERY_KEY}\n`]);
    expect(events).toEqual([`put operator#${VM_ID}`, `said recover ${DISK}`, 'decrypt RSAES_OAEP_SHA_256']);
    expect(JSON.stringify([...rows.values()])).not.toContain(RECOVERY_KEY);
  });

  test('allow lets an agent enrol and adopt, each for what was named', async () => {
    await run('allow', 'enrol', VM_ID, '--minutes', '5', ...why);
    const allowed = operator()?.['enrol'] as { at: string; until: string } | undefined;
    expect(Date.parse(allowed?.until ?? '') - Date.parse(allowed?.at ?? '')).toBe(300_000);
    await run('allow', 'adopt', VM_ID, 'vol-0000000c', ...why);
    expect(operator()).toMatchObject({ adopt: { 'vol-0000000c': by } });
    await run('allow', 'adopt', VM_ID, 'vol-0000000c', '--revoke', ...why);
    expect(operator()).toMatchObject({ adopt: {} });
  });

  test('allow leave-scope is for a VM that wants to, and says what becomes of its disks', async () => {
    await expect(run('allow', 'leave-scope', VM_ID, ...why)).resolves.toMatchObject({ status: 2 });
    rows.set(`vm#${VM_ID}`, { ...aVm(), leavingScope: true });
    const { status, stdout } = await run('allow', 'leave-scope', VM_ID, ...why);
    expect([status, stdout]).toEqual([0, expect.stringContaining('open with their recovery keys alone')]);
    expect(operator()).toMatchObject({ leaveScope: by });
  });

  test.each([
    [['keys'], 2],
    [['keys', 'i-x'], 2],
    [['keys', 'hold', VM_ID], 2],
    [['keys', 'retire', 'x', ...why], 2],
    [['keys', 'retire', DISK, '--generation', '7', ...why], 2],
    [['keys', 'recover', '00000000-0000-4000-8000-000000000000', ...why], 1],
  ] as const)('%j ends with %i and decides nothing', async (args, status) => {
    await expect(run(...args)).resolves.toMatchObject({ status });
    expect(events).toEqual([]);
  });
});
