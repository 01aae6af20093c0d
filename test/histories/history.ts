import { AsyncLocalStorage } from 'node:async_hooks';
import type { Mode } from '../../lib/domain/isolation.ts';
import { nextOperator, type OperatorItem } from '../../lib/domain/operator.ts';
import type { PolicyDecision } from '../../lib/domain/policy.ts';
import { parseProfiles } from '../../lib/domain/profiles.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import {
  createAgent,
  enrolled,
  fact,
  GOOD_FACTS,
  sealReport,
  sendReport,
  type TestAgent,
} from '../world/agent.ts';
import { createApi } from '../world/api.ts';
import { diskAgent } from '../world/disks.ts';
import type { Ec2State, WorldInterface, WorldVm } from '../world/ec2.ts';
import { WorkerKilled } from '../world/effects.ts';
import { type IsolationSettings, SHIPPED } from '../world/isolation.ts';
import { CONTEXT } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import {
  createWorld,
  type Message,
  projectPolicies,
  QUEUES,
  type QueueName,
  type World,
} from '../world/world.ts';
import { createLedger, type Ledger, type Sight, STALE_SECONDS, Violation } from './ledger.ts';
import {
  AUTO_SCALING_GROUP,
  fenced,
  GUARD_SECONDS,
  GUARD_SHARE,
  PLAIN,
  PROTECTED,
  REPLACED_PER_HOUR,
  SEGMENTED_TENANT,
  type Setup,
} from './oracle.ts';
import { createTurns } from './turns.ts';

/** What becomes of one AWS call of a worker. */
export type Fate =
  | 'fine'
  | 'throttled'
  | 'unavailable'
  /** It has its effect, and its answer gets lost. */
  | 'lost'
  /** EC2 shows what was before. */
  | 'stale'
  | 'slow';

/** What happened in histories, counted. */
export interface Tally {
  deliveries: number;
  calls: number;
  deaths: number;
  faults: Record<Exclude<Fate, 'fine'>, number>;
}

export const newTally = (): Tally => ({
  deliveries: 0,
  calls: 0,
  deaths: 0,
  faults: { throttled: 0, unavailable: 0, lost: 0, stale: 0, slow: 0 },
});

/** What a worker meets. */
export interface Luck {
  /** By its calls, in order; those beyond are fine. */
  readonly fates: readonly Fate[];
  /** It dies right after its nth effect. */
  readonly killAfter: number | undefined;
}

export const LUCKY: Luck = { fates: [], killAfter: undefined };

/** Which messages of a queue a worker gets. */
export interface Pick {
  readonly queue: number;
  readonly start: number;
  readonly count: number;
  readonly reversed: boolean;
}

interface Worker {
  readonly luck: Luck;
  readonly sight: Sight;
  calls: number;
  effects: number;
  dead: boolean;
}

export const FACTS = {
  good: GOOD_FACTS,
  swap: [...GOOD_FACTS.filter((f) => f.id !== 'mem.swap'), fact('mem.swap', 'present', 'plain')],
  contradicting: [
    ...GOOD_FACTS.filter((f) => f.id !== 'mem.sev-snp.guest'),
    fact('mem.sev-snp.guest', 'present'),
  ],
} as const;

export const SECOND_VPC = 'vpc-0b2c3d4e5f6071829';
const SLOW_SECONDS = 20;
const MAX_RECEIVES = 5;
const AUTO_SCALING = /^(EnterStandby|ExitStandby|CompleteLifecycleAction)$/;
const READS = /^(Describe|BatchGet|Get|Scan)/;

const ANYWHERE = { kind: 'https-anywhere' } as const;
const SHIPPED_PROFILES = parseProfiles(SHIPPED, ANYWHERE);
const SEGMENTED = parseProfiles(
  {
    ...SHIPPED,
    profiles: {
      ...SHIPPED.profiles,
      segmented: {
        sameTenant: true,
        egress: ['0.0.0.0/0', '::/0'].map((to) => ({
          ports: 443,
          peer: to.includes(':') ? { cidr6: to } : { cidr: to },
        })),
      },
    },
    use: [{ stage: 'workload', profile: 'segmented', tenant: SEGMENTED_TENANT }],
  },
  ANYWHERE,
);

