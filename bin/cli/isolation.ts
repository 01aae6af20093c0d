import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { paginateScan } from '@aws-sdk/client-dynamodb';
import { EC2Client } from '@aws-sdk/client-ec2';
import { unmarshall } from '@aws-sdk/util-dynamodb';
import { Command, Option } from 'commander';
import * as z from 'zod';
import { getItems, putVersioned } from '../../lambdas/aws/dynamodb.ts';
import { elasticIps, interfacesOf, missingGroups } from '../../lambdas/aws/ec2.ts';
import { findGroups, type PlannedCall, planGroups } from '../../lambdas/aws/security-groups.ts';
import {
  type ContainmentSettings,
  type ElasticIp,
  planAddresses,
  planCuts,
} from '../../lib/domain/containment.ts';
import { DENIAL_POLICY, DENIALS_PK, denialsItem } from '../../lib/domain/credentials.ts';
import { type GuardItem, guardItem, modeFor } from '../../lib/domain/guard.ts';
import { groupId, interfaceId } from '../../lib/domain/ids.ts';
import {
  decideProfile,
  type InterfaceRecord,
  type IsolationItem,
  isolationItem,
  knownOf,
  type Profile,
  type ProfileFacts,
  planIsolation,
  profileName,
} from '../../lib/domain/isolation.ts';
import { type OperatorItem, operatorItem } from '../../lib/domain/operator.ts';
import { postureItem } from '../../lib/domain/posture.ts';
import {
  CUT_GROUP,
  definitionFor,
  definitionNamed,
  fitting,
  type GroupSpec,
  groupsOfProfile,
  type Profiles,
  parseProfiles,
  stageGroups,
  TENANT_TAG,
  tenantOf,
} from '../../lib/domain/profiles.ts';
import { limitsInForce, QUOTA_PK } from '../../lib/domain/quotas.ts';
import { REASONS, type Reason } from '../../lib/domain/reasons.ts';
import { type ObservedInterface, vmItem } from '../../lib/domain/vm.ts';
import { type Connection, ConnectionError } from './connection.ts';
import { requireInstanceId } from './fleet.ts';
import { decide, decisionOf, readOperator } from './operator.ts';
import { plain, print } from './terminal.ts';
import { UsageError } from './usage.ts';

/** What was asked for is not so (yet). The message says what is left and what to do. */
class NotDoneError extends Error {
  override readonly name = 'NotDoneError';
}

const PROFILES_FILE = fileURLToPath(new URL('../../policies/profiles.json', import.meta.url));

/** @throws ProfilesError */
function readProfiles(file: string): Profiles {
  return parseProfiles(JSON.parse(readFileSync(file, 'utf8')), NO_STEPS.probationEgress);
}

interface WaitOptions {
  readonly timeout: number;
  readonly json?: boolean;
}

