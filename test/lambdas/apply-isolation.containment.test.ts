import { AutoScalingClient } from '@aws-sdk/client-auto-scaling';
import { describe, expect, test } from '@jest/globals';
import { parseProfiles } from '../../lib/domain/profiles.ts';
import { QUOTA_PK, QUOTA_SECONDS, quotaItemOf } from '../../lib/domain/quotas.ts';
import type { WorldVm } from '../world/ec2.ts';
import { WorkerKilled } from '../world/effects.ts';
import type { IsolationSettings } from '../world/isolation.ts';
import { anOperator, aPosture, DECISION } from '../world/items.ts';
import { CONTEXT, enveloped, sqsEvent } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';

const ORIGINALS = ['sg-0000aaaa', 'sg-0000bbbb'];
const VPC = 'vpc-0a1b2c3d4e5f60718';
const EGRESS = { kind: 'https-anywhere' as const };
let world: World;

async function start(isolation: Partial<IsolationSettings> = {}, vms = 1, overrides: Partial<WorldVm> = {}) {
  world = createWorld({ isolation });
  const launched = Array.from({ length: vms }, (_, i) => launch(world, i + 1, structuredClone(overrides)));
  await observe(...launched);
  return launched as [WorldVm, ...WorldVm[]];
}
/** Puts VMs into the table as observe-vm does, and empties the queues behind it. */
async function observe(...vms: WorldVm[]) {
  for (const each of vms) world.stateChange(each);
  while ((world.queues.get('observe-vm') ?? []).length > 0) {
    await world.deliver('observe-vm', world.queues.get('observe-vm') ?? []);
  }
  for (const queue of world.queues.keys()) world.queues.set(queue, []);
  world.announced.length = 0;
}
const changed = (vm: WorldVm) =>
  enveloped('casemate', 'VM Changed', {
    schemaVersion: 1,
    instanceId: vm.id,
    at: world.now().toISOString(),
    state: 'running',
    managed: true,
    leavingScope: false,
    gone: false,
  });
const run = (...vms: WorldVm[]) => world.handlers['apply-isolation'](sqsEvent(...vms.map(changed)), CONTEXT);
const judged = (vm: WorldVm, verdict: 'compliant' | 'noncompliant' | 'unproven') => {
  const pk = `posture#${vm.id}`;
  const validUntil = new Date(world.now().getTime() + 900_000).toISOString();
  world.rows.set(pk, { ...aPosture({ pk, instanceId: vm.id, verdict, validUntil }) });
};
const operator = (vm: WorldVm, set: Parameters<typeof anOperator>[0] = {}) => {
  const pk = `operator#${vm.id}`;
  world.rows.set(pk, { ...anOperator(set), pk, instanceId: vm.id });
};
const item = (vm: WorldVm) => world.rows.get(`isolation#${vm.id}`) as Record<string, unknown>;
const groupOf = (name: string) =>
  [...world.groups.values()].find((group) => group.GroupName === name && group.VpcId === VPC);
const idOf = (name: string) => groupOf(name)?.GroupId ?? `no group ${name}`;
const groupsOn = (vm: WorldVm) => vm.interfaces.map((eni) => eni.groups);
const said = () => world.announced.at(-1)?.detail['reasons'];

describe('a fenced interface that somebody else changes', () => {
  test('is put back three times within ten minutes, then left, announced each time, until ten minutes passed', async () => {
    const [vm] = await start();
    await run(vm);
    const drift = async () => {
      (vm.interfaces[0] as { groups: string[] }).groups = ['sg-0000dddd'];
      world.advance(30);
      await run(vm);
    };
    for (let i = 0; i < 3; i++) {
      await drift();
      expect(groupsOn(vm)).toEqual([[idOf('casemate-probation')]]);
      expect(said()).toContain('DRIFT_PUT_BACK');
    }
    await drift();
    expect(groupsOn(vm)).toEqual([['sg-0000dddd']]);
    expect(item(vm)).toMatchObject({ applied: false, interfaces: [{ originals: ORIGINALS }] });
    expect(said()).toContain('DRIFT_FOUGHT');
    world.advance(570);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-probation')]]);
    expect(item(vm)).toMatchObject({ applied: true });
    expect(item(vm)['reasons']).not.toContain('DRIFT_FOUGHT');
  });

  test('is contained nevertheless when an operator says so', async () => {
    const [vm] = await start();
    await run(vm);
    for (let i = 0; i < 4; i++) {
      (vm.interfaces[0] as { groups: string[] }).groups = ['sg-0000dddd'];
      await run(vm);
    }
    expect(groupsOn(vm)).toEqual([['sg-0000dddd']]);
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    expect(item(vm)).toMatchObject({ applied: true });
  });
});

