import { generateKeyPairSync } from 'node:crypto';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { createIdentityIssuer } from '../../bin/local/identity-issuer.ts';
import { createAgent, type TestAgent } from '../world/agent.ts';
import { createApi, identityOf } from '../world/api.ts';
import { REGION, type WorldVm } from '../world/ec2.ts';
import { apiRequest, RECORDED_VM } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

let world: World;
let vm: WorldVm;
let agent: TestAgent;
let api: Awaited<ReturnType<typeof createApi>>;
beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1, { id: RECORDED_VM });
  world.stateChange(vm);
  await world.drain();
  world.announced.length = 0;
  agent = createAgent(vm.id);
  api = await createApi(world);
});

const refused = (status: number, reason: string) => ({
  status,
  body: { reason, message: expect.stringMatching(/\.$/) },
});
const enrolments = () => [...world.rows.keys()].filter((pk) => pk.startsWith('enrol#'));
const announcedReasons = () =>
  world.announced.filter((e) => e.detailType === 'Enrolment Refused').map((e) => e.detail['reason']);

describe('a challenge', () => {
  test('is 32 fresh bytes for a minute, stored as its hash', async () => {
    const { status, body } = await api.call('/challenges', { instanceId: vm.id, purpose: 'enrol' });
    expect(status).toBe(201);
    expect(Buffer.from(body['nonce'] ?? '', 'base64')).toHaveLength(32);
    expect(Date.parse(body['expiresAt'] ?? '') - world.now().getTime()).toBe(60_000);
    const stored = JSON.stringify(
      [...world.rows.values()].filter((row) => String(row['pk']).startsWith('nonce#')),
    );
    expect(stored).not.toContain(body['nonce']);
    expect(stored).not.toContain(Buffer.from(body['nonce'] ?? '', 'base64').toString('hex'));
    expect(stored).toContain('"used":false');
  });

  test('is another each time', async () => {
    const nonces = await Promise.all(Array.from({ length: 5 }, () => api.challenge(vm.id)));
    expect(new Set(nonces).size).toBe(5);
  });

  test.each<[string, unknown]>([
    ['no body', null],
    ['no JSON', '{'],
    ['another purpose', { instanceId: RECORDED_VM, purpose: 'activate 000b' }],
    ['no VM', { instanceId: 'i-x', purpose: 'enrol' }],
    ['a part of its own', { instanceId: RECORDED_VM, purpose: 'enrol', ttl: 9999 }],
    [
      'more than any request has',
      JSON.stringify({ instanceId: RECORDED_VM, purpose: 'enrol' }) + ' '.repeat(33_000),
    ],
  ])('is refused as REQUEST_MALFORMED with %s', async (_, body) => {
    await expect(api.call('/challenges', body)).resolves.toEqual(refused(400, 'REQUEST_MALFORMED'));
  });

  test('is given to a body in base64, as API Gateway passes binary types', async () => {
    const event = apiRequest('instance', '/challenges', null);
    const body = Buffer.from(JSON.stringify({ instanceId: vm.id, purpose: 'enrol' })).toString('base64');
    await expect(api.send({ ...event, body, isBase64Encoded: true })).resolves.toMatchObject({ status: 201 });
  });

  test('is never kept by a cache', async () => {
    const answer = await api.functions['/challenges'](
      apiRequest('instance', '/challenges', { instanceId: vm.id, purpose: 'enrol' }),
      {} as never,
    );
    expect(answer.headers).toEqual({ 'content-type': 'application/json', 'cache-control': 'no-store' });
  });
});

describe('an enrolment', () => {
  test('stores the key once, and says so', async () => {
    await expect(api.enrol(agent)).resolves.toEqual({
      status: 201,
      body: { status: 'enrolled', instanceId: vm.id },
    });
    expect(world.rows.get(`enrol#${vm.id}`)).toEqual({
      pk: `enrol#${vm.id}`,
      version: 1,
      instanceId: vm.id,
      publicKey: agent.spki.toString('base64'),
      enrolledAt: world.now().toISOString(),
    });
    expect(world.announced).toEqual([]);
  });

  test('of the same key again changes nothing, also after the window', async () => {
    await api.enrol(agent);
    const before = world.rows.get(`enrol#${vm.id}`);
    world.advance(86_400);
    await expect(api.enrol(agent)).resolves.toEqual({
      status: 200,
      body: { status: 'already-enrolled', instanceId: vm.id },
    });
    expect(world.rows.get(`enrol#${vm.id}`)).toEqual(before);
  });

  test('consumes its challenge, whatever comes of it', async () => {
    vm.state = 'stopped';
    world.stateChange(vm);
    await world.drain();
    const nonce = await api.challenge(vm.id);
    await expect(api.enrol(agent, { nonce })).resolves.toEqual(refused(403, 'ENROL_VM_NOT_RUNNING'));
    await expect(api.enrol(agent, { nonce })).resolves.toEqual(refused(403, 'CHALLENGE_USED'));
  });
});