/** `casemate quarantine`, `restore`, `plan`, `tenant` and `guard`. */
export function addIsolationCommands(program: Command, connected: () => Promise<Connection>): void {
  const timeout = () =>
    new Option('--timeout <seconds>', 'how long to wait for it').default(60).argParser(seconds);

  program
    .command('quarantine')
    .description('contain a VM on every interface, whatever its posture, and wait until that was read back')
    .argument('<instance>', 'instance id')
    .requiredOption('--reason <text>', 'why; it is kept with your name')
    .addOption(timeout())
    .option('--json', 'print one JSON document')
    .action(async (id: string, options: WaitOptions & { reason: string }) => {
      requireInstanceId(id);
      const connection = await connected();
      const facts = await readFacts(connection, id);
      const outcome = decideProfile(facts, new Date());
      if (outcome.kind === 'leave-alone' && outcome.reason !== 'VM_NOT_MANAGED') {
        throw new NotDoneError(`${id}: ${meaning(outcome.reason)} There is nothing to contain.`);
      }
      const decision = await decisionOf(connection, options.reason);
      const standing = facts.operator?.quarantine;
      if (standing) {
        say(options, `${standing.by} contained it at ${standing.at} already, because: ${standing.reason}`);
      } else {
        const set = { quarantine: decision };
        await decide(connection, facts.operator, { instanceId: id, what: 'quarantine', decision, set });
        say(options, `decided by ${decision.by}`);
      }
      await untilApplied(connection, id, 'quarantine', options);
    });

  program
    .command('restore')
    .description("take back an operator's quarantine, and give each interface the groups that it had")
    .argument('<instance>', 'instance id')
    .requiredOption('--reason <text>', 'why; it is kept with your name')
    .option(
      '--groups <eni=sg,sg>',
      'what an interface gets that has no groups to be given back',
      groupsByInterface,
      {},
    )
    .option('--yes', 'do not ask: groups that were deleted meanwhile are left out')
    .addOption(timeout())
    .option('--json', 'print one JSON document')
    .action(async (id: string, options: WaitOptions & RestoreOptions) => {
      requireInstanceId(id);
      const connection = await connected();
      await restore(connection, id, options);
    });

  program
    .command('plan')
    .description('show what would be done to a VM, call by call; nothing is changed')
    .argument('<instance>', 'instance id')
    .addOption(new Option('--profile <name>', 'as if it belonged there').choices(profileName.options))
    .option('--profiles <file>', 'the profiles that were deployed', PROFILES_FILE)
    .option('--json', 'print one JSON document')
    .action(async (id: string, options: { profile?: Profile; profiles: string; json?: boolean }) => {
      requireInstanceId(id);
      const connection = await connected();
      const profiles = readProfiles(options.profiles);
      const planned = await plan(connection, await readFacts(connection, id), profiles, options.profile);
      if (options.json) {
        print(JSON.stringify(planned, null, 2));
        return;
      }
      print(`${id}: ${planned.profile ?? 'left alone'} (${planned.mode})`);
      for (const reason of planned.reasons) print(`    ${reason}: ${meaning(reason)}`);
      for (const { interfaceId: eni, reason } of planned.left) print(`left  ${eni}: ${meaning(reason)}`);
      for (const { call, parameters } of planned.calls) print(`call  ${call} ${JSON.stringify(parameters)}`);
      if (planned.calls.length === 0) print('Nothing is to be done.');
      else if (planned.mode === 'observe') print('In observe mode none of it is done.');
    });

  program
    .command('tenant')
    .description('confirm that a VM belongs to the tenant that its tag casemate:tenant names now')
    .argument('<instance>', 'instance id')
    .argument('<tenant>', 'the tenant')
    .requiredOption('--reason <text>', 'why; it is kept with your name')
    .action(async (id: string, tenant: string, options: { reason: string }) => {
      requireInstanceId(id);
      const connection = await connected();
      const { operator, vm } = await readFacts(connection, id);
      const tagged = vm.observation.tags[TENANT_TAG];
      if (tagged !== tenant) {
        throw new NotDoneError(`${id} is not tagged ${TENANT_TAG}=${tenant}, but ${tagged ?? 'not at all'}`);
      }
      const decision = await decisionOf(connection, options.reason);
      const set = { tenant: { ...decision, tenant } };
      await decide(connection, operator, { instanceId: id, what: 'tenant', decision, set });
      print(plain(`${id} belongs to ${tenant}, decided by ${decision.by}`));
    });

  program.addCommand(guardCommand(connected));
}

/** `casemate guard`: what holds policy back, and how to let it go on. */
function guardCommand(connected: () => Promise<Connection>): Command {
  const guard = new Command('guard').description('what holds policy back from containing more VMs');

  guard
    .command('list')
    .description('show what policy contained lately, by VPC, Auto Scaling group and tenant')
    .option('--json', 'print one JSON document')
    .action(async (options: { json?: boolean }) => {
      const guards = await readGuards(await connected());
      if (options.json) {
        print(JSON.stringify({ guards }, null, 2));
        return;
      }
      if (guards.length === 0) print('Policy has contained nothing yet.');
      for (const { scope, contained, reachedAt, open } of guards) {
        print(plain(`${scope}${reachedAt === null ? '' : `  reached at ${reachedAt}: VMs wait`}`));
        if (open) print(plain(`    open until ${open.until}, by ${open.by}: ${open.reason}`));
        for (const { instanceId, at } of contained) print(`    ${instanceId} contained at ${at}`);
      }
    });

  guard
    .command('open')
    .description('let policy contain VMs of a scope for a while, whatever their share')
    .argument('<scope>', 'as casemate guard list shows it: vpc/…, asg/…, tenant/… or replacements/…')
    .requiredOption('--reason <text>', 'why; it is kept with your name')
    .option('--minutes <n>', 'for how long, at most a day', minutes, 30)
    .action(async (scope: string, options: { reason: string; minutes: number }) => {
      if (!/^(vpc|asg|tenant|replacements)\/./.test(scope)) {
        throw new UsageError(`${scope} is no scope: vpc/…, asg/…, tenant/… or replacements/…`);
      }
      const connection = await connected();
      const decision = await decisionOf(connection, options.reason);
      const table = { client: connection.dynamodb, name: connection.tableName };
      const pk = `guard#${scope}`;
      const before = (await getItems(table, [pk], guardItem)).get(pk);
      const until = new Date(Date.now() + options.minutes * 60_000).toISOString();
      const state = before ?? { scope, contained: [], reachedAt: null };
      await putVersioned(table, pk, before?.version, { ...state, open: { ...decision, until } });
      print(`${scope} is open until ${until}; VMs that wait are looked at within five minutes`);
    });

  return guard;
}