test('a change in workload is reported once and left', async () => {
  const [vm] = await start();
  judged(vm, 'compliant');
  await run(vm);
  (vm.interfaces[0] as { groups: string[] }).groups = ['sg-0000dddd'];
  await run(vm);
  expect(groupsOn(vm)).toEqual([['sg-0000dddd']]);
  expect(said()).toContain('DRIFT_REPORTED');
  world.announced.length = 0;
  await run(vm);
  expect(world.announced).toEqual([]);
});

describe('blast-radius guards', () => {
  const guards = (overrides: Partial<IsolationSettings['guards']> = {}): Partial<IsolationSettings> => ({
    guards: {
      share: 0.25,
      minimum: 2,
      windowSeconds: 3600,
      protected: { instanceIds: [], autoScalingGroups: [] },
      ...overrides,
    },
  });
  const quarantined = (vms: WorldVm[]) =>
    vms.filter((vm) => groupsOn(vm)[0]?.[0] === idOf('casemate-quarantine'));
  const inWorkload = async (vms: WorldVm[]) => {
    for (const vm of vms) judged(vm, 'compliant');
    await run(...vms);
  };

  test('let policy contain a quarter of a VPC within an hour; the others wait where they are, and it is said', async () => {
    const vms = await start(guards(), 12);
    await inWorkload(vms);
    for (const vm of vms) judged(vm, 'noncompliant');
    await run(...vms);
    expect(quarantined(vms)).toHaveLength(3);
    const waiting = vms.filter((vm) => !quarantined(vms).includes(vm));
    for (const vm of waiting) {
      expect(groupsOn(vm)).toEqual([ORIGINALS]);
      expect(item(vm)).toMatchObject({ profile: 'workload' });
      expect(item(vm)['reasons']).toContain('GUARD_REACHED');
    }
    expect(world.rows.get(`guard#vpc/${VPC}`)).toMatchObject({
      contained: { length: 3 },
      scope: `vpc/${VPC}`,
    });
    // The sweep goes on once the window has passed.
    world.advance(3601);
    for (const vm of vms) judged(vm, 'noncompliant');
    await run(...waiting);
    expect(quarantined(vms)).toHaveLength(6);
  });

  test('never hold back an operator', async () => {
    const vms = await start(guards({ minimum: 1, share: 0.01 }), 3);
    await inWorkload(vms);
    for (const vm of vms) operator(vm);
    await run(...vms);
    expect(quarantined(vms)).toHaveLength(3);
  });

  test('count a VM that fell back to probation, but none that starts there', async () => {
    const vms = await start(guards({ minimum: 1, share: 0.01 }), 3);
    await run(...vms); // all of them start in probation
    expect(vms.map((vm) => groupsOn(vm)[0])).toEqual(vms.map(() => [idOf('casemate-probation')]));
    await inWorkload(vms);
    for (const vm of vms) judged(vm, 'unproven');
    await run(...vms);
    expect(vms.filter((vm) => groupsOn(vm)[0]?.[0] === idOf('casemate-probation'))).toHaveLength(1);
  });

  test('keep what starts noncompliant in probation when they are reached', async () => {
    const vms = await start(guards({ minimum: 1, share: 0.01 }), 2);
    for (const vm of vms) judged(vm, 'noncompliant');
    await run(...vms);
    expect(vms.map((vm) => groupsOn(vm)[0]?.[0]).sort()).toEqual(
      [idOf('casemate-probation'), idOf('casemate-quarantine')].sort(),
    );
  });

  test.each([
    ['Auto Scaling group', { 'aws:autoscaling:groupName': 'web' }, 'guard#asg/web'],
    ['tenant', { 'casemate:tenant': 'acme' }, 'guard#tenant/acme'],
  ])('count by %s, too', async (_, tags, pk) => {
    const vms = await start(guards({ minimum: 1, share: 0.3 }), 4, {
      tags: { 'casemate:protect': 'true', ...tags },
    });
    const others = Array.from({ length: 16 }, (_, i) => launch(world, 100 + i));
    await observe(...others);
    await inWorkload([...vms, ...others]);
    for (const vm of vms) judged(vm, 'noncompliant');
    await run(...vms);
    // 0.3 of 20 in the VPC would be six.
    expect(quarantined(vms)).toHaveLength(1);
    expect(world.rows.get(pk)).toMatchObject({ contained: { length: 1 } });
  });

  test('count twice at once no more than once', async () => {
    const vms = await start(guards({ minimum: 2, share: 0.01 }), 6);
    await inWorkload(vms);
    for (const vm of vms) judged(vm, 'noncompliant');
    await Promise.all([run(...vms.slice(0, 3)), run(...vms.slice(3))]);
    expect(quarantined(vms)).toHaveLength(2);
  });

  test('are opened by an operator', async () => {
    const vms = await start(guards({ minimum: 1, share: 0.01 }), 3);
    await inWorkload(vms);
    for (const vm of vms) judged(vm, 'noncompliant');
    const pk = `guard#vpc/${VPC}`;
    const until = new Date(world.now().getTime() + 60_000).toISOString();
    world.rows.set(pk, {
      pk,
      version: 1,
      scope: `vpc/${VPC}`,
      contained: [],
      reachedAt: null,
      open: { ...DECISION, until },
    });
    await run(...vms);
    expect(quarantined(vms)).toHaveLength(3);
  });

  test('contain nothing when what they know cannot be read', async () => {
    const [vm] = await start(guards());
    await inWorkload([vm]);
    judged(vm, 'noncompliant');
    world.rows.set(`guard#vpc/${VPC}`, { pk: `guard#vpc/${VPC}`, nonsense: true });
    await expect(run(vm)).resolves.toMatchObject({ batchItemFailures: [{}] });
    expect(groupsOn(vm)).toEqual([ORIGINALS]);
  });

  test('never let policy contain a protected VM; an operator can', async () => {
    const [vm] = await start(guards({ protected: { instanceIds: ['i-00000001'], autoScalingGroups: [] } }));
    judged(vm, 'noncompliant');
    await run(vm);
    expect(groupsOn(vm)).toEqual([ORIGINALS]);
    expect(item(vm)['reasons']).toContain('PROTECTED_FROM_POLICY');
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
  });

  test('take a protected Auto Scaling group by the tag that only EC2 sets', async () => {
    const [vm] = await start(guards({ protected: { instanceIds: [], autoScalingGroups: ['db'] } }), 1, {
      tags: { 'casemate:protect': 'true', 'aws:autoscaling:groupName': 'db' },
    });
    judged(vm, 'noncompliant');
    await run(vm);
    expect(groupsOn(vm)).toEqual([ORIGINALS]);
  });
});

