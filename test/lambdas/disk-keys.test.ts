import { generateKeyPairSync, privateDecrypt } from 'node:crypto';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { VersionConflictError } from '../../lambdas/aws/dynamodb.ts';
import type { Mode } from '../../lib/domain/isolation.ts';
import { parseRecipientEnvelope } from '../../lib/domain/recipient-envelope.ts';
import { readPolicySources } from '../../lib/policy/compile.ts';
import type { PolicySet } from '../../lib/policy/engine.ts';
import { makeDocument, makeNitro, plain } from '../domain/evidence/forge/nitro.ts';
import {
  createAgent,
  enrolled,
  fact,
  GOOD_FACTS,
  sealReport,
  sendReport,
  type TestAgent,
} from '../world/agent.ts';
import { createApi, RECOVERY_PUBLIC_KEY } from '../world/api.ts';
import { diskAgent, type Wrong } from '../world/disks.ts';
import type { WorldVm } from '../world/ec2.ts';
import { RECORDED_VM } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, policySet, type World } from '../world/world.ts';

let world: World;
let vm: WorldVm;
let agent: TestAgent;
let api: Awaited<ReturnType<typeof createApi>>;
let disks: ReturnType<typeof diskAgent>;
let disk: string;

/** A VM that was seen, enrolled, and reported good facts, so that its fence is open and its disk has a key. */
async function start(mode: Mode = 'enforce', facts = GOOD_FACTS, policy?: PolicySet) {
  world = createWorld({ mode, ...(policy ? { policy } : {}) });
  vm = launch(world, 1, { id: RECORDED_VM });
  world.stateChange(vm);
  await world.drain();
  agent = createAgent(vm.id);
  enrolled(world, agent);
  sendReport(world, sealReport(world, agent, 1, { facts: [...facts] }));
  await world.drain();
  api = await createApi(world);
  disks = diskAgent(api, agent);
  disk = world.rows.get('disk#vol-b0000001')?.['disk'] as string;
  world.announced.length = 0;
}
beforeEach(() => start());

const item = () =>
  world.rows.get(`disk#${disk}`) as { generations: Record<string, unknown>[] } & Record<string, unknown>;
const states = () => item().generations.map((g) => `${g['generation']} ${g['state']}`);
const set = (pk: string, change: object) => world.rows.set(pk, { ...world.rows.get(pk), ...change });
const hold = (more: object) =>
  world.rows.set(`operator#${vm.id}`, {
    pk: `operator#${vm.id}`,
    version: 1,
    instanceId: vm.id,
    history: [],
    ...more,
  });
const said = {
  at: '2026-11-24T08:00:00.000Z',
  by: 'arn:aws:iam::123456789012:user/ada',
  reason: 'looking into it',
};
const decisions = () =>
  world.announced.filter((e) => e.detailType === 'Key Release Decided').map((e) => e.detail);
const PLAIN_SWAP = [...GOOD_FACTS.filter((f) => f.id !== 'mem.swap'), fact('mem.swap', 'present', 'plain')];

describe('the list of disks', () => {
  test('shows every volume with its disk, and why one is not covered', async () => {
    const { status, body } = await disks.list();
    expect(status).toBe(200);
    expect(body).toEqual({
      mode: 'enforce',
      recoveryPublicKey: RECOVERY_PUBLIC_KEY.toString('base64'),
      volumes: [
        expect.objectContaining({
          volumeId: 'vol-a0000001',
          notCovered: 'ROOT_VOLUME',
          disk: null,
          generations: [],
        }),
        {
          volumeId: 'vol-b0000001',
          sizeGiB: 8,
          notCovered: null,
          disk,
          kind: 'luks2',
          fromSnapshot: false,
          confirmed: false,
          generations: [{ generation: 1, state: 'issued' }],
          rotate: null,
          mountPoint: null,
          filesystem: null,
        },
      ],
    });
  });

  test('says of a VM that may hibernate why none of its disks is covered', async () => {
    await mayHibernate(true);
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ notCovered: 'HIBERNATION_CONFIGURED' });
  });

  test('says confirmed for good once a generation was', async () => {
    await disks.confirm(disk, 1);
    const { body } = await disks.list();
    expect(body['volumes'][1]).toMatchObject({
      confirmed: true,
      generations: [{ generation: 1, state: 'active' }],
    });
  });

  test('passes the hints of the volume’s tags on, and no tag of anybody else', async () => {
    Object.assign(vm.volumes[1] as object, {
      tags: { 'casemate:mount': '/srv/data', 'casemate:filesystem': 'xfs', Name: 'secret project' },
    });
    world.stateChange(vm);
    await world.drain();
    const { body } = await disks.list();
    expect(body['volumes'][1]).toMatchObject({ mountPoint: '/srv/data', filesystem: 'xfs' });
    expect(JSON.stringify(world.rows.get(`vm#${vm.id}`))).not.toContain('secret');
  });
});