async function readGuards(connection: Connection): Promise<readonly GuardItem[]> {
  const guards: GuardItem[] = [];
  const scan = {
    TableName: connection.tableName,
    ConsistentRead: true,
    FilterExpression: 'begins_with(pk, :kind)',
    ExpressionAttributeValues: { ':kind': { S: 'guard#' } },
  };
  for await (const page of paginateScan({ client: connection.dynamodb }, scan)) {
    for (const row of page.Items ?? []) {
      const parsed = guardItem.safeParse(unmarshall(row));
      if (parsed.success) guards.push(parsed.data);
      else process.stderr.write(`corrupt item ${row['pk']?.S ?? ''}\n`);
    }
  }
  return guards.sort((a, b) => (a.scope < b.scope ? -1 : 1));
}

function minutes(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 1440)
    throw new UsageError('--minutes takes a whole number from 1 to 1440');
  return value;
}

interface RestoreOptions {
  readonly reason: string;
  readonly groups: Readonly<Record<string, string[]>>;
  readonly yes?: boolean;
}

async function restore(
  connection: Connection,
  id: string,
  options: WaitOptions & RestoreOptions,
): Promise<void> {
  const facts = await readFacts(connection, id);
  const { operator, isolation } = facts;
  const named = Object.keys(options.groups).length > 0;
  if (!operator?.quarantine && !named) {
    const why = decideProfile(facts, new Date());
    const reasons = why.kind === 'fence' ? why.reasons : [why.reason];
    throw new NotDoneError(
      `${id}: no operator contained it. ${reasons.map((reason) => `${reason}: ${meaning(reason)}`).join(' ')}`,
    );
  }
  const ec2 = new EC2Client(connection.ec2);
  const records = isolation?.interfaces ?? [];
  const interfaces = (await interfacesOf(ec2, [id])).get(id) ?? [];
  const ours = await findGroups(ec2, [...new Set(interfaces.map((eni) => eni.vpcId))]);
  const missing = new Set(await missingGroups(ec2, [...records.flatMap((r) => r.originals ?? [])]));
  const workloadGroups: Record<string, string[]> = { ...operator?.workloadGroups };
  for (const [eni, groups] of Object.entries(options.groups)) {
    const record = records.find((r) => r.id === eni);
    if (!record) throw new UsageError(`${eni} is no interface of ${id} that Casemate knows`);
    if (record.originals?.length && !record.originals.some((group) => missing.has(group))) {
      throw new UsageError(`${eni} has groups to be given back: ${record.originals.join(' ')}`);
    }
    const own = groups.filter((group) => ours.isOwn(group));
    if (own.length > 0) throw new UsageError(`${own.join(' ')}: a group of Casemate's own opens nothing`);
    const unknown = await missingGroups(ec2, groups);
    if (unknown.length > 0) throw new UsageError(`${unknown.join(' ')}: there is no such group`);
    workloadGroups[eni] = groups;
  }
  const changes = changedSince(records, new Set(interfaces.map((eni) => eni.id)), missing, workloadGroups);
  for (const { text } of changes) say(options, text);
  const unsaid = changes.filter((change) => change.gets?.length === 0);
  if (unsaid.length > 0) {
    throw new NotDoneError(
      `say what they get: ${unsaid.map((c) => `--groups ${c.interfaceId}=sg-…`).join(' ')}`,
    );
  }
  if (changes.length > 0 && !options.yes && !(await confirmed(options))) {
    throw new NotDoneError('nothing was done: say --yes, or name other groups with --groups eni-…=sg-…,sg-…');
  }
  for (const change of changes) if (change.gets) workloadGroups[change.interfaceId] = [...change.gets];
  const decision = await decisionOf(connection, options.reason);
  const set: { quarantine: undefined; workloadGroups?: OperatorItem['workloadGroups'] } = {
    quarantine: undefined,
    ...(Object.keys(workloadGroups).length > 0 ? { workloadGroups } : {}),
  };
  const decided = await decide(connection, operator, { instanceId: id, what: 'restore', decision, set });
  say(options, `decided by ${decision.by}`);
  const target = decideProfile({ ...facts, operator: decided }, new Date());
  if (target.kind === 'leave-alone') return;
  await untilApplied(connection, id, target.profile, options);
  if (target.profile !== 'workload') {
    const why = target.reasons.map((reason) => `${reason}: ${meaning(reason)}`).join(' ');
    throw new NotDoneError(
      `${id} is no longer contained by an operator; its posture keeps it in ${target.profile}. ${why}`,
    );
  }
}