/** One key for the agents of all VMs: making one takes as long as a history, and nothing here is about keys. */
let shared: TestAgent | undefined;
const agentOf = (id: string): TestAgent => {
  shared ??= createAgent(id);
  return { ...shared, instanceId: id };
};

const decisions = new Map<string, PolicyDecision>();

/** The same question has the same answer in every history; asking Cedar is a third of what a history costs. */
function remembered(engine: PolicyEngine): PolicyEngine {
  return {
    decide(action, vm, resource, context) {
      const { instanceId, state, instanceType, imageId, autoScalingGroup, tags } = vm;
      const subject = [instanceId, state, instanceType, imageId, autoScalingGroup, tags];
      const key = JSON.stringify([action, subject, resource, context]);
      if (decisions.size > 20_000) decisions.clear();
      const known = decisions.get(key) ?? engine.decide(action, vm, resource, context);
      decisions.set(key, known);
      return known;
    },
  };
}

/** One history: a world, what happened in it, and what must hold of it. */
export class History {
  readonly world: World;
  readonly ledger: Ledger;
  readonly setup: Setup;
  /** Whether Auto Scaling answers at all. */
  autoScalingAnswers = true;
  readonly #current = new AsyncLocalStorage<Worker>();
  readonly #turns = createTurns();
  readonly #sequences = new Map<string, number>();
  /** What EC2 looked like, newest last. */
  readonly #past: { readonly at: number; readonly state: Ec2State }[] = [];
  #functions: ReturnType<World['functionsIn']>[] = [];
  readonly #trail: boolean;
  readonly #tally: Tally;
  #api: ReturnType<typeof createApi> | undefined;
  #interfaces = 0;
  #launched = 0;
  mode: Mode;