describe('enforcing for a share of the fleet', () => {
  test('fences those in the share, and only plans the others', async () => {
    const vms = await start({ enforcement: { mode: 'enforce', share: 0.5 } }, 20);
    await run(...vms);
    const fenced = vms.filter((vm) => groupsOn(vm)[0]?.[0] === idOf('casemate-probation'));
    expect(fenced.length).toBeGreaterThan(0);
    expect(fenced.length).toBeLessThan(16);
    for (const vm of vms) {
      expect(item(vm)).toMatchObject({ mode: fenced.includes(vm) ? 'enforce' : 'observe' });
    }
  });

  test('contains whom an operator names, and gives back what was taken, outside of the share as well', async () => {
    const [vm] = await start({ enforcement: { mode: 'enforce', share: 1e-9 } });
    judged(vm, 'compliant');
    await run(vm);
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    operator(vm, { quarantine: undefined });
    await run(vm);
    expect(groupsOn(vm)).toEqual([ORIGINALS]);
  });
});

describe('cutting tracked flows', () => {
  const cutting = { cutTrackedFlows: true };
  const swaps = (vm: WorldVm) =>
    world.effects.names.filter((name) => name === `groups of ${vm.interfaces[0]?.id}`).length;
  const redriven = () =>
    (world.queues.get('apply-isolation') ?? []).filter((m) => m.body.includes('Look Again'));

  test('opens a contained interface for a moment, after a message that comes back to it, and closes it', async () => {
    const [vm] = await start(cutting);
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    expect(swaps(vm)).toBe(3); // closed, opened, closed
    expect(item(vm)).toMatchObject({ applied: true, steps: [{ kind: 'cut', state: 'done', attempts: 1 }] });
    expect(redriven()).toHaveLength(1);
    const { names } = world.effects;
    const later = names.indexOf('look again later');
    const touched = names.flatMap((name, i) => (name === `groups of ${vm.interfaces[0]?.id}` ? [i] : []));
    expect(touched[0]).toBeLessThan(later);
    expect(touched[1]).toBeGreaterThan(later);
    // Both protocols, both ways: what is allowed from anywhere to anywhere is not tracked.
    const all = [
      { IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] },
      { IpProtocol: '-1', Ipv6Ranges: [{ CidrIpv6: '::/0' }] },
    ];
    expect(groupOf('casemate-cut')).toMatchObject({ IpPermissions: all });
    expect(groupOf('casemate-cut')?.IpPermissionsEgress).toEqual(expect.arrayContaining(all));
    await run(vm);
    expect(swaps(vm)).toBe(3);
  });

  test('is refused for an interface with a public address, and said', async () => {
    const [vm] = await start(cutting, 1, {
      interfaces: [{ id: 'eni-00000001', groups: ORIGINALS, publicAddress: true }],
    });
    operator(vm);
    await run(vm);
    expect(swaps(vm)).toBe(1);
    expect(item(vm)).toMatchObject({ applied: true, steps: [{ state: 'refused' }] });
    expect(item(vm)['reasons']).toContain('CUT_REFUSED_PUBLIC');
    world.announced.length = 0;
    await run(vm);
    expect(world.announced).toEqual([]);
  });

  test('is not said to be refused any more once that interface is gone', async () => {
    const [vm] = await start(cutting, 1, {
      interfaces: [
        { id: 'eni-00000001', groups: ORIGINALS },
        { id: 'eni-00000002', groups: ORIGINALS, publicAddress: true },
      ],
    });
    operator(vm);
    await run(vm);
    expect(item(vm)['reasons']).toContain('CUT_REFUSED_PUBLIC');
    vm.interfaces.pop();
    await run(vm);
    expect(item(vm)['reasons']).not.toContain('CUT_REFUSED_PUBLIC');
  });

  test('happens only once the quarantine was read back', async () => {
    const [vm] = await start(cutting);
    operator(vm);
    const heal = world.fail('ModifyNetworkInterfaceAttribute', new Error('no'));
    await run(vm);
    expect(item(vm)).toMatchObject({ applied: false, steps: [] });
    expect(redriven()).toEqual([]);
    heal();
  });

  test('ends closed and cut whenever the worker dies, and meanwhile is never called contained', async () => {
    for (let n = 1; n < 40; n++) {
      const [vm] = await start(cutting);
      operator(vm);
      await run(vm); // makes the groups
      operator(vm, { quarantine: undefined });
      judged(vm, 'compliant');
      await run(vm);
      world.queues.set('apply-isolation', []);
      operator(vm);
      world.effects.killAfter(n);
      const died = await run(vm).then(
        (answer) => answer.batchItemFailures.length > 0,
        (error: unknown) => error instanceof WorkerKilled,
      );
      world.effects.revive();
      const open = groupsOn(vm)[0]?.includes(idOf('casemate-cut'));
      if (open) expect(item(vm)).toMatchObject({ applied: false, steps: [{ state: 'planned' }] });
      if (open) expect(redriven()).toHaveLength(1);
      await run(vm);
      expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
      expect(item(vm)).toMatchObject({
        applied: true,
        steps: [{ state: 'done' }],
        interfaces: [{ originals: ORIGINALS }],
      });
      if (!died) return;
    }
    throw new Error('the worker died forty times');
  }, 120_000);

  test('is given up after three attempts, and said', async () => {
    const [vm] = await start(cutting);
    operator(vm);
    world.fail('SendMessage', new Error('no'));
    for (let i = 0; i < 3; i++) {
      await expect(run(vm)).resolves.toMatchObject({ batchItemFailures: [{}] });
    }
    await run(vm);
    expect(item(vm)).toMatchObject({ applied: true, steps: [{ state: 'failed', attempts: 3 }] });
    expect(item(vm)['reasons']).toContain('CUT_FAILED');
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
  });
});

