import { DecryptCommand, KMSClient } from '@aws-sdk/client-kms';
import { Command } from 'commander';
import { getItems } from '../../lambdas/aws/dynamodb.ts';
import { type DiskItem, diskItem } from '../../lib/domain/disk-key.ts';
import { diskUuid, volumeId } from '../../lib/domain/ids.ts';
import { type ReleaseItem, releaseItem } from '../../lib/domain/key-release.ts';
import type { OperatorChange, OperatorItem } from '../../lib/domain/operator.ts';
import { REASONS, type Reason } from '../../lib/domain/reasons.ts';
import { type Connection, ConnectionError } from './connection.ts';
import { findVm, requireInstanceId } from './fleet.ts';
import { decide, decisionOf, readOperator } from './operator.ts';
import { print } from './terminal.ts';
import { UsageError } from './usage.ts';

interface Reasoned {
  readonly reason: string;
}

type Set = OperatorChange['set'];

/** `casemate keys …` and `casemate allow …`. */
export function addKeyCommands(program: Command, connected: () => Promise<Connection>): void {
  const keys = new Command('keys')
    .copyInheritedSettings(program)
    .description('show the keys of a VM and what was decided about them, or decide')
    .argument('[instance]', 'instance id')
    .option('--json', 'print one JSON document')
    .action(async (id: string | undefined, options: { json?: boolean }) => {
      if (id === undefined) throw new UsageError('casemate keys takes an instance id (i-…)');
      await show(await connected(), id, options.json ?? false);
    });
  const decision = (name: string, argument: [string, string], description: string) =>
    new Command(name)
      .copyInheritedSettings(program)
      .description(description)
      .argument(...argument)
      .requiredOption('--reason <text>', 'why; it is kept with your name');
  const vm: [string, string] = ['<instance>', 'instance id'];
  const disk: [string, string] = ['<disk>', 'UUID of the disk, as casemate keys i-… shows it'];

  keys.addCommand(
    decision('hold', vm, 'release no key to a VM until the hold is taken back').action(
      async (id: string, { reason }: Reasoned) => {
        await change(await connected(), id, 'hold', reason, (_, hold) => ({ hold }));
        print(`${id}: no key is released to it. What it has open stays open.`);
      },
    ),
  );
  keys.addCommand(
    decision('unhold', vm, 'take a hold back').action(async (id: string, { reason }: Reasoned) => {
      await change(await connected(), id, 'unhold', reason, () => ({ hold: undefined }));
      print(`${id}: keys are released as policy says.`);
    }),
  );
  keys.addCommand(
    decision('rotate', disk, 'have the agent replace the key of a disk').action(
      async (uuid: string, { reason }: Reasoned) => {
        const connection = await connected();
        const { instanceId } = await findDisk(connection, uuid);
        await change(connection, instanceId, `rotate ${uuid}`, reason, (before, said) => ({
          rotate: { ...before?.rotate, [uuid]: said },
        }));
        print(`${uuid}: the agent of ${instanceId} rotates it at its next look, within its report interval.`);
      },
    ),
  );
  keys.addCommand(
    decision(
      'retire',
      disk,
      'let the keys of a disk go, 30 days from now, once no volume or snapshot is left',
    )
      .option('--generation <n>', 'this generation alone', positive)
      .option('--cancel', 'keep them after all')
      .action(async (uuid: string, options: Reasoned & { generation?: number; cancel?: boolean }) => {
        if (options.cancel && options.generation !== undefined)
          throw new UsageError('--cancel keeps every generation of the disk: leave --generation out');
        await retire(await connected(), uuid, options);
      }),
  );
  keys.addCommand(
    decision('recover', disk, 'open the recovery key of a disk and print it').action(
      async (uuid: string, { reason }: Reasoned) => {
        await recover(await connected(), uuid, reason);
      },
    ),
  );
  program.addCommand(keys);
  program.addCommand(allowCommand(program, connected));
}

