import { beforeEach, describe, expect, test } from '@jest/globals';
import { createHandler } from '../../lambdas/deny-credentials/handler.ts';
import { createHandler as sweep } from '../../lambdas/sweep/handler.ts';
import { DENIAL_POLICY, DENIALS_PK, roomFor } from '../../lib/domain/credentials.ts';
import type { IsolationItem } from '../../lib/domain/isolation.ts';
import { fakeIam } from '../world/iam.ts';
import { isolationSettings } from '../world/isolation.ts';
import { anIsolation, anOperator, aVm } from '../world/items.ts';
import { CONTEXT, enveloped, sqsEvent } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

const PREFIX = 'arn:aws:ec2:eu-west-1:123456789012:instance/';
const idOf = (n: number) => `i-${n.toString(16).padStart(17, '0')}`;

let world: World;
let iam: ReturnType<typeof fakeIam>;
let handle: ReturnType<typeof createHandler>;
const inRoles = (...roleNames: string[]) =>
  createHandler({ ...world.common(), iam: iam.client, roleNames, instanceArnPrefix: PREFIX });
beforeEach(() => {
  world = createWorld();
  iam = fakeIam(['web', 'db', 'other']);
  handle = inRoles('web', 'db');
});

const put = (id: string, profile: IsolationItem['profile'], more: Partial<IsolationItem> = {}) =>
  world.rows.set(`isolation#${id}`, {
    ...anIsolation({ pk: `isolation#${id}`, instanceId: id, profile, ...more }),
  });
const see = (id: string, state = 'running') =>
  world.rows.set(`vm#${id}`, { ...aVm({ observation: { instanceId: id, state } as never }) });
const contain = (id: string) => {
  see(id);
  put(id, 'quarantine');
};
const told = (...ids: string[]) =>
  handle(
    sqsEvent(
      ...ids.map((instanceId) =>
        enveloped('casemate', 'Isolation Changed', {
          schemaVersion: 1,
          instanceId,
          at: world.now().toISOString(),
          profile: 'quarantine',
          applied: true,
          mode: 'enforce',
          interfaces: [],
          reasons: [],
        }),
      ),
    ),
    CONTEXT,
  );
const done = { batchItemFailures: [] };
const policyOf = (role: string) => {
  const text = iam.roles.get(role)?.get(DENIAL_POLICY);
  return text === undefined ? undefined : (JSON.parse(text) as { Statement: Record<string, unknown>[] });
};
const deniedIn = (role: string): unknown => {
  const [statement] = policyOf(role)?.Statement ?? [];
  return (statement?.['Condition'] as Record<string, Record<string, unknown>> | undefined)?.['ArnEquals']?.[
    'ec2:SourceInstanceARN'
  ];
};

describe('the credentials of a VM that is contained', () => {
  test('are denied everything, in the named roles alone', async () => {
    contain(idOf(1));
    await expect(told(idOf(1))).resolves.toEqual(done);
    expect(policyOf('web')?.Statement).toEqual([
      {
        Sid: 'CasemateQuarantine',
        Effect: 'Deny',
        Action: '*',
        Resource: '*',
        Condition: { ArnEquals: { 'ec2:SourceInstanceARN': [`${PREFIX}${idOf(1)}`] } },
      },
    ]);
    expect(policyOf('db')).toEqual(policyOf('web'));
    expect(iam.roles.get('other')?.size).toBe(0);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({ applied: true, left: [], faults: [] });
  });

  test('are good again once it is given back, and the policy is gone with the last of them', async () => {
    contain(idOf(1));
    contain(idOf(2));
    await told(idOf(1), idOf(2));
    put(idOf(1), 'workload');
    await told(idOf(1));
    expect(deniedIn('web')).toEqual([`${PREFIX}${idOf(2)}`]);
    put(idOf(2), 'workload');
    await told(idOf(2));
    expect(iam.roles.get('web')?.size).toBe(0);
  });

  test('are left where it is only observed, or in probation', async () => {
    see(idOf(1));
    put(idOf(1), 'quarantine', { mode: 'observe' });
    see(idOf(2));
    put(idOf(2), 'probation');
    await told(idOf(1), idOf(2));
    expect(iam.calls).toEqual([]);
    expect(world.rows.has(DENIALS_PK)).toBe(false);
  });

  test('stay denied while nothing can be read of it, and for twelve hours after it ended', async () => {
    contain(idOf(1));
    contain(idOf(2));
    await told(idOf(1), idOf(2));
    world.rows.set(`isolation#${idOf(1)}`, { pk: `isolation#${idOf(1)}`, nonsense: true });
    see(idOf(2), 'terminated');
    await told(idOf(2));
    world.advance(12 * 3600 - 1);
    await told(idOf(2));
    expect(deniedIn('web')).toHaveLength(2);
    world.advance(1);
    await told(idOf(2));
    expect(deniedIn('web')).toEqual([`${PREFIX}${idOf(1)}`]);
  });

  test('are denied again when somebody took the policy away', async () => {
    contain(idOf(1));
    await told(idOf(1));
    iam.roles.get('db')?.clear();
    await told(idOf(1));
    expect(deniedIn('db')).toEqual([`${PREFIX}${idOf(1)}`]);
    iam.calls.length = 0;
    await told(idOf(1));
    expect(iam.calls).toEqual(['GetRolePolicy web', 'GetRolePolicy db']);
  });
});