describe('an enrolment is refused as', () => {
  const refusals: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['IDENTITY_REFUSED', () => api.enrol(agent, { body: { identityDocument: 'AAAA' } })],
    ['IDENTITY_FOREIGN', () => api.enrol(agent, { document: { instanceId: 'i-00000002' } })],
    ['IDENTITY_FOREIGN', () => api.enrol(agent, { document: { accountId: '999999999999' } })],
    [
      'ENROL_BAD_KEY',
      () => {
        const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
        const spki = publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
        return api.enrol(agent, { body: { agentPublicKey: spki } });
      },
    ],
    ['ENROL_BAD_SIGNATURE', () => api.enrol(agent, { signer: createAgent(RECORDED_VM).privateKey })],
    ['ENROL_BAD_SIGNATURE', () => api.enrol(agent, { purpose: 'report' })],
    ['ENROL_BAD_SIGNATURE', () => api.enrol(agent, { apiOrigin: 'https://evil.example' })],
    [
      'ENROL_BAD_SIGNATURE',
      async () => api.enrol(agent, { body: { nonce: await api.challenge(RECORDED_VM) } }),
    ],
    ['CHALLENGE_UNKNOWN', () => api.enrol(agent, { nonce: Buffer.alloc(32, 7).toString('base64') })],
    ['CHALLENGE_FOREIGN', async () => api.enrol(agent, { nonce: await api.challenge('i-00000002') })],
    [
      'CHALLENGE_EXPIRED',
      async () => {
        const nonce = await api.challenge(RECORDED_VM);
        world.advance(60);
        return api.enrol(agent, { nonce });
      },
    ],
    [
      'CHALLENGE_USED',
      async () => {
        const nonce = await api.challenge(RECORDED_VM);
        await api.enrol(createAgent(RECORDED_VM), { nonce });
        world.rows.delete(`enrol#${RECORDED_VM}`);
        return api.enrol(agent, { nonce });
      },
    ],
    [
      'ENROL_WINDOW_CLOSED',
      () => {
        world.advance(901);
        return api.enrol(agent);
      },
    ],
    [
      'ENROL_WINDOW_CLOSED',
      async () => {
        world.advance(7200);
        vm.launchTime = world.now(); // stop and start renew it
        world.stateChange(vm);
        await world.drain();
        return api.enrol(agent);
      },
    ],
    [
      'ENROL_OTHER_KEY',
      async () => {
        await api.enrol(createAgent(RECORDED_VM));
        return api.enrol(agent);
      },
    ],
    [
      'ENROL_DISK_CONFIRMED',
      () => {
        for (const [pk, row] of world.rows) {
          if (!('generations' in row)) continue;
          const [first] = row['generations'] as object[];
          world.rows.set(pk, { ...row, generations: [{ ...first, state: 'active' }] });
        }
        return api.enrol(agent);
      },
    ],
    [
      'ENROL_VM_NOT_RUNNING',
      async () => {
        vm.state = 'stopped';
        world.stateChange(vm);
        await world.drain();
        return api.enrol(agent);
      },
    ],
  ];

  test.each(refusals)('%s (%#), stores nothing, and tells the operator', async (reason, attempt) => {
    const before = enrolments();
    await expect(attempt()).resolves.toEqual(refused(403, reason));
    expect(announcedReasons().at(-1)).toBe(reason);
    expect(world.rows.get(`enrol#${vm.id}`)?.['publicKey']).not.toBe(agent.spki.toString('base64'));
    expect(enrolments().length).toBeLessThanOrEqual(before.length + 1);
  });

  const forNow: readonly (readonly [string, Partial<WorldVm> | 'unobserved'])[] = [
    ['ENROL_VM_UNKNOWN', 'unobserved'],
    ['ENROL_VM_NOT_MANAGED', { tags: {} }],
    ['ENROL_VM_NOT_RUNNING', { state: 'pending' }],
  ];
  test.each(forNow)('%s for now: worth another try, and no news to anybody', async (reason, state) => {
    const other = createAgent('i-00000002');
    if (state !== 'unobserved') {
      const second = launch(world, 2, state);
      world.stateChange(second);
      await world.drain();
      world.announced.length = 0;
    }
    await expect(api.enrol(other)).resolves.toEqual(refused(409, reason));
    expect(world.announced).toEqual([]);
  });

  test('IDENTITY_REFUSED when another issuer of the same Region signed the document', async () => {
    const forger = await createIdentityIssuer(REGION);
    const identityDocument = await forger.issue(identityOf({ instanceId: vm.id }, world.now()));
    await expect(api.enrol(agent, { body: { identityDocument } })).resolves.toEqual(
      refused(403, 'IDENTITY_REFUSED'),
    );
  });

  test('IDENTITY_REFUSED when the document is of a Region that nobody here vouches for', async () => {
    await expect(api.enrol(agent, { document: { region: 'us-east-1' } })).resolves.toEqual(
      refused(403, 'IDENTITY_REFUSED'),
    );
  });

  test('REQUEST_MALFORMED without a body', async () => {
    await expect(api.call('/enrolments', {})).resolves.toEqual(refused(400, 'REQUEST_MALFORMED'));
  });
});