/** `casemate allow …`: what waits for an operator's word. */
function allowCommand(program: Command, connected: () => Promise<Connection>): Command {
  const allow = new Command('allow')
    .copyInheritedSettings(program)
    .description('confirm what only an operator may confirm');
  const command = (name: string, description: string) =>
    new Command(name)
      .copyInheritedSettings(program)
      .description(description)
      .argument('<instance>', 'instance id')
      .requiredOption('--reason <text>', 'why; it is kept with your name')
      .option('--revoke', 'take it back');
  interface Options extends Reasoned {
    readonly revoke?: boolean;
    readonly minutes?: number;
  }
  allow.addCommand(
    command('leave-scope', 'let a VM leave scope that its tags no longer put there').action(
      async (id: string, { reason, revoke }: Options) => {
        const connection = await connected();
        const record = await findVm(connection, id);
        if (!revoke && !record.vm.leavingScope)
          throw new UsageError(`${id} does not want to leave scope: its tags keep it there, or it has left`);
        await change(connection, id, 'allow leave-scope', reason, (_, said) => ({
          leaveScope: revoke ? undefined : said,
        }));
        print(
          revoke
            ? `${id}: stays in scope.`
            : [
                `${id}: leaves scope at the next sweep, within five minutes, and is given no key from then on.`,
                'What it has open stays open; from its next boot its disks open with their recovery keys alone.',
              ].join('\n'),
        );
      },
    ),
  );
  allow.addCommand(
    command('enrol', 'let an agent enrol after its window, or with another key, once')
      .option('--minutes <n>', 'for so long', positive, 15)
      .action(async (id: string, { reason, revoke, minutes = 15 }: Options) => {
        await change(await connected(), id, 'allow enrol', reason, (_, said) => ({
          enrol: revoke
            ? undefined
            : { ...said, until: new Date(Date.parse(said.at) + minutes * 60_000).toISOString() },
        }));
        print(`${id}: ${revoke ? 'no further enrolment' : `one enrolment within ${minutes} minutes`}.`);
      }),
  );
  allow.addCommand(
    command('adopt', 'let a VM take over the disk on one of its volumes')
      .argument('<volume>', 'volume id')
      .action(async (id: string, volume: string, { reason, revoke }: Options) => {
        if (!volumeId.safeParse(volume).success) throw new UsageError(`${volume} is not a volume id (vol-…)`);
        await change(await connected(), id, `allow adopt ${volume}`, reason, (before, said) => {
          const { [volume]: _before, ...others } = before?.adopt ?? {};
          return { adopt: revoke ? others : { ...others, [volume]: said } };
        });
        print(`${id}: ${revoke ? 'may not adopt' : 'may adopt'} the disk on ${volume}.`);
      }),
  );
  return allow;
}

function positive(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1) throw new UsageError(`${text}: takes a whole number from 1`);
  return n;
}

async function change(
  connection: Connection,
  id: string,
  what: string,
  reason: string,
  set: (before: OperatorItem | undefined, said: OperatorChange['decision']) => Set,
): Promise<void> {
  requireInstanceId(id);
  const said = await decisionOf(connection, reason);
  const before = await readOperator(connection, id);
  await decide(connection, before, { instanceId: id, what, decision: said, set: set(before, said) });
}

/** @throws UsageError when that is no UUID, ConnectionError when no disk has it */
async function findDisk(connection: Connection, uuid: string): Promise<DiskItem> {
  if (!diskUuid.safeParse(uuid).success) throw new UsageError(`${uuid} is not the UUID of a disk`);
  const table = { client: connection.dynamodb, name: connection.tableName };
  const disk = (await getItems(table, [`disk#${uuid}`], diskItem)).get(`disk#${uuid}`);
  if (!disk) throw new ConnectionError(`no disk has the UUID ${uuid} in ${connection.where}`);
  return disk;
}

async function retire(
  connection: Connection,
  uuid: string,
  options: Reasoned & { readonly generation?: number; readonly cancel?: boolean },
): Promise<void> {
  const { instanceId, generations } = await findDisk(connection, uuid);
  const { generation, cancel } = options;
  if (generation !== undefined && !generations.some((g) => g.generation === generation))
    throw new UsageError(`${uuid} has no generation ${generation}`);
  const what = cancel ? `keep ${uuid}` : `retire ${uuid}`;
  await change(connection, instanceId, what, options.reason, (before, said) => {
    const { [uuid]: _keep, ...keeps } = before?.keep ?? {};
    const { [uuid]: _retire, ...retires } = before?.retire ?? {};
    const asked = { ...said, ...(generation === undefined ? {} : { generation }) };
    return cancel
      ? { keep: { ...keeps, [uuid]: said }, retire: retires }
      : { keep: keeps, retire: { ...retires, [uuid]: asked } };
  });
  print(
    cancel
      ? `${uuid}: its keys are kept; what was retiring is active again within the hour.`
      : [
          `${uuid}: its keys begin to retire within the hour, and go 30 days from now, if by then neither its volume`,
          'nor a snapshot of it exists. Until then they are still released; --cancel keeps them.',
          'Shredding is complete only when the table’s point-in-time recovery no longer reaches back, 35 days later.',
        ].join('\n'),
  );
}