interface Changed {
  readonly interfaceId: string;
  readonly text: string;
  /** What it gets instead; empty where an operator has to say, absent where nothing is to be given. */
  readonly gets?: readonly string[];
}

/** What is no longer as it was when the interfaces were taken. */
export function changedSince(
  records: readonly InterfaceRecord[],
  attached: ReadonlySet<string>,
  missing: ReadonlySet<string>,
  named: Readonly<Record<string, readonly string[]>>,
): readonly Changed[] {
  return records.flatMap((record): Changed[] => {
    const { id, originals } = record;
    if (originals === null) return [];
    if (!attached.has(id)) {
      const text = `${id} is not attached any more; it gets ${originals.join(' ')} once it is again`;
      return [{ interfaceId: id, text }];
    }
    if (named[id]) return [];
    if (originals.length === 0) {
      return [{ interfaceId: id, text: `${id} started fenced and has no groups of its own`, gets: [] }];
    }
    const gone = originals.filter((group) => missing.has(group));
    const gets = originals.filter((group) => !missing.has(group));
    if (gone.length === 0) return [];
    const text = `${id} had ${originals.join(' ')}; of these ${gone.join(' ')} was deleted since`;
    return [{ interfaceId: id, text, gets }];
  });
}

async function confirmed(options: WaitOptions): Promise<boolean> {
  if (options.json || !process.stdin.isTTY) return false;
  const lines = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return (await lines.question('Go on without them? [y/N] ')).trim().toLowerCase() === 'y';
  } finally {
    lines.close();
  }
}

/** Where the stack does not say what containing a VM does, nothing beyond groups is planned. */
const NO_STEPS: ContainmentSettings = {
  probationEgress: { kind: 'endpoints', securityGroupIds: [], prefixListIds: [] },
  cutTrackedFlows: false,
  detachElasticIps: false,
  standby: false,
  denyCredentialsOfRoles: [],
};

