import * as fc from 'fast-check';
import { DEFAULT_VPC } from '../world/ec2.ts';
import { type Fate, History, LUCKY, type Luck, type Pick, SECOND_VPC, type Tally } from './history.ts';
import { PLAIN, type Setup } from './oracle.ts';

/** One thing that happens. fast-check shrinks a history to the fewest of them that still break an invariant. */
type Command = fc.AsyncCommand<History, History>;

/** A command out of what it does; its words are what a failing history is told in. */
function command<T>(
  name: string,
  arbitrary: fc.Arbitrary<T>,
  run: (history: History, value: T) => Promise<void> | void,
): fc.Arbitrary<Command> {
  return arbitrary.map((value) => ({
    check: () => true,
    async run(_model, history) {
      history.world.advance(1);
      await run(history, value);
    },
    toString: () => `${name} ${JSON.stringify(value)}`,
  }));
}

const small = fc.nat({ max: 7 });
/** How often an event tells of something: most once, some never, some twice. */
const told = fc.oneof(
  { weight: 4, arbitrary: fc.constant(1) },
  { weight: 1, arbitrary: fc.constantFrom(0, 2) },
);
const fate: fc.Arbitrary<Fate> = fc.oneof(
  { weight: 4, arbitrary: fc.constant<Fate>('fine') },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Fate>('throttled', 'unavailable', 'lost', 'stale', 'stale', 'slow'),
  },
);
/** What a worker meets: nothing, faults of its calls, or its end. */
export const luck: fc.Arbitrary<Luck> = fc.oneof(
  { weight: 2, arbitrary: fc.constant(LUCKY) },
  {
    weight: 1,
    arbitrary: fc.record({
      fates: fc.array(fate, { minLength: 6, maxLength: 26 }),
      killAfter: fc.constant(undefined),
    }),
  },
  { weight: 1, arbitrary: fc.record({ fates: fc.constant([]), killAfter: fc.integer({ min: 1, max: 6 }) }) },
);
export const pick: fc.Arbitrary<Pick> = fc.record({
  queue: small,
  start: small,
  count: fc.integer({ min: 1, max: 6 }),
  reversed: fc.boolean(),
});

const ORIGINALS = ['sg-0000aaaa', 'sg-0000bbbb', 'sg-0000cccc', 'sg-0000dddd'] as const;
const groups = fc.uniqueArray(fc.constantFrom(...ORIGINALS), { minLength: 1, maxLength: 3 });

const launched = command(
  'launch',
  fc.record({ inScope: fc.boolean(), told }),
  (history, { inScope, told: times }) => {
    if (history.vms.length >= 3) return;
    const vm = history.launch(inScope);
    history.tell(times, () => history.world.stateChange(vm));
  },
);

const state = command(
  'state',
  fc.record({ vm: small, to: fc.constantFrom('stopped', 'running', 'terminated'), told }),
  (history, { vm: n, to, told: times }) => {
    const vm = history.vm(n);
    if (vm.state === 'terminated') return;
    history.remember();
    vm.state = to;
    if (to === 'terminated') {
      history.forgetPlaces(vm);
      vm.interfaces = [];
      vm.volumes = [];
      history.ledger.touch(vm.id);
    }
    history.tell(times, () => history.world.stateChange(vm));
  },
);

const attached = command(
  'attach',
  fc.record({
    vm: small,
    kind: fc.constantFrom('own', 'second-vpc', 'requester', 'fenced', 'mixed', 'public'),
    groups,
    told,
  }),
  (history, { vm: n, kind, groups: own, told: times }) => {
    const vm = history.vm(n);
    if (vm.state === 'terminated' || vm.interfaces.length >= 4) return;
    history.remember();
    // EC2 takes groups of the interface's own VPC alone.
    const probation = [...history.ledger.own]
      .filter(([, group]) => group.name === 'probation' && group.vpcId === DEFAULT_VPC)
      .map(([id]) => id);
    const given =
      kind === 'fenced' ? probation.slice(0, 1) : kind === 'mixed' ? [...own, ...probation.slice(0, 1)] : own;
    if (given.length === 0) return;
    const eni = history.newInterface(given, {
      ...(kind === 'second-vpc' ? { vpcId: SECOND_VPC } : {}),
      ...(kind === 'requester' ? { requesterManaged: true } : {}),
      ...(kind === 'public' ? { publicAddress: true } : {}),
    });
    vm.interfaces = [...vm.interfaces, eni];
    history.ledger.hand(vm.id, eni.id, eni.groups);
    history.tell(times, () =>
      history.called('AttachNetworkInterface', { instanceId: vm.id, networkInterfaceId: eni.id }),
    );
  },
);

