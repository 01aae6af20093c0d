import type { Ec2State, WorldInterface, WorldVm } from '../world/ec2.ts';
import type { World } from '../world/world.ts';
import {
  fenced,
  fenceIn,
  GUARD_SECONDS,
  isBeyondShare,
  isFence,
  isHeld,
  isProtected,
  type Mode,
  modesOf,
  type OwnGroups,
  profileOf,
  REPLACED_PER_HOUR,
  type Row,
  records,
  type Setup,
  sameSet,
  scopesOf,
  standing,
  tightness,
  toGive,
  vpcOf,
  wrongRules,
} from './oracle.ts';

/** Something happened, or stands, that must never be. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

/** What EC2 showed a worker of one VM's interfaces. */
interface Look {
  readonly at: number;
  /** Of the world's clock, at the first look. */
  readonly seconds: number;
  /** It was what EC2 looked like before. */
  readonly stale: boolean;
  readonly interfaces: readonly {
    readonly id: string;
    readonly vpcId: string;
    readonly groups: readonly string[];
    readonly requesterManaged: boolean;
  }[];
}

/** The groups that an operator named, by interface. */
type Named = Readonly<Record<string, readonly string[]>>;

const NONE_NAMED: Named = {};

/** What a worker could know when it did something. */
export interface Sight {
  /** No other worker ran at the same time. */
  readonly alone: boolean;
  readonly began: number;
  readonly looks: Map<string, Look>;
  groupsLook: { readonly at: number; readonly stale: boolean } | undefined;
  /** The profiles that were right while it ran, by VM. */
  readonly right: Map<string, Set<string>>;
  /** VMs that an operator held in quarantine at some moment while it ran. */
  readonly held: Set<string>;
  /** The groups that operators named while it ran, by VM. */
  readonly named: Map<string, readonly Named[]>;
  /** It has sent itself a message, to look again. */
  sentLater: boolean;
}

/** Changed by hand so often within the window, an interface is put back no more. */
const DRIFTS_PUT_BACK = 3;
const DRIFT_WINDOW_SECONDS = 600;

/** How long EC2 may show what was before, in seconds of a history. */
export const STALE_SECONDS = 5;

/** A cut is given up after so many. */
const CUT_ATTEMPTS = 3;

/** What the clock may advance between what is counted and what is stored of it, in one worker. */
const SLOWEST_WORKER_SECONDS = 600;

type Step = { readonly kind: string; readonly state: string; readonly [attribute: string]: unknown };

const stepsOf = (row: Row | undefined): readonly Step[] => (row?.['steps'] ?? []) as readonly Step[];

/**
 * Follows a history call by call. It knows what people did by hand, what EC2 showed to whom, and what was stored
 * when, and throws a Violation at the first effect that breaks an invariant.
 */