async function plan(
  connection: Connection,
  facts: ProfileFacts,
  profiles: Profiles,
  as: Profile | undefined,
) {
  const id = facts.vm.observation.instanceId;
  const decided = decideProfile(facts, new Date());
  const profile = as ?? (decided.kind === 'fence' ? decided.profile : null);
  const by = decided.kind === 'fence' ? decided.by : 'policy';
  const mode = modeFor(connection.enforcement, { instanceId: id, by, isolation: facts.isolation });
  const shown = { instanceId: id, profile, mode };
  if (profile === null) {
    return { ...shown, reasons: decided.kind === 'fence' ? [] : [decided.reason], left: [], calls: [] };
  }
  const settings = connection.containment ?? NO_STEPS;
  const ec2 = new EC2Client(connection.ec2);
  const interfaces = (await interfacesOf(ec2, [id])).get(id) ?? [];
  const vpcs = [...new Set(interfaces.map((eni) => eni.vpcId))];
  const groups = await findGroups(ec2, vpcs);
  const { tags } = facts.vm.observation;
  const { tenant } = tenantOf(tags, facts.isolation?.tenant, facts.operator?.tenant?.tenant);
  const definition = definitionFor(profiles, profile, facts.vm.observation, tenant);
  const table = { client: connection.dynamodb, name: connection.tableName };
  const quotas = (await getItems(table, [QUOTA_PK], z.unknown())).get(QUOTA_PK);
  const limits = limitsInForce(profiles.limits, quotas, new Date());
  const { probationEgress } = settings;
  const { groups: specs, leftOut } = fitting(
    groupsOfProfile(definition, definitionNamed(profiles, definition), tenant, limits, probationEgress),
    limits,
  );
  const wanted = new Map<string, GroupSpec>();
  for (const spec of [
    ...stageGroups(profiles, limits, probationEgress, settings.cutTrackedFlows),
    ...specs,
  ]) {
    wanted.set(spec.name, spec);
  }
  // Where a group does not exist yet, its name stands for its id.
  const groupsIn = (vpcId: string) => specs.map(({ name }) => groups.idOf(vpcId, name) ?? name);
  const { changes, left } = planIsolation(
    {
      kind: specs.length === 0 ? 'originals' : 'groups',
      profile,
      groupsIn,
      isOwn: (group) => groups.isOwn(group),
    },
    interfaces,
    knownOf(facts.isolation, { profile, definition }),
    { now: new Date(), ...(facts.operator?.workloadGroups ? { named: facts.operator.workloadGroups } : {}) },
  );
  const setGroups = (NetworkInterfaceId: string, Groups: readonly string[]): PlannedCall => ({
    call: 'ec2:ModifyNetworkInterfaceAttribute',
    parameters: { NetworkInterfaceId, Groups },
  });
  const known = facts.isolation?.steps ?? [];
  const addresses =
    settings.detachElasticIps || known.some((step) => step.kind === 'elastic-ip')
      ? await elasticIps(ec2, {
          instanceId: id,
          allocationIds: known.flatMap((step) => (step.kind === 'elastic-ip' ? [step.allocationId] : [])),
        })
      : [];
  const { before, after } = planSteps(facts, settings, profile, interfaces, addresses, new Date());
  const cuts = settings.cutTrackedFlows
    ? planCuts(profile, known, interfaces, new Set(), new Date()).cut.flatMap((eni) => {
        const vpcId = interfaces.find((one) => one.id === eni)?.vpcId ?? '';
        const open = groups.idOf(vpcId, CUT_GROUP.name) ?? CUT_GROUP.name;
        return [setGroups(eni, [open]), setGroups(eni, groupsIn(vpcId))];
      })
    : [];
  const { denyCredentialsOfRoles: roles } = settings;
  const denials =
    roles.length > 0 ? (await getItems(table, [DENIALS_PK], denialsItem)).get(DENIALS_PK) : undefined;
  const denied = denials?.denied.some((one) => one.instanceId === id) ?? false;
  const more = (denials?.denied.length ?? 0) > 1;
  const calls: PlannedCall[] = [
    ...(await planGroups(ec2, new Map(vpcs.map((vpcId) => [vpcId, [...wanted.values()]])))),
    ...before,
    ...changes.map((change) => setGroups(change.interfaceId, change.groups)),
    ...after,
    ...cuts,
    ...(denied === (profile === 'quarantine')
      ? []
      : roles.map((RoleName) => ({
          call: profile === 'quarantine' || more ? 'iam:PutRolePolicy' : 'iam:DeleteRolePolicy',
          parameters: { RoleName, PolicyName: DENIAL_POLICY },
        }))),
  ];
  const reasons = [
    ...(as || decided.kind !== 'fence' ? [] : decided.reasons),
    ...(leftOut.length > 0 ? ['PROFILE_OVER_QUOTA'] : []),
  ];
  return { ...shown, definition, reasons, left, calls };
}

/** Standby comes before the groups; addresses, and the end of standby, after them. */
export function planSteps(
  { vm, isolation }: Pick<ProfileFacts, 'vm' | 'isolation'>,
  settings: ContainmentSettings,
  profile: Profile,
  interfaces: readonly ObservedInterface[],
  addresses: readonly ElasticIp[],
  now: Date,
): { readonly before: readonly PlannedCall[]; readonly after: readonly PlannedCall[] } {
  const { autoScalingGroup, instanceId } = vm.observation;
  const known = isolation?.steps ?? [];
  const standing = known.find((step) => step.kind === 'standby');
  const customers = interfaces.filter((eni) => eni.managedBy === 'customer').map((eni) => eni.id);
  const plan = planAddresses(profile, known, addresses, new Set(customers), now);
  const standby = (call: string, AutoScalingGroupName: string): PlannedCall => ({
    call: `autoscaling:${call}`,
    parameters: { AutoScalingGroupName, InstanceIds: [instanceId] },
  });
  const enters = profile === 'quarantine' && settings.standby && !standing && autoScalingGroup !== null;
  return {
    before: enters ? [standby('EnterStandby', autoScalingGroup)] : [],
    after: [
      ...plan.take.map(({ associationId }) => ({
        call: 'ec2:DisassociateAddress',
        parameters: { AssociationId: associationId },
      })),
      ...plan.give.map((step) => ({
        call: 'ec2:AssociateAddress',
        parameters: { AllocationId: step.allocationId, NetworkInterfaceId: step.interfaceId },
      })),
      ...(profile !== 'quarantine' && settings.standby && standing
        ? [standby('ExitStandby', standing.autoScalingGroup)]
        : []),
    ],
  };
}