describe('Elastic IP addresses', () => {
  const withAddress = async (more: Partial<IsolationSettings> = {}) => {
    const [vm] = await start({ detachElasticIps: true, ...more });
    const eni = vm.interfaces[0]?.id ?? '';
    world.addresses.set('eipalloc-1', { allocationId: 'eipalloc-1', interfaceId: eni });
    judged(vm, 'compliant');
    await run(vm);
    return { vm, eni, address: () => world.addresses.get('eipalloc-1') };
  };

  test('are taken in quarantine and given back to the same interface afterwards', async () => {
    const { vm, eni, address } = await withAddress();
    operator(vm);
    await run(vm);
    expect(address()?.interfaceId).toBeUndefined();
    expect(item(vm)).toMatchObject({
      steps: [{ kind: 'elastic-ip', allocationId: 'eipalloc-1', interfaceId: eni, state: 'done' }],
    });
    operator(vm, { quarantine: undefined });
    await run(vm);
    expect(address()?.interfaceId).toBe(eni);
    expect(item(vm)).toMatchObject({ profile: 'workload', applied: true, steps: [] });
  });

  test('that were taken do not keep flows from being cut at once; a public one of the interface does', async () => {
    const { vm, eni } = await withAddress({ cutTrackedFlows: true });
    operator(vm);
    await run(vm);
    expect(item(vm)).toMatchObject({
      applied: true,
      steps: [
        { kind: 'cut', interfaceId: eni, state: 'done' },
        { kind: 'elastic-ip', state: 'done' },
      ],
    });
    expect(said()).not.toContain('CUT_REFUSED_PUBLIC');

    const other = await withAddress({ cutTrackedFlows: true });
    Object.assign(other.vm.interfaces[0] ?? {}, { publicAddress: true });
    operator(other.vm);
    await run(other.vm);
    expect(item(other.vm)).toMatchObject({ steps: [{ kind: 'cut', state: 'refused' }, { state: 'done' }] });
    expect(said()).toContain('CUT_REFUSED_PUBLIC');
  });

  test('that somebody put elsewhere meanwhile stay there, which is said', async () => {
    const { vm, address } = await withAddress();
    operator(vm);
    await run(vm);
    Object.assign(address() ?? {}, { interfaceId: 'eni-0000ffff' });
    operator(vm, { quarantine: undefined });
    await run(vm);
    expect(address()?.interfaceId).toBe('eni-0000ffff');
    expect(said()).toContain('ADDRESS_ELSEWHERE');
    expect(item(vm)).toMatchObject({ steps: [] });
  });

  test('whose interface is detached are given back once it is attached again', async () => {
    const [vm] = await start({ detachElasticIps: true }, 1, {
      interfaces: [
        { id: 'eni-00000001', groups: ORIGINALS },
        { id: 'eni-00000002', groups: ORIGINALS },
      ],
    });
    const address = { allocationId: 'eipalloc-1', interfaceId: 'eni-00000002' as string | undefined };
    world.addresses.set('eipalloc-1', address);
    judged(vm, 'compliant');
    operator(vm);
    await run(vm);
    const [detached] = vm.interfaces.splice(1);
    operator(vm, { quarantine: undefined });
    await run(vm);
    expect(address.interfaceId).toBeUndefined();
    expect(item(vm)).toMatchObject({ steps: [{ kind: 'elastic-ip', interfaceId: 'eni-00000002' }] });
    if (detached) vm.interfaces.push(detached);
    await run(vm);
    expect(address.interfaceId).toBe('eni-00000002');
    expect(item(vm)).toMatchObject({ steps: [] });
  });

  test('are known wherever the worker dies: nothing that was taken is forgotten', async () => {
    for (let n = 1; n < 30; n++) {
      const { vm, eni, address } = await withAddress();
      operator(vm);
      world.effects.killAfter(n);
      const died = await run(vm).then(
        (answer) => answer.batchItemFailures.length > 0,
        (error: unknown) => error instanceof WorkerKilled,
      );
      world.effects.revive();
      await run(vm);
      expect(address()?.interfaceId).toBeUndefined();
      operator(vm, { quarantine: undefined });
      await run(vm);
      expect(address()?.interfaceId).toBe(eni);
      if (!died) return;
    }
    throw new Error('the worker died thirty times');
  }, 60_000);
});