  /** @param trail whether CloudTrail tells of what the functions change themselves */
  constructor(mode: Mode, trail: boolean, tally: Tally = newTally(), setup: Setup = PLAIN) {
    this.mode = mode;
    this.setup = setup;
    this.world = createWorld({
      maxReceives: MAX_RECEIVES,
      policy: remembered(projectPolicies()),
      launches: setup.group,
    });
    this.ledger = createLedger(this.world, setup);
    this.#tally = tally;
    this.#trail = trail;
    this.deploy(mode);
    this.world.stand((call, go) => this.#meet(call, go));
  }

  get vms(): readonly WorldVm[] {
    return [...this.world.vms.values()];
  }

  vm(n: number): WorldVm {
    return this.vms[n % this.vms.length] as WorldVm;
  }

  /** New execution environments: two, so that two workers can run at once. */
  deploy(mode: Mode): void {
    this.mode = mode;
    const { setup, world } = this;
    const settings: Partial<IsolationSettings> = {
      enforcement: { mode, share: setup.share },
      profiles: setup.segments ? SEGMENTED : SHIPPED_PROFILES,
      cutTrackedFlows: setup.cut,
      detachElasticIps: setup.addresses,
      replacementsPerHour: REPLACED_PER_HOUR,
      guards: {
        share: setup.guard === null ? 1 : GUARD_SHARE,
        minimum: setup.guard ?? Number.MAX_SAFE_INTEGER,
        windowSeconds: GUARD_SECONDS,
        protected: { instanceIds: setup.protects ? [PROTECTED] : [], autoScalingGroups: [] },
      },
      ...(setup.group ? { autoScaling: world.autoScaling.client } : {}),
    };
    this.#functions = [world.functionsIn(mode, settings), world.functionsIn(mode, settings)];
  }

  /** Remembers what EC2 looks like before something changes it. */
  remember(): void {
    const at = this.#seconds();
    while (this.#past[0] && this.#past[0].at < at - STALE_SECONDS) this.#past.shift();
    const { vms, groups } = this.world;
    this.#past.push({ at, state: structuredClone({ vms, groups }) });
  }

  newInterface(groups: readonly string[], more: { vpcId?: string; requesterManaged?: boolean } = {}) {
    this.#interfaces += 1;
    return {
      id: `eni-${(this.#interfaces + 4096).toString(16).padStart(8, '0')}`,
      groups: [...groups],
      ...more,
    };
  }

  launch(inScope = true): WorldVm {
    this.remember();
    const eni = this.newInterface(['sg-0000aaaa', 'sg-0000bbbb']);
    const tenant = this.#launched % 3 === 2 ? 'bank' : SEGMENTED_TENANT;
    const vm = launch(this.world, ++this.#launched, {
      amdSevSnp: 'disabled',
      interfaces: [eni],
      tags: {
        ...(inScope ? { 'casemate:protect': 'true' } : {}),
        ...(this.setup.segments ? { 'casemate:tenant': tenant } : {}),
        ...(this.setup.group ? { 'aws:autoscaling:groupName': AUTO_SCALING_GROUP } : {}),
      },
    });
    if (this.setup.group) {
      // Every other one was in service before there was a hook that holds it: only those can go into standby at once.
      const state = this.#launched % 2 === 1 ? 'InService' : 'Pending:Wait';
      this.world.autoScaling.members.set(vm.id, { group: AUTO_SCALING_GROUP, state });
    }
    this.ledger.hand(vm.id, eni.id, eni.groups);
    enrolled(this.world, agentOf(vm.id));
    return vm;
  }

  report(vm: WorldVm, facts: keyof typeof FACTS): void {
    const sequence = (this.#sequences.get(vm.id) ?? 0) + 1;
    this.#sequences.set(vm.id, sequence);
    sendReport(this.world, sealReport(this.world, agentOf(vm.id), sequence, { facts: [...FACTS[facts]] }));
  }

  /** What an operator's command does: the item first, then the announcement. */
  decide(vm: WorldVm, what: 'quarantine' | 'restore', named: readonly string[], times: number): void {
    const pk = `operator#${vm.id}`;
    const decision = {
      at: this.world.now().toISOString(),
      by: 'arn:aws:iam::123456789012:user/ada',
      reason: 'seen',
    };
    const before = this.world.rows.get(pk) as OperatorItem | undefined;
    const workloadGroups =
      named.length > 0 ? Object.fromEntries(vm.interfaces.map((eni) => [eni.id, [...named]])) : undefined;
    const next = nextOperator(before, {
      instanceId: vm.id,
      what,
      decision,
      set: what === 'quarantine' ? { quarantine: decision } : { quarantine: undefined, workloadGroups },
    });
    this.world.rows.set(pk, { ...next, pk, version: (before?.version ?? 0) + 1 });
    this.tell(times, () =>
      this.world.emit('casemate', 'Operator Decided', {
        schemaVersion: 1,
        instanceId: vm.id,
        at: decision.at,
        what,
        by: decision.by,
        reason: decision.reason,
      }),
    );
  }

  /**
   * Somebody puts an Elastic IP address on an interface, or on none. Not on one that has a public address already,
   * nor while it is to be given back to another VM.
   *
   * @returns whether it was done
   */
  place(allocationId: string, eni: WorldInterface | undefined): boolean {
    const { addresses, rows } = this.world;
    const taken = eni && [...addresses.values()].some((other) => other.interfaceId === eni.id);
    if (taken || eni?.publicAddress) return false;
    const owner = this.vms.find((vm) => eni !== undefined && vm.interfaces.includes(eni));
    const owed = this.vms.some(
      (vm) =>
        vm !== owner &&
        JSON.stringify(rows.get(`isolation#${vm.id}`)?.['steps'] ?? []).includes(allocationId),
    );
    if (owed) return false;
    this.remember();
    addresses.set(allocationId, { allocationId, interfaceId: eni?.id });
    this.ledger.place(allocationId, eni?.id);
    if (owner) this.ledger.touch(owner.id);
    return true;
  }

  /** The interfaces of a VM are over, and Elastic IP addresses with no place. */
  forgetPlaces(vm: WorldVm): void {
    for (const [id, address] of this.world.addresses) {
      if (vm.interfaces.some((eni) => this.ledger.placeOf(id) === eni.id)) this.ledger.place(id, undefined);
      if (vm.interfaces.some((eni) => address.interfaceId === eni.id)) address.interfaceId = undefined;
    }
  }

  /** What CloudTrail or EC2 tell of something, when they do: `times` is 0, 1 or 2. */
  tell(times: number, emit: () => void): void {
    for (let i = 0; i < times; i++) emit();
  }

  called(eventName: string, requestParameters: object): void {
    this.world.emit('aws.ec2', 'AWS API Call via CloudTrail', {
      eventSource: 'ec2.amazonaws.com',
      eventName,
      requestParameters,
    });
  }

  /** A worker takes a batch. */
  async deliver(pick: Pick, luck: Luck): Promise<void> {
    const batch = this.#take(pick);
    if (batch) await this.#work(0, batch.queue, batch.messages, luck, true);
    this.ledger.atRest();
  }

  /** Two workers take a batch each, of the same queue when there is enough, and take turns as `order` says. */
  async deliverTwo(
    picks: readonly [Pick, Pick],
    lucks: readonly [Luck, Luck],
    order: readonly number[],
    meanwhile?: { readonly turn: number; readonly happens: () => void },
  ): Promise<void> {
    const workers: (() => Promise<void>)[] = [];
    const taken = new Set<Message>();
    picks.forEach((pick, i) => {
      const batch = this.#take(pick, taken);
      for (const message of batch?.messages ?? []) taken.add(message);
      if (batch) workers.push(() => this.#work(i, batch.queue, batch.messages, lucks[i] ?? LUCKY, false));
    });
    let turn = 0;
    await this.#turns.run(workers, (among) => {
      if (turn === meanwhile?.turn) meanwhile.happens();
      return (order[turn++ % order.length] ?? 0) % Math.max(1, among);
    });
    this.ledger.atRest();
  }

  async sweep(luck: Luck): Promise<void> {
    const worker = this.#worker(luck, true);
    try {
      await this.#current.run(worker, () => this.#functions[0]?.sweep({}, CONTEXT));
    } catch (error) {
      if (error instanceof Violation) throw error; // anything else: the schedule comes again
    }
    this.#raise();
    this.ledger.atRest();
  }

  /** Takes what is over out of sight, as terminated VMs leave EC2 and the table: a long soak keeps nothing of them. */
  forgetTerminated(): void {
    const { world } = this;
    for (const vm of this.vms.filter((each) => each.state === 'terminated')) {
      world.vms.delete(vm.id);
      world.autoScaling.members.delete(vm.id);
      this.#sequences.delete(vm.id);
      this.ledger.forget(vm.id);
      world.rows.delete(`vm#${vm.id}`);
      for (const [pk, row] of world.rows) {
        if (row['instanceId'] !== vm.id) continue;
        world.rows.delete(pk);
        world.rows.delete(`disk#${row['volumeId']}`); // the pointer to a disk
      }
    }
    for (const list of [
      world.announced,
      world.calls,
      world.rejected,
      world.deadLetters,
      world.effects.names,
    ]) {
      (list as unknown[]).length = 0;
    }
  }

  /** The VM's agent asks for its key: it gets it while nothing speaks against it, and never else. */
  async askKey(vm: WorldVm, luck: Luck): Promise<void> {
    const { rows } = this.world;
    const disk = [...rows.values()].find((row) => row['instanceId'] === vm.id && 'generations' in row);
    if (!disk) return;
    this.#api ??= createApi(this.world);
    const api = await this.#api;
    const worker = this.#worker(luck, true);
    const isolation = rows.get(`isolation#${vm.id}`)?.['profile'];
    let status: number | undefined;
    try {
      const agent = diskAgent(api, agentOf(vm.id));
      ({ status } = await this.#current.run(worker, () => agent.release(String(disk['disk']), 1)));
    } catch (error) {
      if (luck === LUCKY) throw error; // else: API Gateway says 500 to it, and the agent asks again
    }
    this.#raise();
    const right = worker.sight.right.get(vm.id) ?? new Set();
    if (status === 200 && (!right.has('workload') || isolation === 'quarantine')) {
      throw new Violation(`${vm.id} got its key in ${[...right]}, put in ${isolation}`);
    }
    const seen = (rows.get(`vm#${vm.id}`)?.['observation'] ?? {}) as {
      state?: string;
      volumes?: { id: string }[];
    };
    const attached = seen.volumes?.some((volume) => volume.id === disk['volumeId']);
    const live = fenced(rows, vm.id) && rows.get(`vm#${vm.id}`)?.['managed'] === true && attached;
    if (luck === LUCKY && live && right.has('workload') && isolation !== 'quarantine' && status !== 200) {
      throw new Violation(`${vm.id} has proven itself and is refused its key`);
    }
  }

  /** Whatever waits is worked on, by workers that meet no trouble. */
  async drain(): Promise<void> {
    for (let turns = 0; ; turns++) {
      if (turns > 500) throw new Violation(`the queues do not empty: ${this.#waiting()}`);
      const queue = QUEUES.find((name) => this.#queue(name).length > 0);
      if (!queue) return;
      await this.#work(0, queue, this.#queue(queue).slice(0, 10), LUCKY, true);
      this.ledger.atRest();
    }
  }

  /** No more trouble: one sweep must put everything right, and another one find nothing left to do. */
  async settle(): Promise<void> {
    await this.drain();
    await this.sweep(LUCKY);
    await this.drain();
    this.ledger.settled(this.mode, this.autoScalingAnswers);
  }

  /** A sweep of what is settled changes nothing in EC2, and nothing in the table but what was observed. */
  async staysSettled(): Promise<void> {
    // What was given back to a VM beyond the share is found to be so by the sweep after.
    if (this.setup.share < 1) await this.settle();
    const { names } = this.world.effects;
    const before = names.length;
    const failing = this.world.deadLetters.length;
    await this.sweep(LUCKY);
    await this.drain();
    // What cannot be done is tried again at each sweep.
    if (this.world.deadLetters.length > failing || this.#namesDeletedGroup()) return;
    const done = names.slice(before).filter((name) => !/^(send hints|put events|put vm#)/.test(name));
    if (done.length > 0) throw new Violation(`settled, and a sweep has done: ${done.join(', ')}`);
  }

  /** An operator named a group that is not there any more. */
  #namesDeletedGroup(): boolean {
    return [...this.world.rows.values()].some((row) =>
      Object.values((row['workloadGroups'] ?? {}) as { [id: string]: string[] })
        .flat()
        .some((id) => this.world.deletedGroups.has(id)),
    );
  }

  lose(queue: number, at: number): void {
    const waiting = this.#busy(queue);
    if (waiting) waiting.messages.splice(at % waiting.messages.length, 1);
  }

  duplicate(queue: number, at: number): void {
    const waiting = this.#busy(queue);
    const message = waiting?.messages[at % waiting.messages.length];
    if (waiting && message) this.world.enqueue(waiting.queue, message.body);
  }

  #busy(n: number): { queue: QueueName; messages: Message[] } | undefined {
    const busy = QUEUES.filter((name) => this.#queue(name).length > 0);
    const queue = busy[n % Math.max(1, busy.length)];
    return queue && { queue, messages: this.#queue(queue) };
  }

  #queue(name: QueueName): Message[] {
    return this.world.queues.get(name) ?? [];
  }

  #waiting(): string {
    return QUEUES.map((name) => `${name} ${this.#queue(name).length}`).join(', ');
  }

  #take(pick: Pick, taken: ReadonlySet<Message> = new Set()) {
    const busy = this.#busy(pick.queue);
    const free = busy?.messages.filter((message) => !taken.has(message)) ?? [];
    if (!busy || free.length === 0) return undefined;
    const start = pick.start % free.length;
    const messages = [...free.slice(start), ...free.slice(0, start)].slice(0, pick.count);
    return { queue: busy.queue, messages: pick.reversed ? messages.reverse() : messages };
  }

  #worker(luck: Luck, alone: boolean): Worker {
    return { luck, sight: this.ledger.sight(alone), calls: 0, effects: 0, dead: false };
  }

  async #work(
    environment: number,
    queue: QueueName,
    messages: readonly Message[],
    luck: Luck,
    alone: boolean,
  ): Promise<void> {
    const worker = this.#worker(luck, alone);
    this.#tally.deliveries++;
    const functions = this.#functions[environment];
    if (!functions) throw new Error('there are two environments');
    const handler = functions[queue];
    await this.world.deliver(queue, messages, {
      ...functions,
      [queue]: async (...args: Parameters<typeof handler>) => {
        const answer = await this.#current.run(worker, () => handler(...args));
        if (worker.dead) throw new WorkerKilled(); // whatever it meant to say, nobody heard it
        return answer;
      },
    });
    this.#raise();
  }

  /** A violation that the functions took for a fault of AWS. */
  #violation: Violation | undefined;
  #raise(): void {
    if (this.#violation) throw this.#violation;
  }

  #seconds(): number {
    return this.world.now().getTime() / 1000;
  }