describe('a release', () => {
  test.each<Mode>(['enforce', 'observe'])(
    'is refused in %s when a policy fails to evaluate',
    async (mode) => {
      const sources = readPolicySources(new URL('../../policies/', import.meta.url));
      // Valid by the schema; overflows. Cedar passes over a policy that fails, and a forbid would vanish.
      const erring = `@id("test.erring") @reason("TOO_OLD")
      forbid (principal, action == Casemate::Action::"ReleaseKey", resource)
      when { resource.sizeGiB * 9223372036854775807 < 0 };`;
      const policies = new Map([...sources.policies, ['erring.cedar', erring]]);
      await start(mode, GOOD_FACTS, policySet({ ...sources, policies }));
      const { status, key } = await disks.release(disk, 1);
      expect({ status, key }).toEqual({ status: 403, key: undefined });
      expect(decisions()).toMatchObject([{ outcome: 'refused', reasons: ['POLICY_ERROR'] }]);
      expect(world.kmsCalls).not.toContain('Decrypt');
    },
  );

  test('is decided by what stood together: a hold that comes while it reads is heeded', async () => {
    let came = false;
    world.stand(async ({ name, input }, go) => {
      const answer = await go();
      if (!came && name === 'BatchGetItem' && JSON.stringify(input).includes('operator#')) {
        came = true;
        hold({ hold: said });
      }
      return answer;
    });
    expect(await disks.release(disk, 1)).toMatchObject({ status: 403 });
    expect(decisions()).toMatchObject([{ outcome: 'refused', reasons: ['OPERATOR_HOLD'] }]);
    expect(world.kmsCalls).not.toContain('Decrypt');
  });

  test('is not decided at all while somebody keeps writing', async () => {
    world.stand(async ({ name, input }, go) => {
      const answer = await go();
      const posture = world.rows.get(`posture#${vm.id}`) as { version: number };
      if (name === 'BatchGetItem' && JSON.stringify(input).includes('posture#'))
        set(`posture#${vm.id}`, { version: posture.version + 1 });
      return answer;
    });
    // API Gateway makes 502 of it, and the agent asks again.
    await expect(disks.release(disk, 1)).rejects.toThrow(VersionConflictError);
    expect(world.kmsCalls).not.toContain('Decrypt');
  });

  test('gives the agent, and nobody else on the way, the key that KMS unwraps', async () => {
    const { status, key, body } = await disks.release(disk, 1);
    expect(status).toBe(200);
    expect(key).toEqual(world.plaintextOf(item().generations[0]?.['wrappedKey'] as string));
    expect(key).toHaveLength(64);
    expect(body).toMatchObject({ disk, generation: 1, forRecipient: false, escrow: null });
    const seen = JSON.stringify([body, [...world.rows.values()], world.announced]);
    for (const encoding of ['base64', 'hex', 'latin1'] as const)
      expect(seen).not.toContain(key?.toString(encoding));
    expect(world.kmsCalls).toEqual(['GenerateDataKeyWithoutPlaintext', 'Decrypt']);
  });

  test('is written down and announced with its reasons before it is given', async () => {
    await disks.release(disk, 1);
    expect(world.rows.get(`release#${vm.id}`)).toMatchObject({
      instanceId: vm.id,
      decisions: [
        {
          disk,
          generation: 1,
          outcome: 'released',
          mode: 'enforce',
          reasons: ['POSTURE_PROVEN'],
          policies: ['release.compliant'],
        },
      ],
      marks: [],
    });
    expect(decisions()).toEqual([
      expect.objectContaining({ outcome: 'released', authenticated: true, disk, generation: 1 }),
    ]);
    const order = world.effects.names.filter((name) =>
      /^put (release|events)|^put events|^decrypt/.test(name),
    );
    expect(order.slice(-3)).toEqual([`put release#${vm.id}`, 'put events', 'decrypt']);
  });

  test('that KMS does not answer is no release, and can be asked for again', async () => {
    const heal = world.fail('Decrypt', new Error('KMS is away'));
    await expect(disks.release(disk, 1)).rejects.toThrow('KMS is away');
    heal();
    await expect(disks.release(disk, 1)).resolves.toMatchObject({ status: 200 });
  });

  test('gives a retiring generation, which an older header still needs', async () => {
    await disks.confirm(disk, 1);
    await disks.rotate(disk, 2);
    await disks.confirm(disk, 2);
    const { key } = await disks.release(disk, 1);
    expect(key).toEqual(world.plaintextOf(item().generations[0]?.['wrappedKey'] as string));
  });
});