describe('a VM of an Auto Scaling group', () => {
  const inGroup = { tags: { 'casemate:protect': 'true', 'aws:autoscaling:groupName': 'web' } };
  let asked: { readonly call: string; readonly input: Record<string, unknown> }[];
  let answer: () => Promise<unknown>;
  const standby = (overrides: Partial<IsolationSettings> = {}): Partial<IsolationSettings> => {
    asked = [];
    answer = async () => ({});
    const autoScaling = Object.create(AutoScalingClient.prototype) as AutoScalingClient;
    autoScaling.send = (async (command: { input: Record<string, unknown> }) => {
      asked.push({ call: command.constructor.name.replace(/Command$/, ''), input: command.input });
      return answer();
    }) as never;
    return { autoScaling, ...overrides };
  };

  test('goes into standby before it is contained, and back into service once its groups were given back', async () => {
    const [vm] = await start(standby(), 1, inGroup);
    operator(vm);
    let groupsThen: string[][] = [];
    answer = async () => {
      groupsThen = groupsOn(vm);
      return {};
    };
    await run(vm);
    expect(groupsThen).toEqual([ORIGINALS]);
    expect(asked).toEqual([
      {
        call: 'EnterStandby',
        input: {
          AutoScalingGroupName: 'web',
          InstanceIds: [vm.id],
          ShouldDecrementDesiredCapacity: false,
        },
      },
    ]);
    expect(item(vm)).toMatchObject({ applied: true, steps: [{ kind: 'standby', state: 'done' }] });
    operator(vm, { quarantine: undefined });
    judged(vm, 'compliant');
    await run(vm);
    expect(asked.at(-1)).toMatchObject({ call: 'ExitStandby', input: { InstanceIds: [vm.id] } });
    expect(item(vm)).toMatchObject({ profile: 'workload', applied: true, steps: [] });
  });

  test('is contained all the same when it cannot be put into standby, and that is said', async () => {
    const [vm] = await start(standby(), 1, inGroup);
    answer = async () => {
      throw Object.assign(new Error('not in service'), { name: 'ValidationError' });
    };
    operator(vm);
    await expect(run(vm)).resolves.toEqual({ batchItemFailures: [] });
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    expect(said()).toContain('STANDBY_FAILED');
    await run(vm);
    expect(asked).toHaveLength(1);
  });

  test('is replaced only so often within an hour, and contained all the same', async () => {
    const vms = await start(standby({ replacementsPerHour: 2 }), 3, inGroup);
    for (const vm of vms) {
      operator(vm);
      await run(vm);
    }
    expect(asked.map(({ input }) => input['ShouldDecrementDesiredCapacity'])).toEqual([false, false, true]);
    for (const vm of vms) expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    expect(item(vms[2] as WorldVm)['reasons']).toContain('REPLACEMENTS_HALTED');
  });

  test('is contained without a replacement when the breaker cannot be read', async () => {
    const [vm] = await start(standby(), 1, inGroup);
    world.rows.set('guard#replacements/web', { pk: 'guard#replacements/web', nonsense: true });
    operator(vm);
    await run(vm);
    expect(asked[0]?.input).toMatchObject({ ShouldDecrementDesiredCapacity: true });
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
  });
});