async function recover(connection: Connection, uuid: string, reason: string): Promise<void> {
  const disk = await findDisk(connection, uuid);
  const [newest] = disk.recoveryKeys ?? [];
  if (!newest) throw new ConnectionError(`${uuid} has no recovery key: its agent has escrowed none`);
  const KeyId = connection.outputs['RecoveryKeyArn'];
  if (!KeyId) throw new ConnectionError(`${connection.where} has no output RecoveryKeyArn`);
  // Written down and announced before KMS is asked: nobody opens a disk unseen.
  await change(connection, disk.instanceId, `recover ${uuid}`, reason, () => ({}));
  const { Plaintext } = await new KMSClient(connection.client).send(
    new DecryptCommand({
      KeyId,
      CiphertextBlob: Buffer.from(newest.sealed, 'base64'),
      EncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
    }),
  );
  if (!Plaintext) throw new ConnectionError('KMS gave no recovery key');
  process.stderr.write(
    `Recovery key of ${disk.volumeId}, of ${newest.at}. Replace it when you are done: casemate-agent disk recover.\n`,
  );
  process.stdout.write(Plaintext, () => Plaintext.fill(0));
  process.stdout.write('\n');
}

/** The `release#` item of a VM. */
export async function readReleases(connection: Connection, id: string): Promise<ReleaseItem | undefined> {
  const table = { client: connection.dynamodb, name: connection.tableName };
  return (await getItems(table, [`release#${id}`], releaseItem)).get(`release#${id}`);
}

async function show(connection: Connection, id: string, json: boolean): Promise<void> {
  const { disks } = await findVm(connection, id);
  const [releases, operator] = await Promise.all([
    readReleases(connection, id),
    readOperator(connection, id),
  ]);
  const view = {
    id,
    hold: operator?.hold ?? null,
    disks: [...disks.values()].map((disk) => ({
      disk: disk.disk,
      volumeId: disk.volumeId,
      copy: disk.copy ?? false,
      generations: disk.generations.map((g) => ({
        generation: g.generation,
        state: g.state,
        issuedAt: g.issuedAt,
        confirmedAt: g.confirmedAt ?? null,
        retireAfter: g.retireAfter ?? null,
        escrows: g.escrows?.length ?? 0,
      })),
      recoveryKeys: (disk.recoveryKeys ?? []).map(({ at, generation }) => ({ at, generation })),
      givenInObserve: (releases?.marks ?? []).filter((m) => m.disk === disk.disk),
      rotate: operator?.rotate?.[disk.disk] ?? null,
      retire: operator?.retire?.[disk.disk] ?? null,
      keep: operator?.keep?.[disk.disk] ?? null,
    })),
    releases: releases?.decisions ?? [],
  };
  if (json) {
    print(JSON.stringify(view, null, 2));
    return;
  }
  if (view.hold) print(`held by ${view.hold.by} since ${view.hold.at}: ${view.hold.reason}`);
  if (view.disks.length === 0) print(`${id} has no disk with a key.`);
  for (const disk of view.disks) {
    print(`${disk.disk}  ${disk.volumeId}${disk.copy ? '  a copy' : ''}`);
    for (const g of disk.generations) {
      const when = g.retireAfter ? `, kept until ${g.retireAfter} at least` : '';
      const since = g.confirmedAt ? `confirmed ${g.confirmedAt}` : `issued ${g.issuedAt}, not confirmed`;
      print(`    key ${g.generation} ${g.state.padEnd(8)} ${since}${when}`);
    }
    const [recovery] = disk.recoveryKeys;
    print(`    recovery key ${recovery ? `escrowed ${recovery.at}` : 'not escrowed'}`);
    for (const { at, generation } of disk.givenInObserve)
      print(`    key ${generation} was given in observe mode at ${at} although posture refuses it`);
    for (const what of ['rotate', 'retire', 'keep'] as const) {
      const said = disk[what];
      if (said) print(`    ${what}: ${said.by} at ${said.at}: ${said.reason}`);
    }
  }
  for (const { at, disk, generation, outcome, reasons } of view.releases.slice(0, 5)) {
    print(`${at}  ${outcome} key ${generation} of ${disk}`);
    for (const reason of reasons)
      print(`    ${reason}: ${REASONS[reason as Reason] ?? 'a policy of your own'}`);
  }
}