export function createLedger(world: World, setup: Setup) {
  /** Counts everything that happens. */
  let moment = 0;
  const own = new Map<string, { readonly name: string; readonly vpcId: string }>();
  /** Groups of an interface that count as its own: what people gave it and what was given back, newest last. */
  const byHand = new Map<
    string,
    { readonly at: number; readonly until: { seconds: number }; groups: string[] }[]
  >();
  const touched = new Map<string, number>();
  const rulesTouched = new Map<string, number>();
  /** Every version of a VM's isolation item. */
  const versions = new Map<string, { readonly at: number; readonly row: Row }[]>();
  /** How often interfaces were opened to cut their flows, since their VM was last out of quarantine. */
  const openings = new Map<string, number>();
  /** Where people want Elastic IP addresses. */
  const places = new Map<string, string | undefined>();
  /** Whom policy has contained, by scope, and for whom Auto Scaling groups have started another. */
  const contained = new Map<string, { readonly id: string; readonly at: number }[]>();
  const seconds = () => world.now().getTime() / 1000;

  /** How many VMs this makes within the window of a guard. */
  const counted = (scope: string, id: string): number => {
    const since = seconds() - GUARD_SECONDS + SLOWEST_WORKER_SECONDS;
    const lately = [...(contained.get(scope) ?? []).filter(({ at }) => at > since), { id, at: seconds() }];
    contained.set(scope, lately);
    return new Set(lately.map((one) => one.id)).size;
  };
  /** Whether a guard that a VM counts in has no room, as the table says. */
  const guardIsFull = (id: string, row: Row | undefined): boolean => {
    const vm = world.vms.get(id);
    if (setup.guard === null || !vm) return false;
    const since = seconds() - GUARD_SECONDS - SLOWEST_WORKER_SECONDS;
    return scopesOf(vm, row?.['tenant']).some((scope) => {
      const all = (world.rows.get(`guard#${scope}`)?.['contained'] ?? []) as readonly { at: string }[];
      return all.filter(({ at }) => Date.parse(at) / 1000 > since).length >= (setup.guard ?? 0);
    });
  };
  const isPublic = (eni: WorldInterface) =>
    eni.publicAddress || [...world.addresses.values()].some(({ interfaceId }) => interfaceId === eni.id);

  const vmOf = (interfaceId: string) =>
    [...world.vms.values()].find((vm) => vm.interfaces.some((eni) => eni.id === interfaceId));
  const namedNow = (vmId: string) =>
    (world.rows.get(`operator#${vmId}`)?.['workloadGroups'] ?? NONE_NAMED) as Named;
  /** Whether an operator named these groups for an interface, at any time since the worker began. */
  const isNamed = (groups: readonly string[], vmId: string, interfaceId: string, sight: Sight) =>
    [...(sight.named.get(vmId) ?? []), namedNow(vmId)].some((named) =>
      sameSet(groups, named[interfaceId] ?? []),
    );
  const givable = (originals: readonly string[]) =>
    originals.length > 0 && !originals.some((id) => world.deletedGroups.has(id));
  const notOwn = (groups: readonly string[]) => groups.filter((id) => !own.has(id));
  const violated = (text: string): never => {
    throw new Violation(text);
  };

  /** Versions of a VM's item that a worker may have gone by. */
  const versionsSeen = (id: string, sight: Sight): readonly Row[] => {
    const all = versions.get(id) ?? [];
    if (sight.alone) return all.slice(-1).map((version) => version.row);
    const before = all.filter((version) => version.at < sight.began).slice(-1);
    return [...before, ...all.filter((version) => version.at >= sight.began)].map((version) => version.row);
  };

  /** VMs that an operator ever held in quarantine: what was taken from them then is theirs to be fenced with. */
  const everHeld = new Set<string>();

  /** How often people changed an interface's groups lately, the last time included. */
  const edits = (interfaceId: string) =>
    (byHand.get(interfaceId) ?? []).filter(
      ({ until }) => until.seconds > seconds() - DRIFT_WINDOW_SECONDS - STALE_SECONDS,
    ).length;

  const note = (interfaceId: string, groups: readonly string[]) => {
    const list = byHand.get(interfaceId) ?? [];
    byHand.set(interfaceId, list);
    const last = list.at(-1);
    if (last) last.until.seconds = seconds();
    list.push({ at: moment, until: { seconds: Number.POSITIVE_INFINITY }, groups: [...groups] });
  };

  /** What an interface had of its own, as far back as a worker may have seen. */
  const acceptableOriginals = (
    interfaceId: string,
    look: Look | undefined,
  ): readonly (readonly string[])[] => {
    const all = byHand.get(interfaceId) ?? [];
    // Counted from the look: what it showed was that old then, and whatever came after it may have been slow.
    const since = (look?.seconds ?? seconds()) - STALE_SECONDS;
    return all
      .filter((hand, i) => i === all.length - 1 || (look?.stale && hand.until.seconds >= since))
      .map((hand) => notOwn(hand.groups));
  };

  const checkChange = (input: Record<string, unknown>, sight: Sight) => {
    const interfaceId = String(input['NetworkInterfaceId']);
    const groups = (input['Groups'] ?? []) as readonly string[];
    const vm = vmOf(interfaceId);
    const eni = vm?.interfaces.find((each) => each.id === interfaceId);
    if (!vm || !eni) return; // EC2 says no
    if (eni.requesterManaged) violated(`${interfaceId} is another service's and was changed`);
    const seen = versionsSeen(vm.id, sight);
    if (groups.some((id) => own.get(id)?.name === 'cut'))
      return checkOpening(vm.id, eni, groups, seen, sight);
    const segment = seen.some((row) => {
      const proven = fenceIn(setup, { ...row, profile: 'workload' });
      return proven !== undefined && isFence(own, groups, proven, vpcOf(vm, eni));
    });
    const fencing = groups.some((id) => own.has(id)) && !segment;
    if (fencing && isProtected(setup, world.rows, vm.id) && !sight.held.has(vm.id)) {
      violated(`${interfaceId} of a protected VM gets ${groups} by policy`);
    }
    if (fencing && isBeyondShare(setup, vm.id) && !everHeld.has(vm.id)) {
      violated(`${interfaceId} of a VM beyond the share gets ${groups} by policy`);
    }
    const planned = seen.filter((row) => {
      const record = records(row).find((each) => each.id === interfaceId);
      if (row['mode'] !== 'enforce' || !record) return false;
      const fence = fenceIn(setup, row);
      if (!fence) {
        if (record.originals !== null && sameSet(groups, record.originals)) return groups.length > 0;
        return !givable(record.originals ?? []) && isNamed(groups, vm.id, interfaceId, sight);
      }
      return record.originals !== null && isFence(own, groups, fence, vpcOf(vm, eni));
    });
    if (planned.length === 0) {
      violated(
        `${interfaceId} gets ${groups} and nothing that was stored before says so: ${JSON.stringify(seen.map((row) => [row['profile'], records(row)]))}`,
      );
    }
    for (const id of groups) {
      const group = own.get(id);
      if (!group) continue;
      const { excess } = wrongRules(world, id, group.name);
      const look = sight.groupsLook;
      const excused = !look || look.stale || (rulesTouched.get(id) ?? -1) > look.at;
      if (excess.length > 0 && !excused)
        violated(`${interfaceId} gets ${group.name}, which is open: ${excess}`);
    }
  };

  /** An interface is opened for a moment: the one step that may be more open than the profile. */
  const checkOpening = (
    vmId: string,
    eni: WorldInterface,
    groups: readonly string[],
    seen: readonly Row[],
    sight: Sight,
  ) => {
    const vm = world.vms.get(vmId);
    const recorded = seen.some(
      (row) =>
        row['profile'] === 'quarantine' &&
        row['mode'] === 'enforce' &&
        row['applied'] === false &&
        stepsOf(row).some((s) => s.kind === 'cut' && s['interfaceId'] === eni.id && s.state === 'planned'),
    );
    if (!setup.cut || groups.length !== 1 || !recorded) violated(`${eni.id} is opened, and nothing says so`);
    if (!sight.sentLater) violated(`${eni.id} is opened, and nobody would close it after this worker`);
    const times = (openings.get(eni.id) ?? 0) + 1;
    openings.set(eni.id, times);
    if (times > CUT_ATTEMPTS) violated(`${eni.id} is opened ${times} times`);
    const look = sight.looks.get(vmId);
    if (!vm || !look || look.stale || !sight.alone) return;
    if (isPublic(eni)) violated(`${eni.id} is opened, and has a public address`);
    if (!isFence(own, eni.groups, ['quarantine'], vpcOf(vm, eni)))
      violated(`${eni.id} is opened before it was closed: it has ${eni.groups}`);
  };

  /** Steps beyond groups: each was recorded before. */
  const checkStep = (name: string, input: Record<string, unknown>, sight: Sight) => {
    if (name === 'DisassociateAddress') {
      const allocationId = String(input['AssociationId']).replace('eipassoc-', '');
      const eniId = world.addresses.get(allocationId)?.interfaceId;
      const vm = eniId === undefined ? undefined : vmOf(eniId);
      if (!vm) return;
      if (vm.interfaces.some((eni) => eni.id === eniId && eni.requesterManaged))
        violated(`${allocationId} is another service's and is taken`);
      const recorded = versionsSeen(vm.id, sight).some(
        (row) =>
          row['profile'] === 'quarantine' &&
          row['mode'] === 'enforce' &&
          stepsOf(row).some((s) => s['allocationId'] === allocationId && s['interfaceId'] === eniId),
      );
      if (!setup.addresses || !recorded)
        violated(`${allocationId} is taken from ${eniId}, and nothing says so`);
    } else if (name === 'AssociateAddress') {
      const { AllocationId: allocationId, NetworkInterfaceId: eniId } = input as Record<string, string>;
      const place = places.get(String(allocationId));
      if (place !== undefined && place !== eniId)
        violated(`${allocationId} is put on ${eniId}, and belongs on ${place}`);
      const vm = vmOf(String(eniId));
      const recorded =
        vm &&
        versionsSeen(vm.id, sight).some(
          (row) =>
            row['profile'] !== 'quarantine' && stepsOf(row).some((s) => s['allocationId'] === allocationId),
        );
      if (vm && !recorded) violated(`${allocationId} is given back, and nothing says so`);
    } else if (name === 'EnterStandby') {
      const [id = ''] = input['InstanceIds'] as readonly string[];
      const recorded = versionsSeen(id, sight).some(
        (row) =>
          row['profile'] === 'quarantine' &&
          row['mode'] === 'enforce' &&
          stepsOf(row).some((s) => s.kind === 'standby' && s.state === 'planned'),
      );
      if (!recorded) violated(`${id} is put into standby, and nothing says so`);
      const replaced = input['ShouldDecrementDesiredCapacity'] === false;
      if (replaced && counted('replaced', id) > REPLACED_PER_HOUR)
        violated(`${id} is replaced, and more than ${REPLACED_PER_HOUR} were within an hour`);
    } else if (name === 'ExitStandby') {
      const [id = ''] = input['InstanceIds'] as readonly string[];
      const over = versionsSeen(id, sight).some((row) => row['profile'] !== 'quarantine' && row['applied']);
      if (!over) violated(`${id} is taken out of standby in quarantine`);
    } else if (name === 'CompleteLifecycleAction') {
      const id = String(input['InstanceId']);
      const proven = versionsSeen(id, sight).some(
        (row) => row['mode'] === 'observe' || (row['profile'] === 'workload' && row['applied'] === true),
      );
      if (!proven && world.rows.get(`vm#${id}`)?.['managed'] !== false)
        violated(`${id} goes into service and has not left probation`);
    }
  };

  /** What policy contains further than it was, it is to have room for. */
  const checkGuards = (id: string, before: Row | undefined, after: Row, sight: Sight) => {
    const vm = world.vms.get(id);
    if (after['mode'] !== 'enforce' || sight.held.has(id) || !vm || setup.guard === null) return;
    if (tightness(after['profile']) <= tightness(standing(before))) return;
    for (const scope of scopesOf(vm, after['tenant'])) {
      const count = counted(scope, id);
      if (count > setup.guard) violated(`policy contains ${count} VMs of ${scope} within the window`);
    }
  };

  const checkItem = (id: string, before: Row | undefined, after: Row, sight: Sight) => {
    const profile = after['profile'] as string;
    const reasons = (after['reasons'] ?? []) as readonly string[];
    const heldBack =
      after['mode'] === 'enforce' &&
      ((setup.protects && profile === 'workload' && reasons.includes('PROTECTED_FROM_POLICY')) ||
        (reasons.includes('GUARD_REACHED') && profile === standing(before) && guardIsFull(id, after)));
    if (!sight.right.get(id)?.has(profile) && !heldBack) {
      violated(`${id} is put in ${profile}, where only ${[...(sight.right.get(id) ?? [])]} was right`);
    }
    checkGuards(id, before, after, sight);
    if (before && before['tenant'] !== undefined && before['tenant'] !== after['tenant'])
      violated(`${id} of ${before['tenant']} is ${after['tenant']}'s, and no operator said so`);
    if (profile !== 'quarantine') for (const { id: eni } of records(after)) openings.delete(eni);
    const look = sight.looks.get(id);
    const shown = new Map(look?.interfaces.map((eni) => [eni.id, eni]));
    const earlier = new Map(records(before).map((record) => [record.id, record]));
    for (const record of records(after)) {
      const known = earlier.get(record.id)?.originals ?? null;
      earlier.delete(record.id);
      const { originals } = record;
      if (originals?.some((group) => own.has(group)))
        violated(`${record.id} has a group of ours as original`);
      if (known === null && originals !== null) {
        const acceptable = acceptableOriginals(record.id, look);
        if (!acceptable.some((groups) => sameSet(groups, originals))) {
          violated(`${record.id} had ${JSON.stringify(acceptable)}, and ${originals} is recorded`);
        }
      } else if (known !== null && originals !== null) {
        if (!sameSet(known, originals)) violated(`${record.id}: originals ${known} became ${originals}`);
      } else if (known !== null) {
        const groups = shown.get(record.id)?.groups ?? [];
        const free = !groups.some((g) => own.has(g));
        const back =
          sameSet(groups, known) ||
          (free && (known.length === 0 || after['mode'] === 'observe')) ||
          (!givable(known) && isNamed(groups, id, record.id, sight));
        if (!back) violated(`${record.id}: originals ${known} are forgotten while it has ${groups}`);
      }
    }
    for (const [left, { originals }] of earlier) {
      if (originals !== null) violated(`${left}: originals ${originals} are forgotten with its record`);
    }
    if (after['mode'] === 'enforce' && after['applied'] === true) checkApplied(id, after, sight);
  };

  const checkApplied = (id: string, row: Row, sight: Sight) => {
    const look = sight.looks.get(id);
    if (!look) return violated(`${id} is said to be contained, and nobody looked`);
    const profile = row['profile'] as string;
    const holds = (interfaceId: string, vpcId: string, groups: readonly string[]) => {
      const fence = fenceIn(setup, row);
      if (fence) return isFence(own, groups, fence, vpcId);
      const originals = records(row).find((record) => record.id === interfaceId)?.originals ?? null;
      return !groups.some((g) => own.has(g)) && (originals === null || sameSet(groups, originals));
    };
    for (const eni of look.interfaces) {
      if (!eni.requesterManaged && !holds(eni.id, eni.vpcId, eni.groups)) {
        violated(
          `${id} is said to have ${profile} on every interface, and ${eni.id} was seen with ${eni.groups}`,
        );
      }
    }
    if (look.stale || !sight.alone || (touched.get(id) ?? -1) > look.at) return;
    for (const eni of world.vms.get(id)?.interfaces ?? []) {
      if (!eni.requesterManaged && !holds(eni.id, vpcOf(world.vms.get(id) as never, eni), eni.groups)) {
        violated(`${id} is said to have ${profile} on every interface, and ${eni.id} has ${eni.groups}`);
      }
    }
  };

  /** What is beyond groups is where it belongs once the groups are. */
  const stepsSettled = (vm: WorldVm, row: Row | undefined, autoScalingAnswers: boolean) => {
    const contained = row?.['profile'] === 'quarantine';
    const cuts = new Map(
      stepsOf(row).flatMap((s) => (s.kind === 'cut' ? [[s['interfaceId'], s.state] as const] : [])),
    );
    for (const eni of vm.interfaces.filter((each) => !each.requesterManaged)) {
      if (contained && setup.cut && !['done', 'refused', 'failed'].includes(cuts.get(eni.id) ?? ''))
        violated(`flows of ${eni.id} are not cut: ${cuts.get(eni.id)}`);
      for (const { allocationId, interfaceId } of world.addresses.values()) {
        if (places.get(allocationId) !== eni.id) continue;
        const right = contained && setup.addresses ? undefined : eni.id;
        if (interfaceId !== right) violated(`${allocationId} is on ${interfaceId}, and not on ${right}`);
      }
    }
    if (!contained && autoScalingAnswers && world.autoScaling.members.get(vm.id)?.state === 'Standby')
      violated(`${vm.id} was let out, and is in standby`);
  };

  return {
    own: own as OwnGroups,
    next: () => ++moment,
    /** Somebody gives an interface these groups, or attaches or creates it with them. */
    hand(vmId: string, interfaceId: string, groups: readonly string[]) {
      touched.set(vmId, ++moment);
      note(interfaceId, groups);
    },
    /** Somebody changes which interfaces a VM has. */
    touch(vmId: string) {
      touched.set(vmId, ++moment);
    },
    handRules(groupId: string) {
      rulesTouched.set(groupId, ++moment);
    },
    sight: (alone: boolean): Sight => ({
      alone,
      began: ++moment,
      looks: new Map(),
      groupsLook: undefined,
      right: new Map(),
      held: new Set(),
      named: new Map(),
      sentLater: false,
    }),
    /** Somebody puts an Elastic IP address on an interface, or on none. */
    place(allocationId: string, interfaceId: string | undefined) {
      places.set(allocationId, interfaceId);
    },
    placeOf: (allocationId: string) => places.get(allocationId),
    /** A VM is over: nothing of it is asked any more. */
    forget(vmId: string): void {
      for (const { row } of versions.get(vmId) ?? []) for (const { id } of records(row)) byHand.delete(id);
      versions.delete(vmId);
      touched.delete(vmId);
    },
    /** Before a call of a worker reaches AWS. */
    before(name: string, input: Record<string, unknown>, sight: Sight): void {
      moment++;
      for (const id of world.vms.keys()) {
        const right = sight.right.get(id) ?? new Set();
        sight.right.set(id, right.add(profileOf(world.rows, id, world.now())));
        if (isHeld(world.rows, id)) {
          sight.held.add(id);
          everHeld.add(id);
        }
        const named = namedNow(id);
        const before = sight.named.get(id) ?? [];
        if (before.at(-1) !== named) sight.named.set(id, [...before, named]);
      }
      checkStep(name, input, sight);
      if (name === 'ModifyNetworkInterfaceAttribute') checkChange(input, sight);
    },
    /** What an item was before a call writes it. */
    itemBefore: (input: Record<string, unknown>): Row | undefined =>
      world.rows.get(String((input['Item'] as { pk?: { S?: string } } | undefined)?.pk?.S)),
    /** After a call of a worker had its effect. */
    after(
      name: string,
      input: Record<string, unknown>,
      shown: { readonly past: Ec2State | undefined; readonly itemBefore: Row | undefined },
      sight: Sight,
    ): void {
      const stale = shown.past !== undefined;
      if (name === 'CreateSecurityGroup') {
        for (const { GroupId, GroupName, VpcId } of world.groups.values()) {
          own.set(GroupId, { name: GroupName.replace(/^casemate-/, ''), vpcId: VpcId });
        }
      } else if (name === 'SendMessage') {
        sight.sentLater = true;
      } else if (name === 'ModifyNetworkInterfaceAttribute') {
        const groups = (input['Groups'] ?? []) as readonly string[];
        if (notOwn(groups).length === groups.length) note(String(input['NetworkInterfaceId']), groups);
      } else if (name === 'DescribeSecurityGroups') {
        sight.groupsLook = { at: moment, stale };
      } else if (name === 'DescribeNetworkInterfaces') {
        const [filter] = (input['Filters'] ?? []) as readonly { Name?: string; Values?: readonly string[] }[];
        if (filter?.Name !== 'attachment.instance-id') return;
        for (const id of filter.Values ?? []) {
          const vm = (shown.past?.vms ?? world.vms).get(id);
          sight.looks.set(id, {
            at: moment,
            seconds: sight.looks.get(id)?.seconds ?? seconds(),
            stale: stale || (sight.looks.get(id)?.stale ?? false),
            interfaces: (vm?.interfaces ?? []).map((eni) => ({
              id: eni.id,
              vpcId: vm ? vpcOf(vm, eni) : '',
              groups: [...eni.groups],
              requesterManaged: eni.requesterManaged ?? false,
            })),
          });
        }
      } else if (name === 'PutItem') {
        const pk = String((input['Item'] as { pk?: { S?: string } }).pk?.S);
        if (!pk.startsWith('isolation#')) return;
        const id = pk.slice('isolation#'.length);
        const row = structuredClone(world.rows.get(pk)) as Row;
        const list = versions.get(id) ?? [];
        versions.set(id, list);
        list.push({ at: moment, row });
        checkItem(id, shown.itemBefore, row, sight);
      }
    },
    /** What must hold whenever nobody is at work. */
    atRest(): void {
      for (const vm of world.vms.values()) {
        for (const eni of vm.interfaces) {
          const given = byHand.get(eni.id)?.at(-1)?.groups ?? [];
          if (sameSet(given, eni.groups)) continue;
          const recorded = [...versions.values()].flatMap((list) =>
            records(list.at(-1)?.row).filter((record) => record.id === eni.id && record.originals !== null),
          );
          const takenBack = sameSet(notOwn(eni.groups), eni.groups);
          if (!takenBack && recorded.length === 0)
            violated(`${eni.id} has ${eni.groups}; its own groups are lost`);
          const open = eni.groups.some((id) => own.get(id)?.name === 'cut');
          const said = stepsOf(versions.get(vm.id)?.at(-1)?.row).some(
            (s) => s.kind === 'cut' && s['interfaceId'] === eni.id && s.state === 'planned',
          );
          if (open && !said) violated(`${eni.id} stands open, and nothing says so`);
        }
      }
      for (const { allocationId, interfaceId } of world.addresses.values()) {
        const place = places.get(allocationId);
        if (place === undefined || place === interfaceId) continue;
        const recorded = [...versions.values()].some((list) =>
          stepsOf(list.at(-1)?.row).some(
            (s) => s['allocationId'] === allocationId && s['interfaceId'] === place,
          ),
        );
        if (!recorded) violated(`${allocationId} is not on ${place}, and nothing says where it belongs`);
      }
    },
    /** What must hold once everything that was disturbed had its sweep. */
    settled(mode: Mode, autoScalingAnswers: boolean): void {
      for (const vm of world.vms.values()) {
        if (!fenced(world.rows, vm.id)) continue;
        const row = world.rows.get(`isolation#${vm.id}`);
        if (vm.interfaces.length === 0) continue;
        const modes = modesOf(setup, mode, world.rows, vm.id);
        if (!modes.includes(row?.['mode'] as Mode)) violated(`${vm.id} is in mode ${row?.['mode']}`);
        const enforced = row?.['mode'] === 'enforce';
        const profile = profileOf(world.rows, vm.id, world.now());
        const excused =
          enforced &&
          (isProtected(setup, world.rows, vm.id)
            ? row?.['profile'] === 'workload'
            : tightness(row?.['profile']) < tightness(profile) && guardIsFull(vm.id, row));
        if (row?.['profile'] !== profile && !excused)
          violated(`${vm.id} is in ${row?.['profile']} and belongs in ${profile}`);
        if (!enforced) continue;
        const fence = fenceIn(setup, row);
        let whole = true;
        for (const eni of vm.interfaces) {
          const record = records(row).find((each) => each.id === eni.id);
          if (!record) violated(`${eni.id} is not known`);
          if (eni.requesterManaged) continue;
          if (fence) {
            if (isFence(own, eni.groups, fence, vpcOf(vm, eni))) continue;
            const reasons = (row?.['reasons'] ?? []) as readonly string[];
            if (reasons.includes('DRIFT_FOUGHT') && edits(eni.id) > DRIFTS_PUT_BACK) whole = false;
            else {
              violated(`${vm.id} is in ${row?.['profile']}, and ${eni.id} has ${eni.groups}`);
            }
            continue;
          }
          const give = toGive(world.rows, vm.id, eni, own, world.deletedGroups);
          const ours = eni.groups.some((g) => own.has(g));
          const originals = record?.originals ?? null;
          const impossible =
            give?.some((id) => world.deletedGroups.has(id)) ||
            (give?.length === 0 && (ours || (originals ?? []).length > 0));
          if (impossible) whole = false;
          else if (ours || originals !== null) {
            violated(`${vm.id} is let out, and ${eni.id} has ${eni.groups} with originals ${originals}`);
          }
        }
        if (row?.['applied'] !== whole) violated(`${vm.id} is settled, and applied is ${row?.['applied']}`);
        if (whole) stepsSettled(vm, row, autoScalingAnswers);
      }
      for (const [id, { name, vpcId }] of own) {
        // Rules are put right where a VM of the VPC is fenced, and of a segment where a VM is in it.
        const used = [...world.vms.values()].some((vm) => {
          const row = world.rows.get(`isolation#${vm.id}`);
          const fence = fenced(world.rows, vm.id) && row?.['mode'] === 'enforce' && fenceIn(setup, row);
          return (
            fence &&
            (fence.includes(name) || !name.startsWith('segmented')) &&
            vm.interfaces.some((eni) => vpcOf(vm, eni) === vpcId)
          );
        });
        if (!used || !world.groups.has(id)) continue;
        const { excess, missing } = wrongRules(world, id, name);
        if (excess.length > 0 || missing.length > 0) {
          violated(`${name} in ${vpcId} has ${excess} and lacks ${missing}`);
        }
      }
    },
  };
}

export type Ledger = ReturnType<typeof createLedger>;