describe('profiles of a deployment', () => {
  const profiles = (file: object) =>
    parseProfiles(
      {
        schemaVersion: 1,
        profiles: {
          probation: { egress: [{ peer: 'agent-endpoints' }] },
          workload: { originals: true },
          quarantine: {},
          ...(file as { profiles?: object }).profiles,
        },
        ...Object.fromEntries(Object.entries(file).filter(([key]) => key !== 'profiles')),
      },
      EGRESS,
    );
  const tenants = {
    profiles: profiles({
      profiles: { together: { sameTenant: true } },
      use: [{ stage: 'workload', profile: 'together', tag: { key: 'segment', value: 'micro' } }],
    }),
  };
  const tagged = (tenant: string) => ({
    'casemate:protect': 'true',
    segment: 'micro',
    'casemate:tenant': tenant,
  });

  test('let VMs of one tenant reach each other and nobody else', async () => {
    const [one, two, other] = await start(tenants, 3);
    if (!two || !other) throw new Error('three VMs were launched');
    Object.assign(one.tags, tagged('acme'));
    Object.assign(two.tags, tagged('acme'));
    Object.assign(other.tags, tagged('umbrella'));
    await observe(one, two, other);
    for (const vm of [one, two, other]) judged(vm, 'compliant');
    await run(one, two, other);
    const [group] = groupsOn(one)[0] ?? [];
    expect(groupsOn(two)).toEqual([[group]]);
    expect(groupsOn(other)[0]).not.toContain(group);
    const self = [{ IpProtocol: '-1', UserIdGroupPairs: [{ GroupId: group }] }];
    expect(world.groups.get(group ?? '')).toMatchObject({ IpPermissions: self, IpPermissionsEgress: self });
    expect(item(one)).toMatchObject({
      profile: 'workload',
      definition: 'together',
      tenant: 'acme',
      applied: true,
      interfaces: [{ originals: ORIGINALS }],
    });
  });

  test('do not let a VM in among another tenant by its tag, until an operator confirms', async () => {
    const [vm] = await start(tenants);
    Object.assign(vm.tags, tagged('acme'));
    await observe(vm);
    judged(vm, 'compliant');
    await run(vm);
    const before = groupsOn(vm);
    Object.assign(vm.tags, tagged('umbrella'));
    await observe(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual(before);
    expect(item(vm)).toMatchObject({ tenant: 'acme' });
    expect(item(vm)['reasons']).toContain('TENANT_CHANGED');
    operator(vm, { quarantine: undefined, tenant: { ...DECISION, tenant: 'umbrella' } });
    await run(vm);
    expect(item(vm)).toMatchObject({ tenant: 'umbrella', applied: true });
    expect(groupsOn(vm)).not.toEqual(before);
  });

  test('let a forensic source into quarantine through a group that was made for that', async () => {
    const [vm] = await start({
      profiles: profiles({
        profiles: {
          quarantine: { ingress: [{ protocol: 'tcp', ports: 22, peer: { cidr: '10.9.0.4/32' } }] },
        },
      }),
    });
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine.in1')]]);
    expect(groupOf('casemate-quarantine.in1')).toMatchObject({
      IpPermissions: [{ IpProtocol: 'tcp', FromPort: 22, ToPort: 22, IpRanges: [{ CidrIp: '10.9.0.4/32' }] }],
      IpPermissionsEgress: [],
      Tags: expect.arrayContaining([{ Key: 'casemate:ingress', Value: 'true' }]),
    });
  });

  test('give VMs that started fenced the groups of the configuration', async () => {
    const [vm] = await start({
      profiles: profiles({
        workloadGroups: [{ tag: { key: 'role', value: 'web' }, groups: ['sg-0000eeee'] }],
      }),
    });
    await run(vm); // makes the groups
    const fenced = launch(world, 2, {
      tags: { 'casemate:protect': 'true', role: 'web' },
      interfaces: [{ id: 'eni-00000002', groups: [idOf('casemate-probation')] }],
    });
    await observe(fenced);
    await run(fenced);
    expect(item(fenced)).toMatchObject({ interfaces: [{ originals: [] }], applied: true });
    judged(fenced, 'compliant');
    await run(fenced);
    expect(groupsOn(fenced)).toEqual([['sg-0000eeee']]);
    expect(item(fenced)).toMatchObject({ applied: true, interfaces: [{ originals: null }] });
  });

  test('have groups of theirs removed that nothing carries any more, and no others', async () => {
    const [vm] = await start(tenants);
    Object.assign(vm.tags, tagged('acme'));
    await observe(vm);
    judged(vm, 'compliant');
    await run(vm);
    const [tenantGroup = ''] = groupsOn(vm)[0] ?? [];
    world.groups.set('sg-0000dddd', {
      GroupId: 'sg-0000dddd',
      GroupName: 'of-somebody-else',
      VpcId: VPC,
      Tags: [],
      IpPermissions: [],
      IpPermissionsEgress: [],
    });
    operator(vm);
    world.advance(601);
    await run(vm);
    world.advance(601);
    await run(vm);
    expect(world.groups.has(tenantGroup)).toBe(false);
    expect([...world.groups.values()].map((g) => g.GroupName).sort()).toEqual([
      'casemate-probation',
      'casemate-quarantine',
      'of-somebody-else',
    ]);
  });

  test('contain an interface that has no slot left for another group: the set is replaced, not added to', async () => {
    const full = Array.from({ length: 5 }, (_, i) => `sg-0000aaa${i}`);
    const [vm] = await start({}, 1, { interfaces: [{ id: 'eni-00000001', groups: full }] });
    operator(vm);
    await run(vm);
    expect(groupsOn(vm)).toEqual([[idOf('casemate-quarantine')]]);
    operator(vm, { quarantine: undefined });
    judged(vm, 'compliant');
    await run(vm);
    expect(groupsOn(vm)).toEqual([full]);
  });
});

describe('quotas of the account', () => {
  const RULE = (ports: number) => ({ ports, peer: { cidr: '10.0.0.0/8' } });
  /** Six rules, one a group where a group takes one. */
  const profiles = (limits: object) =>
    parseProfiles(
      {
        schemaVersion: 1,
        profiles: {
          probation: { egress: [{ peer: 'agent-endpoints' }] },
          workload: { originals: true },
          quarantine: { egress: [1, 2, 3, 4, 5, 6].map(RULE) },
        },
        limits,
      },
      EGRESS,
    );
  const WANTED = ['', '.out2', '.out3', '.out4', '.out5', '.out6'].map((end) => `casemate-quarantine${end}`);
  const MANY = { groupsPerInterface: 8, rulesPerGroup: 1 };
  const read = (groupsPerInterface: number, rulesPerGroup: number) => {
    const version = Number(world.rows.get(QUOTA_PK)?.['version'] ?? 0) + 1;
    const limits = { groupsPerInterface, rulesPerGroup };
    world.rows.set(QUOTA_PK, { pk: QUOTA_PK, version, ...quotaItemOf(limits, world.now()) });
  };
  const names = (vm: WorldVm) =>
    (vm.interfaces[0]?.groups ?? []).map((id) => world.groups.get(id)?.GroupName ?? id).sort();
  /** EC2 takes no more groups than the quota is, whatever anybody believes. */
  const enforced = (quota: () => number) =>
    world.fail(
      'ModifyNetworkInterfaceAttribute',
      Object.assign(new Error('too many'), { name: 'SecurityGroupsPerInterfaceLimitExceeded' }),
      (input) => (input['Groups'] as string[]).length > quota(),
    );

  test('that are higher are used as far as the file of profiles states them', async () => {
    const [vm] = await start({ profiles: profiles(MANY) });
    enforced(() => 8);
    read(8, 60);
    judged(vm, 'noncompliant');
    await run(vm);
    expect(names(vm)).toEqual(WANTED);
    expect(item(vm)).toMatchObject({ applied: true, limits: MANY });
    expect(said()).not.toContain('PROFILE_OVER_QUOTA');
  });

  test.each<[string, () => void]>([
    ['were never read', () => undefined],
    [
      'were read a day ago',
      () => {
        read(8, 60);
        world.advance(QUOTA_SECONDS);
      },
    ],
    [
      'are an item that is not what it should be',
      () => world.rows.set(QUOTA_PK, { pk: QUOTA_PK, version: 1, groupsPerInterface: 8, rulesPerGroup: -1 }),
    ],
  ])('that %s are the defaults: contained under as many groups as fit, and said', async (_, make) => {
    const [vm] = await start({ profiles: profiles(MANY) });
    let quota = 5;
    enforced(() => quota);
    make();
    judged(vm, 'noncompliant');
    await run(vm);
    expect(names(vm)).toEqual(WANTED.slice(0, 5));
    expect(item(vm)).toMatchObject({ profile: 'quarantine', applied: true });
    expect(said()).toContain('PROFILE_OVER_QUOTA');
    expect(groupOf('casemate-quarantine.out6')).toBeUndefined();
    // With room again, the whole of it.
    quota = 6;
    read(6, 60);
    await run(vm);
    expect(item(vm)).toMatchObject({ applied: true, reasons: ['POSTURE_PROVEN'] });
  });

  test('that shrink under what is in use have every VM composed anew by the next sweep', async () => {
    const [first, second] = (await start({ profiles: profiles(MANY) }, 2)) as unknown as [WorldVm, WorldVm];
    let quota = 8;
    enforced(() => quota);
    read(8, 60);
    for (const vm of [first, second]) judged(vm, 'noncompliant');
    await run(first, second);
    expect([names(first), names(second)]).toEqual([WANTED, WANTED]);
    await world.drain();
    quota = 2;
    read(2, 60);
    await world.sweep();
    await world.drain();
    for (const vm of [first, second]) {
      expect(names(vm)).toEqual(WANTED.slice(0, 2));
      expect(item(vm)).toMatchObject({ applied: true, limits: { groupsPerInterface: 2, rulesPerGroup: 1 } });
      // It was nobody's drift.
      expect(item(vm)['drift']).toEqual([]);
      expect(item(vm)['interfaces']).toMatchObject([{ originals: ORIGINALS }]);
    }
    // And it ends there, once EC2 was looked at again.
    await world.sweep();
    await world.drain();
    await expect(world.sweep()).resolves.toMatchObject({ diverged: 0 });
  });

  test('that EC2 enforces before they were read leave the fence that there is, and the message comes back', async () => {
    const [vm] = await start({ profiles: profiles(MANY) });
    await run(vm);
    const probation = groupsOn(vm);
    read(8, 60);
    enforced(() => 2);
    judged(vm, 'noncompliant');
    await expect(run(vm)).resolves.toEqual({ batchItemFailures: [{ itemIdentifier: 'm-1' }] });
    expect(groupsOn(vm)).toEqual(probation);
    expect(item(vm)).toMatchObject({ profile: 'quarantine', applied: false });
    read(2, 60);
    await run(vm);
    expect(names(vm)).toEqual(WANTED.slice(0, 2));
    expect(item(vm)).toMatchObject({ applied: true });
  });

  test('of more rules a group make fewer groups', async () => {
    const [vm] = await start({ profiles: profiles({ groupsPerInterface: 8 }) });
    read(8, 4);
    judged(vm, 'noncompliant');
    await run(vm);
    expect(names(vm)).toEqual(WANTED.slice(0, 2));
    read(8, 100);
    await run(vm);
    expect(names(vm)).toEqual(WANTED.slice(0, 1));
    expect(groupOf('casemate-quarantine')?.IpPermissionsEgress).toHaveLength(6);
  });
});