const REFUSALS: readonly (readonly [string, () => Promise<{ status: number; body: object }>])[] = [
  [
    'NOT_ENROLLED',
    () => {
      world.rows.delete(`enrol#${vm.id}`);
      return disks.release(disk, 1);
    },
  ],
  [
    'REQUEST_UNKNOWN_VM',
    () => {
      world.rows.delete(`vm#${vm.id}`);
      return disks.release(disk, 1);
    },
  ],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ signer: createAgent(vm.id).privateKey })],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ purpose: 'confirm' })],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ apiOrigin: 'https://evil.example' })],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ over: { generation: 2 } })],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ over: { disk: '00000000-0000-4000-8000-000000000000' } })],
  ['REQUEST_BAD_SIGNATURE', () => wrong({ over: { ephemeralPublicKey: Buffer.alloc(65, 4) } })],
  ['CHALLENGE_UNKNOWN', () => wrong({ nonce: Buffer.alloc(32, 7).toString('base64') })],
  ['CHALLENGE_FOREIGN', async () => wrong({ nonce: await api.challenge(vm.id, 'confirm') })],
  ['CHALLENGE_FOREIGN', async () => wrong({ nonce: await api.challenge('i-00000002', 'release') })],
  [
    'CHALLENGE_USED',
    async () => {
      const nonce = await api.challenge(vm.id, 'release');
      await wrong({ nonce });
      return wrong({ nonce });
    },
  ],
  [
    'CHALLENGE_EXPIRED',
    async () => {
      const nonce = await api.challenge(vm.id, 'release');
      world.advance(60);
      return wrong({ nonce });
    },
  ],
  [
    'EPHEMERAL_KEY_INVALID',
    () => {
      const ephemeralPublicKey = Buffer.alloc(65, 4);
      const body = { ephemeralPublicKey: ephemeralPublicKey.toString('base64') };
      return wrong({ over: { ephemeralPublicKey }, body });
    },
  ],
  [
    'VM_NOT_MANAGED',
    () => {
      set(`vm#${vm.id}`, { managed: false });
      return disks.release(disk, 1);
    },
  ],
  [
    'VM_GONE',
    () => {
      set(`vm#${vm.id}`, { gone: true });
      return disks.release(disk, 1);
    },
  ],
  [
    'VM_NOT_LIVE',
    async () => {
      vm.state = 'shutting-down';
      world.stateChange(vm);
      await world.drain();
      return disks.release(disk, 1);
    },
  ],
  ['HIBERNATION_CONFIGURED', () => mayHibernate(true)],
  ['HIBERNATION_UNKNOWN', () => mayHibernate(null)],
  ['DISK_NOT_ATTACHED', () => disks.release('00000000-0000-4000-8000-000000000000', 1)],
  [
    'DISK_MOVED',
    () => {
      set(`disk#${disk}`, { instanceId: 'i-00000002' });
      return disks.release(disk, 1);
    },
  ],
  [
    'DISK_MOVED',
    () => {
      const [first] = item().generations;
      set(`disk#${disk}`, { generations: [{ ...first, wrappedFor: 'i-00000002' }] });
      return disks.release(disk, 1);
    },
  ],
  ['GENERATION_UNKNOWN', () => disks.release(disk, 2)],
  [
    'GENERATION_RETIRED',
    () => {
      const [first] = item().generations;
      set(`disk#${disk}`, { generations: [{ ...first, state: 'retired', wrappedKey: null }] });
      return disks.release(disk, 1);
    },
  ],
  [
    'NO_REPORT',
    () => {
      world.rows.delete(`posture#${vm.id}`);
      return disks.release(disk, 1);
    },
  ],
  [
    'REPORT_STALE',
    () => {
      world.advance(901);
      return disks.release(disk, 1);
    },
  ],
  [
    'SWAP_NOT_ENCRYPTED',
    async () => {
      await start('enforce', PLAIN_SWAP);
      return disks.release(disk, 1);
    },
  ],
  [
    'NO_POLICY_PERMITS',
    () => {
      set(`isolation#${vm.id}`, { profile: 'quarantine' });
      return disks.release(disk, 1);
    },
  ],
  [
    'OPERATOR_HOLD',
    () => {
      hold({ hold: said });
      return disks.release(disk, 1);
    },
  ],
  [
    'OPERATOR_QUARANTINE',
    () => {
      hold({ quarantine: said });
      return disks.release(disk, 1);
    },
  ],
];
const wrong = (how: Wrong) => disks.release(disk, 1, how);
/** @param says what EC2 says of it; null where it does not say */
async function mayHibernate(says: boolean | null) {
  vm.hibernation = says;
  world.stateChange(vm);
  await world.drain();
  return disks.release(disk, 1);
}