const detached = command(
  'detach',
  fc.record({ vm: small, eni: small, told }),
  (history, { vm: n, eni: m, told: times }) => {
    const vm = history.vm(n);
    const eni = vm.interfaces[m % Math.max(1, vm.interfaces.length)];
    if (!eni || eni === vm.interfaces[0]) return; // the primary one cannot be detached
    history.remember();
    vm.interfaces = vm.interfaces.filter((each) => each !== eni);
    history.ledger.touch(vm.id);
    history.tell(times, () => history.called('DetachNetworkInterface', { instanceId: vm.id }));
  },
);

const drifted = command(
  'edit groups',
  fc.record({ vm: small, eni: small, groups, keep: fc.boolean(), told }),
  (history, { vm: n, eni: m, groups: given, keep, told: times }) => {
    const vm = history.vm(n);
    const eni = vm.interfaces[m % Math.max(1, vm.interfaces.length)];
    if (!eni) return;
    const next = (keep ? [...new Set([...eni.groups, ...given])] : given).filter(
      (id) => !history.world.deletedGroups.has(id),
    );
    if (next.length === 0) return;
    history.remember();
    eni.groups = next;
    history.ledger.hand(vm.id, eni.id, next);
    history.tell(times, () =>
      history.called('ModifyNetworkInterfaceAttribute', { networkInterfaceId: eni.id }),
    );
  },
);

const deleted = command('delete group', fc.constantFrom(...ORIGINALS), (history, id) => {
  // EC2 refuses it while an interface has the group.
  if (history.vms.some((vm) => vm.interfaces.some((eni) => eni.groups.includes(id)))) return;
  history.world.deletedGroups.add(id);
});

const rules = command(
  'edit rules',
  fc.record({ group: small, what: fc.constantFrom('in', 'out', 'none'), told }),
  (history, { group: n, what, told: times }) => {
    const own = [...history.world.groups.values()].filter((g) => history.ledger.own.has(g.GroupId));
    const group = own[n % Math.max(1, own.length)];
    if (!group) return;
    history.remember();
    const all = { IpProtocol: '-1', IpRanges: [{ CidrIp: '0.0.0.0/0' }] };
    if (what === 'in') group.IpPermissions = [all];
    else group.IpPermissionsEgress = what === 'out' ? [...group.IpPermissionsEgress, all] : [];
    history.ledger.handRules(group.GroupId);
    history.tell(times, () => history.called('AuthorizeSecurityGroupIngress', { groupId: group.GroupId }));
  },
);

const reported = command(
  'report',
  fc.record({ vm: small, facts: fc.constantFrom('good', 'good', 'swap', 'contradicting') }),
  (history, { vm, facts }) => history.report(history.vm(vm), facts),
);

const decided = command(
  'operator',
  fc.record({
    vm: small,
    what: fc.constantFrom('quarantine', 'restore'),
    named: fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: groups }),
    told,
  }),
  (history, { vm, what, named, told: times }) => history.decide(history.vm(vm), what, named, times),
);

const address = command(
  'address',
  fc.record({
    n: fc.nat({ max: 1 }),
    vm: small,
    eni: small,
    what: fc.constantFrom('put', 'put', 'take'),
    told,
  }),
  (history, { n, vm, eni, what, told: times }) => {
    const to = what === 'put' ? history.vm(vm).interfaces : [];
    if (!history.place(`eipalloc-0000000${n}`, to[eni % Math.max(1, to.length)])) return;
    history.tell(times, () => history.world.stateChange(history.vm(vm)));
  },
);