test('a sweep finds that the message of a contained VM got lost, and its credentials are denied', async () => {
  const vm = launch(world, 1);
  world.stateChange(vm);
  const pk = `operator#${vm.id}`;
  world.rows.set(pk, { ...anOperator(), pk, instanceId: vm.id });
  const looking = sweep({
    ...world.common(),
    ec2: world.client,
    observeQueueUrl: 'https://sqs.eu-west-1.amazonaws.com/123456789012/observe',
    ...isolationSettings('enforce'),
    deniesCredentials: true,
  });
  // What was announced to nobody: only apply-isolation and the others of the world took it.
  await world.drain();
  await world.sweep();
  await world.drain();
  await expect(world.sweep()).resolves.toMatchObject({ diverged: 0 });
  await world.drain();
  await expect(looking({}, CONTEXT)).resolves.toMatchObject({ diverged: 1 });
  world.announced.length = 0;
  await world.drain();
  // What the sweep had observe-vm say again.
  const again = world.announced.filter(({ detailType }) => detailType === 'VM Changed');
  expect(again.map(({ detail }) => detail['instanceId'])).toEqual([vm.id]);
  await handle(
    sqsEvent(...again.map(({ detailType, detail }) => enveloped('casemate', detailType, detail))),
    CONTEXT,
  );
  expect(deniedIn('web')).toEqual([`${PREFIX}${vm.id}`]);
  await expect(looking({}, CONTEXT)).resolves.toMatchObject({ diverged: 0 });
});

describe('what keeps credentials from being denied', () => {
  test('is said as CREDENTIALS_NO_ROLE, and the other roles are changed', async () => {
    handle = inRoles('gone', 'web');
    contain(idOf(1));
    await expect(told(idOf(1))).resolves.toEqual(done);
    expect(deniedIn('web')).toHaveLength(1);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({
      applied: false,
      faults: [{ role: 'gone', reason: 'CREDENTIALS_NO_ROLE' }],
    });
  });

  test('is said as CREDENTIALS_NO_ROOM where other inline policies leave none, and what stood before stands', async () => {
    contain(idOf(1));
    await told(idOf(1));
    iam.roles.get('web')?.set('theirs', 'x'.repeat(9_950));
    contain(idOf(2));
    contain(idOf(3));
    await told(idOf(2), idOf(3));
    expect(deniedIn('web')).toEqual([`${PREFIX}${idOf(1)}`]);
    expect(deniedIn('db')).toHaveLength(3);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({
      applied: false,
      faults: [{ role: 'web', reason: 'CREDENTIALS_NO_ROOM' }],
    });
  });

  test('is no room for more VMs: those that are denied stay so, the others follow as one is given back', async () => {
    const room = roomFor(PREFIX);
    const ids = Array.from({ length: room + 1 }, (_, i) => idOf(i + 1));
    for (const id of ids) contain(id);
    await told(...ids);
    expect(deniedIn('web')).toHaveLength(room);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({ applied: true, left: [ids[room]] });
    put(ids[0] as string, 'workload');
    await told(ids[0] as string);
    expect(deniedIn('web')).toContain(`${PREFIX}${ids[room]}`);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({ left: [] });
  });
});

describe('when a worker dies or is overtaken', () => {
  test.each([1, 2])('after its write %i, its message brings the roles to where they belong', async (n) => {
    contain(idOf(1));
    world.effects.killAfter(n);
    const first = await told(idOf(1));
    expect(first.batchItemFailures).toHaveLength(1);
    world.effects.revive();
    await expect(told(idOf(1))).resolves.toEqual(done);
    expect(deniedIn('web')).toEqual([`${PREFIX}${idOf(1)}`]);
    expect(world.rows.get(DENIALS_PK)).toMatchObject({ applied: true });
  });

  test.each([
    ['that denies one more', (): void => contain(idOf(1))],
    // Its list is the one that stood, so all that shows it is that it had to change a role.
    ['that has nothing to change', (): void => undefined],
  ])('between its look and its change, a worker %s does not undo what another did', async (_, first) => {
    contain(idOf(3));
    await told(idOf(3));
    first();
    contain(idOf(2));
    const send = iam.client.send.bind(iam.client) as (command: unknown) => Promise<unknown>;
    const changed = enveloped('casemate', 'VM Changed', {
      schemaVersion: 1,
      instanceId: idOf(2),
      at: world.now().toISOString(),
      state: 'running',
      managed: true,
      leavingScope: false,
      gone: false,
    });
    let overtaken = false;
    iam.client.send = (async (command: unknown) => {
      if (!overtaken) {
        overtaken = true;
        await inRoles('web', 'db')(sqsEvent(changed), CONTEXT);
      }
      return send(command);
    }) as typeof iam.client.send;
    await told(idOf(1));
    await told(idOf(1));
    expect(deniedIn('web')).toContain(`${PREFIX}${idOf(2)}`);
    expect(deniedIn('db')).toEqual(deniedIn('web'));
  });
});