describe('a challenge is not lost to somebody who cannot prove anything', () => {
  test('neither by a bad signature nor by a foreign document', async () => {
    const nonce = await api.challenge(vm.id);
    await api.enrol(agent, { nonce, signer: createAgent(vm.id).privateKey });
    await api.enrol(agent, { nonce, document: { instanceId: 'i-00000002' } });
    await expect(api.enrol(agent, { nonce })).resolves.toMatchObject({ status: 201 });
  });
});

describe('two first enrolments at once', () => {
  test('of two keys: one wins, and the other is told', async () => {
    const other = createAgent(vm.id);
    const answers = await Promise.all([api.enrol(agent), api.enrol(other)]);
    expect(answers.map((a) => a.status).sort()).toEqual([201, 403]);
    const winner = answers[0]?.status === 201 ? agent : other;
    expect(world.rows.get(`enrol#${vm.id}`)).toMatchObject({ publicKey: winner.spki.toString('base64') });
    expect(announcedReasons()).toEqual(['ENROL_OTHER_KEY']);
  });

  test('of the same key, by an agent that did not wait for its answer, both hold', async () => {
    const answers = await Promise.all([api.enrol(agent), api.enrol(agent)]);
    expect(answers.map((a) => a.body['status']).sort()).toEqual(['already-enrolled', 'enrolled']);
    expect(announcedReasons()).toEqual([]);
  });

  test('with the same challenge: one alone comes through', async () => {
    const nonce = await api.challenge(vm.id);
    const answers = await Promise.all([
      api.enrol(agent, { nonce }),
      api.enrol(createAgent(vm.id), { nonce }),
    ]);
    expect(answers.map((a) => a.body['reason'] ?? 'enrolled').sort()).toEqual(['CHALLENGE_USED', 'enrolled']);
  });
});

describe('behind IAM', () => {
  beforeEach(async () => {
    api = await createApi(world, 'iam');
  });

  test('an instance enrols itself', async () => {
    await expect(api.enrol(agent)).resolves.toMatchObject({ status: 201 });
  });

  test.each([
    ['other-instance', 'CALLER_FOREIGN'],
    ['person', 'CALLER_FOREIGN'],
    ['no-iam', 'CALLER_UNAUTHENTICATED'],
  ] as const)('%s is refused as %s at both doors', async (caller, reason) => {
    const body = await api.enrolment(agent);
    const challenges = [...world.rows.keys()].length;
    await expect(api.call('/enrolments', body, caller)).resolves.toEqual(refused(403, reason));
    await expect(api.call('/challenges', { instanceId: vm.id, purpose: 'enrol' }, caller)).resolves.toEqual(
      refused(403, reason),
    );
    expect([...world.rows.keys()]).toHaveLength(challenges);
    // The rightful instance can still use the challenge.
    await expect(api.call('/enrolments', body)).resolves.toMatchObject({ status: 201 });
  });
});

test('when the table does not answer, nobody is enrolled and nobody is refused', async () => {
  const body = await api.enrolment(agent);
  world.fail('UpdateItem', Object.assign(new Error('slow down'), { name: 'ThrottlingException' }));
  await expect(api.call('/enrolments', body)).rejects.toThrow('slow down');
  expect([enrolments(), announcedReasons()]).toEqual([[], []]);
});