  async #meet(
    call: { readonly name: string; readonly input: Record<string, unknown> },
    go: (past?: Ec2State) => Promise<unknown>,
  ): Promise<unknown> {
    const worker = this.#current.getStore();
    if (!worker) return go();
    if (worker.dead) throw new WorkerKilled();
    await this.#turns.turn();
    const fate = worker.luck.fates[worker.calls++] ?? 'fine';
    this.#tally.calls++;
    if (fate !== 'fine') this.#tally.faults[fate]++;
    if (fate === 'throttled') throw named('RequestLimitExceeded');
    if (fate === 'unavailable') throw named('ServiceUnavailable');
    if (fate === 'slow') this.world.advance(SLOW_SECONDS);
    if (AUTO_SCALING.test(call.name) && !this.autoScalingAnswers) throw named('ServiceUnavailable');
    const ec2Read = call.name.startsWith('Describe');
    const past = fate === 'stale' && ec2Read ? this.#past.at(-1) : undefined;
    const shown = past && past.at >= this.#seconds() - STALE_SECONDS ? past.state : undefined;
    const write = !READS.test(call.name);
    if (write && !call.name.startsWith('Put')) this.remember();
    const itemBefore = this.ledger.itemBefore(call.input);
    try {
      this.ledger.before(call.name, call.input, worker.sight);
    } catch (error) {
      this.#violation ??= error as Violation;
      throw error;
    }
    const answer = await go(shown);
    if (this.#trail && call.name === 'ModifyNetworkInterfaceAttribute') {
      this.called(call.name, { networkInterfaceId: call.input['NetworkInterfaceId'] });
    }
    try {
      this.ledger.after(call.name, call.input, { past: shown, itemBefore }, worker.sight);
    } catch (error) {
      this.#violation ??= error as Violation;
      throw error;
    }
    if (write && ++worker.effects === worker.luck.killAfter) {
      worker.dead = true;
      this.#tally.deaths++;
      throw new WorkerKilled(); // the effect happened; the worker never hears of it
    }
    if (fate === 'lost') throw named('TimeoutError');
    return answer;
  }
}

function named(name: string): Error {
  return Object.assign(new Error(name), { name });
}