describe('a release is refused', () => {
  test.each(REFUSALS)('as %s (%#): announced, nothing unwrapped', async (reason, attempt) => {
    const answer = await attempt();
    expect(answer.status).toBe(403);
    expect(decisions().at(-1)).toMatchObject({ outcome: 'refused' });
    expect(decisions().at(-1)?.['reasons']).toContain(reason);
    expect(world.kmsCalls.filter((call) => call === 'Decrypt')).toHaveLength(
      reason === 'CHALLENGE_USED' ? 1 : 0,
    );
  });

  test('alike, byte for byte, whatever the reason', async () => {
    const bodies = new Set<string>();
    for (const [, attempt] of REFUSALS) {
      await start();
      const { status, body } = await attempt();
      bodies.add(`${status} ${JSON.stringify(body)}`);
    }
    api = await createApi(world, 'iam');
    for (const caller of ['other-instance', 'person', 'no-iam'] as const) {
      const body = await diskAgent(api, agent).request('/releases', {
        disk,
        generation: 1,
        ephemeralPublicKey: Buffer.alloc(65, 4),
      });
      const answer = await api.call('/releases', body, caller);
      bodies.add(`${answer.status} ${JSON.stringify(answer.body)}`);
    }
    expect([...bodies]).toEqual([
      '403 {"reason":"RELEASE_REFUSED","message":"The key is not given now. An operator sees why: casemate explain."}',
    ]);
  });

  test('to another VM that asks for this one’s disk', async () => {
    const other = launch(world, 2);
    world.stateChange(other);
    await world.drain();
    const thief = createAgent(other.id);
    enrolled(world, thief);
    sendReport(world, sealReport(world, thief, 1));
    await world.drain();
    const theirs = diskAgent(api, thief);
    const own = world.rows.get('disk#vol-b0000002')?.['disk'] as string;
    await expect(theirs.release(own, 1)).resolves.toMatchObject({ status: 200 });
    await expect(theirs.release(disk, 1)).resolves.toMatchObject({ status: 403 });
    expect(decisions().at(-1)).toMatchObject({ instanceId: other.id, reasons: ['DISK_NOT_ATTACHED'] });
  });

  test('by KMS itself where a row of the table was changed to say that the disk is another VM’s', async () => {
    const other = launch(world, 2);
    world.stateChange(other);
    await world.drain();
    const thief = createAgent(other.id);
    enrolled(world, thief);
    sendReport(world, sealReport(world, thief, 1));
    await world.drain();
    const [first] = item().generations;
    set(`disk#${disk}`, {
      instanceId: other.id,
      volumeId: 'vol-b0000002',
      generations: [{ ...first, wrappedFor: other.id }],
    });
    set('disk#vol-b0000002', { disk });
    await expect(diskAgent(api, thief).release(disk, 1)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'RELEASE_REFUSED' },
    });
    expect(decisions().at(-1)).toMatchObject({ outcome: 'refused', reasons: ['KEY_NOT_UNWRAPPED'] });
    expect(world.rows.get(`release#${other.id}`)).toMatchObject({
      decisions: [{ outcome: 'refused', reasons: ['KEY_NOT_UNWRAPPED'] }, { outcome: 'released' }],
    });
  });

  test('and what anybody on the VM can provoke is not written where the agent’s own decisions stand', async () => {
    await disks.release(disk, 1);
    const before = world.rows.get(`release#${vm.id}`);
    for (let i = 0; i < 30; i++) await wrong({ signer: createAgent(vm.id).privateKey });
    expect(world.rows.get(`release#${vm.id}`)).toEqual(before);
  });

  test('and a challenge is not used up by who cannot sign', async () => {
    const nonce = await api.challenge(vm.id, 'release');
    await wrong({ nonce, signer: createAgent(vm.id).privateKey });
    await expect(wrong({ nonce })).resolves.toMatchObject({ status: 200 });
  });
});