const retagged = command(
  'tenant',
  fc.record({ vm: small, tenant: fc.constantFrom('acme', 'bank'), told }),
  (history, { vm: n, tenant, told: times }) => {
    const vm = history.vm(n);
    if (!history.setup.segments || vm.state === 'terminated') return;
    history.remember();
    vm.tags = { ...vm.tags, 'casemate:tenant': tenant };
    history.tell(times, () => history.world.stateChange(vm));
  },
);

const inService = command('in service', small, (history, n) => {
  const member = history.world.autoScaling.members.get(history.vm(n).id);
  if (member?.state === 'Pending:Wait') member.state = 'InService';
});

const groupAnswers = command('auto scaling', fc.boolean(), (history, answers) => {
  history.autoScalingAnswers = answers;
});

const asked = command('ask key', fc.record({ vm: small, luck }), (history, { vm, luck: met }) =>
  history.askKey(history.vm(vm), met),
);

const passed = command('wait', fc.constantFrom(1, 30, 601, 901, 3601), (history, seconds) =>
  history.world.advance(seconds),
);

const swept = command('sweep', luck, (history, value) => history.sweep(value));

const delivered = command('deliver', fc.record({ pick, luck }), (history, value) =>
  history.deliver(value.pick, value.luck),
);

const deliveredTwo = command(
  'two at once',
  fc.record({
    picks: fc.tuple(pick, pick),
    lucks: fc.tuple(luck, luck),
    order: fc.array(fc.nat({ max: 1 }), { minLength: 1, maxLength: 12 }),
    operator: fc.option(
      fc.record({ turn: fc.nat({ max: 20 }), vm: small, what: fc.constantFrom('quarantine', 'restore') }),
    ),
  }),
  (history, { picks, lucks, order, operator }) =>
    history.deliverTwo(
      picks,
      lucks,
      order,
      operator
        ? {
            turn: operator.turn,
            happens: () => history.decide(history.vm(operator.vm), operator.what, [], 1),
          }
        : undefined,
    ),
);

const lost = command('lose message', fc.record({ queue: small, at: small }), (history, { queue, at }) =>
  history.lose(queue, at),
);

const doubled = command('double message', fc.record({ queue: small, at: small }), (history, { queue, at }) =>
  history.duplicate(queue, at),
);

const drained = command('drain', fc.constant(null), (history) => history.drain());

const settled = command('settle', fc.constant(null), (history) => history.settle());

const deployed = command(
  'deploy',
  fc.constantFrom('observe', 'enforce', 'enforce', 'enforce'),
  (history, mode) => history.deploy(mode),
);

const LONGEST = 40;

/** Everything that can happen, what counts most more often. */
export const commands = fc.commands(
  [
    ...[delivered, delivered, delivered, delivered, delivered, delivered],
    ...[deliveredTwo, deliveredTwo, drained, drained, settled],
    ...[reported, reported, reported, decided, decided, asked, asked, swept, passed, launched, state],
    ...[attached, attached, detached, drifted, drifted, deleted, rules, lost, doubled, deployed],
    ...[address, address, retagged, inService, groupAnswers],
  ],
  { maxCommands: LONGEST, size: 'max' },
);

const sometimes = fc.boolean();
/** Deployments: half of them without anything that has to be asked for. */
export const setup: fc.Arbitrary<Setup> = fc.oneof(
  fc.constant(PLAIN),
  fc.record({
    cut: sometimes,
    addresses: sometimes,
    group: sometimes,
    guard: fc.constantFrom(null, 1, 2),
    protects: sometimes,
    share: fc.constantFrom(1, 1, 0.5),
    segments: sometimes,
  }),
);

/** Plays a history in a new world and checks what must hold after it; throws a Violation. */
export async function play(of: Setup, list: Iterable<Command>, trail: boolean, tally?: Tally): Promise<void> {
  const history = new History('enforce', trail, tally, of);
  const vm = history.launch();
  history.world.stateChange(vm);
  await fc.asyncModelRun(() => ({ model: history, real: history }), list);
  await history.settle();
  await history.staysSettled();
}

/** The property that every history has to have, whatever its seed. */
export const holds = (tally?: Tally) =>
  fc.asyncProperty(setup, commands, fc.boolean(), (of, list, trail) => play(of, list, trail, tally));