/** What decides the profile of one VM. @throws ConnectionError when nobody observed it */
async function readFacts(connection: Connection, id: string): Promise<ProfileFacts> {
  const table = { client: connection.dynamodb, name: connection.tableName };
  const [vms, postures, isolations, operators] = await Promise.all([
    getItems(table, [`vm#${id}`], vmItem),
    getItems(table, [`posture#${id}`], postureItem),
    getItems(table, [`isolation#${id}`], isolationItem),
    getItems(table, [`operator#${id}`], operatorItem),
  ]);
  const vm = vms.get(`vm#${id}`);
  if (!vm) throw new ConnectionError(`${id} was not observed in ${connection.where}; see: casemate vms`);
  return {
    vm,
    posture: postures.get(`posture#${id}`),
    isolation: isolations.get(`isolation#${id}`),
    operator: operators.get(`operator#${id}`),
  };
}

const POLL_MS = 300;

/** Waits until every interface was read back in the profile, and says each as it comes. */
async function untilApplied(
  connection: Connection,
  id: string,
  profile: Profile,
  options: WaitOptions,
): Promise<void> {
  const table = { client: connection.dynamodb, name: connection.tableName };
  const pk = `isolation#${id}`;
  const began = Date.now();
  const said = new Set<string>();
  let item: IsolationItem | undefined;
  do {
    item = (await getItems(table, [pk], isolationItem)).get(pk);
    if (item?.profile === profile && item.mode === 'observe') break;
    for (const eni of item?.profile === profile ? item.interfaces : []) {
      const line = `${eni.id} ${eni.groups.join(' ')}`;
      if (item?.applied && !said.has(line)) say(options, `${line}: read back in ${profile}`);
      said.add(line);
    }
    if (item?.profile === profile && item.applied) {
      const seconds = (Date.now() - began) / 1000;
      if (options.json)
        print(JSON.stringify({ id, profile, applied: true, interfaces: item.interfaces, seconds }));
      else print(`${id}: ${profile} on every interface after ${seconds.toFixed(1)} s`);
      return;
    }
    await sleep(POLL_MS);
  } while (Date.now() - began < options.timeout * 1000);
  throw new NotDoneError(await whatIsLeft(connection, id, profile, item));
}

/** Why a VM is not in the profile, in words for whoever has to go on. */
async function whatIsLeft(
  connection: Connection,
  id: string,
  profile: Profile,
  item: IsolationItem | undefined,
): Promise<string> {
  if (item?.profile !== profile) {
    const operator = (await readOperator(connection, id))?.history[0];
    const last = operator ? ` The last decision is "${operator.what}" of ${operator.by}.` : '';
    return `${id} is not on its way to ${profile} yet: see casemate explain ${id}, and the log of apply-isolation.${last}`;
  }
  if (item.mode === 'observe') {
    return `${id} belongs in ${profile}, and in observe mode no interface is changed: casemate plan ${id}`;
  }
  const interfaces = item.interfaces.map((eni) => `  ${eni.id} has ${eni.groups.join(' ')}`);
  const reasons = item.reasons.map((reason) => `  ${reason}: ${meaning(reason)}`);
  return [`${id} is not in ${profile} on every interface:`, ...interfaces, ...reasons].join('\n');
}

function meaning(reason: string): string {
  return REASONS[reason as Reason] ?? 'a reason of a policy of your own.';
}

/** Progress: not where one JSON document is wanted. */
function say(options: { readonly json?: boolean }, line: string): void {
  if (!options.json) print(plain(line));
}

function seconds(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new UsageError('--timeout takes a number of seconds');
  return value;
}

/** `eni-…=sg-…,sg-…`, which can be given for several interfaces. */
function groupsByInterface(text: string, before: Record<string, string[]>): Record<string, string[]> {
  const [eni = '', list = '', ...more] = text.split('=');
  const groups = list.split(',');
  const fits = more.length === 0 && interfaceId.safeParse(eni).success;
  if (!fits || !groups.every((group) => groupId.safeParse(group).success)) {
    throw new UsageError(`--groups ${text}: it is eni-…=sg-…,sg-…`);
  }
  return { ...before, [eni]: groups };
}