describe('in observe mode', () => {
  test('a key that posture alone refuses is given, marked, and to be rotated once the VM is enforced', async () => {
    await start('observe', PLAIN_SWAP);
    const { status } = await disks.release(disk, 1);
    expect(status).toBe(200);
    await disks.confirm(disk, 1);
    expect(decisions()).toEqual([
      expect.objectContaining({
        outcome: 'released',
        mode: 'observe',
        reasons: expect.arrayContaining(['RELEASED_IN_OBSERVE', 'SWAP_NOT_ENCRYPTED']),
      }),
    ]);
    expect(world.rows.get(`release#${vm.id}`)).toMatchObject({ marks: [{ disk, generation: 1 }] });
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: null });

    // Enforced now: the same table, functions in the other mode.
    api = await createApi({ ...world, mode: 'enforce' });
    disks = diskAgent(api, agent);
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: 'RELEASED_IN_OBSERVE' });
    await disks.rotate(disk, 2);
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: 'RELEASED_IN_OBSERVE' });
    await disks.confirm(disk, 2);
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: null });
  });

  test('what posture does not refuse is given without a mark', async () => {
    await start('observe');
    await disks.release(disk, 1);
    expect(world.rows.get(`release#${vm.id}`)).toMatchObject({
      marks: [],
      decisions: [{ reasons: ['POSTURE_PROVEN'] }],
    });
  });

  const posture = new Set(['NO_REPORT', 'REPORT_STALE', 'SWAP_NOT_ENCRYPTED', 'NO_POLICY_PERMITS']);
  test.each(REFUSALS.filter(([reason]) => !posture.has(reason)))(
    '%s (%#) is refused all the same',
    async (_, attempt) => {
      await start('observe');
      await expect(attempt()).resolves.toMatchObject({ status: 403 });
    },
  );
});

describe('a confirmation', () => {
  test('makes the generation active, and the one before it retire', async () => {
    await expect(disks.confirm(disk, 1)).resolves.toEqual({
      status: 200,
      body: { disk, generation: 1, state: 'active', retiring: [] },
    });
    await disks.rotate(disk, 2);
    expect(states()).toEqual(['1 active', '2 issued']);
    await expect(disks.confirm(disk, 2)).resolves.toMatchObject({ body: { state: 'active', retiring: [1] } });
    expect(states()).toEqual(['1 retiring', '2 active']);
    expect(world.announced.at(-1)).toMatchObject({
      detailType: 'Disk Key Retired',
      detail: { disk, generation: 1, state: 'retiring', reasons: ['KEY_ROTATED'] },
    });
    const [old] = item().generations;
    expect(Date.parse(old?.['retireAfter'] as string) - world.now().getTime()).toBe(30 * 86_400_000);
    expect(old?.['wrappedKey']).toBeTruthy();
  });

  test('said twice, after a lost answer, changes nothing and hears the same', async () => {
    await disks.confirm(disk, 1);
    const before = item();
    world.advance(10);
    await expect(disks.confirm(disk, 1)).resolves.toMatchObject({ status: 200, body: { state: 'active' } });
    expect(item()).toEqual(before);
  });

  test('keeps what was escrowed, and the release gives the newest back', async () => {
    await disks.confirm(disk, 1, { recoveryKey: 'UkVD', escrow: 'RVND' });
    await disks.confirm(disk, 1, { recoveryKey: 'UkVD', escrow: 'TkVX' });
    expect(item()).toMatchObject({
      recoveryKeys: [{ generation: 1, sealed: 'UkVD' }],
      generations: [{ escrows: [{ sealed: 'TkVX' }, { sealed: 'RVND' }] }],
    });
    await expect(disks.release(disk, 1)).resolves.toMatchObject({ body: { escrow: 'TkVX' } });
  });

  test('keeps the newest eight of what an agent says without end', async () => {
    for (let i = 0; i < 12; i++)
      await disks.confirm(disk, 1, { recoveryKey: Buffer.from(`r${i}`).toString('base64') });
    const kept = item()['recoveryKeys'] as { sealed: string }[];
    expect(kept.map((k) => Buffer.from(k.sealed, 'base64').toString())).toEqual([
      'r11',
      'r10',
      'r9',
      'r8',
      'r7',
      'r6',
      'r5',
      'r4',
    ]);
  });

  const refusals: readonly (readonly [string, number, () => Promise<object>])[] = [
    ['GENERATION_UNKNOWN', 403, () => disks.confirm(disk, 2)],
    [
      'GENERATION_RETIRED',
      403,
      async () => {
        await disks.confirm(disk, 1);
        await disks.rotate(disk, 2);
        await disks.confirm(disk, 2);
        return disks.confirm(disk, 1);
      },
    ],
    ['CONFIRMATION_MALFORMED', 403, () => disks.confirm(disk, 1, { more: 1 })],
    ['REQUEST_BAD_SIGNATURE', 403, () => disks.confirm(disk, 1, {}, { signedPayload: '{"escrow":"AAAA"}' })],
    ['REQUEST_BAD_SIGNATURE', 403, () => disks.confirm(disk, 1, {}, { over: { generation: 2 } })],
    ['DISK_NOT_ATTACHED', 403, () => disks.confirm('00000000-0000-4000-8000-000000000000', 1)],
    [
      'REQUEST_UNKNOWN_VM',
      409,
      () => {
        world.rows.delete(`vm#${vm.id}`);
        return disks.confirm(disk, 1);
      },
    ],
    ['WRITTEN_MEANWHILE', 409, () => bothAtOnce(() => disks.confirm(disk, 1))],
  ];
  test.each(refusals)('is refused as %s (%#)', async (reason, status, attempt) => {
    await expect(attempt()).resolves.toMatchObject({ status, body: { reason } });
  });
});

/** Two at once; the answer of the one that came second, once the first had its way. */
async function bothAtOnce(call: () => Promise<{ status: number; body: object }>) {
  const answers = await Promise.all([call(), call()]);
  expect(answers.map((a) => a.status).sort()).toEqual([200, 409]);
  return answers.find((a) => a.status === 409) as object;
}

describe('a rotation', () => {
  beforeEach(() => disks.confirm(disk, 1));

  test('issues the next generation under its own context, once, however often it is asked', async () => {
    for (let i = 0; i < 3; i++) {
      await expect(disks.rotate(disk, 2)).resolves.toEqual({
        status: 200,
        body: { disk, generation: 2, state: 'issued' },
      });
    }
    expect(states()).toEqual(['1 active', '2 issued']);
    expect(world.kmsContexts.at(-1)).toEqual({
      'casemate:disk': disk,
      'casemate:generation': '2',
      'casemate:vm': vm.id,
    });
    expect(world.kmsContexts).toHaveLength(2);
    expect(world.announced.at(-1)).toMatchObject({
      detailType: 'Disk Key Issued',
      detail: { disk, generation: 2 },
    });
  });

  test('twice at once issues one: the other is told to ask again, and then hears of it', async () => {
    await expect(bothAtOnce(() => disks.rotate(disk, 2))).resolves.toMatchObject({
      body: { reason: 'WRITTEN_MEANWHILE' },
    });
    await expect(disks.rotate(disk, 2)).resolves.toMatchObject({ status: 200 });
    expect(states()).toEqual(['1 active', '2 issued']);
  });

  test.each<[string, number, () => Promise<object>]>([
    ['ROTATION_WRONG_GENERATION', 403, () => disks.rotate(disk, 3)],
    ['ROTATION_WRONG_GENERATION', 403, () => disks.rotate(disk, 1)],
    [
      'ROTATION_OPEN',
      403,
      async () => {
        await disks.rotate(disk, 2);
        return disks.rotate(disk, 3);
      },
    ],
    ['REQUEST_BAD_SIGNATURE', 403, () => disks.rotate(disk, 2, { purpose: 'confirm' })],
    ['DISK_NOT_ATTACHED', 403, () => disks.rotate('00000000-0000-4000-8000-000000000000', 2)],
    [
      'ROTATION_LIMIT',
      403,
      () => {
        const [first] = item().generations;
        const generations = Array.from({ length: 200 }, (_, i) => ({
          ...first,
          generation: i + 1,
          state: 'retiring',
        }));
        set(`disk#${disk}`, { generations });
        return disks.rotate(disk, 201);
      },
    ],
  ])('is refused as %s (%#)', async (reason, status, attempt) => {
    await expect(attempt()).resolves.toMatchObject({ status, body: { reason } });
    expect(states().filter((s) => s.endsWith('issued')).length).toBeLessThanOrEqual(1);
  });

  test('is refused as ROTATION_NOT_PERMITTED where policy issues no key any more', async () => {
    const sources = readPolicySources(new URL('../../policies/', import.meta.url));
    const frozen = `@id("test.frozen") @reason("NOT_NOW")
      forbid (principal, action == Casemate::Action::"IssueKey", resource)
      when { principal.hasTag("frozen") };`;
    const policies = new Map([...sources.policies, ['frozen.cedar', frozen]]);
    await start('enforce', GOOD_FACTS, policySet({ ...sources, policies }));
    await disks.confirm(disk, 1);
    vm.tags = { ...vm.tags, frozen: 'yes' };
    world.stateChange(vm);
    await world.drain();
    await expect(disks.rotate(disk, 2)).resolves.toMatchObject({
      status: 403,
      body: { reason: 'ROTATION_NOT_PERMITTED' },
    });
    expect(states()).toEqual(['1 active']);
  });

  test('is asked for by an operator, until a key newer than the asking is active', async () => {
    world.advance(60);
    hold({ rotate: { [disk]: { ...said, at: world.now().toISOString() } } });
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: 'OPERATOR_ASKED' });
    world.advance(60);
    await disks.rotate(disk, 2);
    await disks.confirm(disk, 2);
    expect((await disks.list()).body['volumes'][1]).toMatchObject({ rotate: null });
  });
});

describe('a release with a NitroTPM document', () => {
  const nitro = makeNitro();
  const rsa = (bits: number) =>
    plain(
      generateKeyPairSync('rsa', { modulusLength: bits }).publicKey.export({ type: 'spki', format: 'der' }),
    );
  const { privateKey, publicKey: itsPublicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const publicKey = plain(itsPublicKey.export({ type: 'spki', format: 'der' }));
  const document =
    (options: { fields?: object; instanceId?: string; kind?: 'enclave' } = {}) =>
    (t: Buffer) =>
      makeDocument(nitro, {
        instanceId: vm.id,
        ...options,
        fields: {
          timestamp: world.now().getTime(),
          user_data: plain(t),
          public_key: publicKey,
          ...options.fields,
        },
      });
  beforeEach(async () => {
    api = await createApi(world, 'embedded', undefined, nitro.roots);
    disks = diskAgent(api, agent);
  });

  test('passes on what KMS sealed to the TPM’s key, and never has the key itself', async () => {
    const { status, body, key } = await disks.release(disk, 1, {}, document());
    expect([status, body['forRecipient']]).toEqual([200, true]);
    const plaintext = world.plaintextOf(item().generations[0]?.['wrappedKey'] as string) as Buffer;
    expect(key?.includes(plaintext)).toBe(false);
    const { encryptedKey } = parseRecipientEnvelope(key as Buffer);
    expect(privateDecrypt({ key: privateKey, oaepHash: 'sha256' }, encryptedKey)).toHaveLength(32);
  });

  test.each<[string, Parameters<typeof document>[0]]>([
    ['another request', { fields: { user_data: new Uint8Array(64) } }],
    ['another instance', { instanceId: 'i-0000000b' }],
    ['an enclave', { kind: 'enclave' }],
    ['a time long ago', { fields: { timestamp: 1_700_000_000_000 } }],
    ['no key', { fields: { public_key: null } }],
    ['a key of another size', { fields: { public_key: rsa(3072) } }],
  ])('is refused for one of %s, and KMS is not asked', async (_, options) => {
    await expect(disks.release(disk, 1, {}, document(options))).resolves.toMatchObject({ status: 403 });
    expect(decisions().at(-1)).toMatchObject({ reasons: ['DOCUMENT_REFUSED'] });
    expect(world.kmsCalls).not.toContain('Decrypt');
  });

  test('is refused for a document that somebody else signed', async () => {
    const forged = makeNitro();
    const made = (t: Buffer) =>
      makeDocument(forged, { instanceId: vm.id, fields: { user_data: plain(t), public_key: publicKey } });
    await expect(disks.release(disk, 1, {}, made)).resolves.toMatchObject({ status: 403 });
  });
});
