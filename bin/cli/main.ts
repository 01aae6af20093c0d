import { setTimeout as sleep } from 'node:timers/promises';
import { divergences, type VmRecord } from '../../lib/domain/convergence.ts';
import type { ReleaseItem } from '../../lib/domain/key-release.ts';
import { POLICY_FACTS } from '../../lib/domain/policy-facts.ts';
import { REASONS, type Reason } from '../../lib/domain/reasons.ts';
import { verifyCommand } from '../verify/index.ts';
import { type Connection, connect } from './connection.ts';
import { eventsCommand } from './events.ts';
import { findVm, readFleet } from './fleet.ts';
import { addIsolationCommands } from './isolation.ts';
import { addKeyCommands, readReleases } from './keys.ts';
import { localCommand } from './local.ts';
import { policyCommand } from './policy.ts';
import { createProgram, run } from './program.ts';
import { fleetTable } from './table.ts';
import { plain, print } from './terminal.ts';
import { UsageError } from './usage.ts';
import { viewOf } from './view.ts';

const program = createProgram();

const connected = (): Promise<Connection> => connect(program.opts<{ stack: string }>().stack);

program
  .command('vms')
  .description('list the VMs with their volumes, keys, isolation and posture')
  .option('--json', 'print one JSON document')
  .option('--watch', 'print again every two seconds')
  .action(async (options: { json?: boolean; watch?: boolean }) => {
    if (options.json && options.watch) throw new UsageError('--json and --watch do not go together');
    const connection = await connected();
    for (;;) {
      const now = new Date();
      const views = [...(await readFleet(connection)).values()].map((record) => viewOf(record, now));
      if (options.json) print(JSON.stringify({ vms: views }, null, 2));
      else if (views.length === 0) print('No VM was observed yet.');
      else {
        if (options.watch && process.stdout.isTTY) process.stdout.write('\x1b[2J\x1b[H');
        print(fleetTable(views, process.stdout));
      }
      if (!options.watch) return;
      await sleep(2000);
    }
  });

program
  .command('show')
  .description('show everything that is known of one VM')
  .argument('<instance>', 'instance id')
  .option('--json', 'print one JSON document')
  .action(async (id: string, options: { json?: boolean }) => {
    const connection = await connected();
    const record = await findVm(connection, id);
    const now = new Date();
    const view = viewOf(record, now);
    const open = divergences(record, connection.enforcement, now);
    if (options.json) {
      print(
        JSON.stringify(
          {
            ...view,
            divergences: open,
            demands: record.vm.demands ?? null,
            observation: record.vm.observation,
          },
          null,
          2,
        ),
      );
      return;
    }
    print(fleetTable([view], process.stdout));
    const { instanceType, launchTime, tags } = record.vm.observation;
    print(`type       ${instanceType}, launched ${launchTime}`);
    print(
      `tags       ${
        Object.entries(tags)
          .map(([k, v]) => plain(`${k}=${v}`))
          .join(' ') || '-'
      }`,
    );
    const demanded = record.vm.demands;
    if (demanded) {
      const less = demanded.fewerSince ? `, its tags less since ${demanded.fewerSince}` : '';
      print(`demands    ${plain(demanded.standing.join(' '))}${less}`);
    }
    print(`converged  ${open.length === 0 ? 'yes' : `no: ${open.join(', ')}`}`);
    const standing = record.posture?.standing;
    if (standing) {
      print(
        `reports    ${standing.sequence} in boot ${standing.bootId}, ${standing.missing} missing, ${standing.late} late, last ${standing.observedAt}`,
      );
    }
    print('facts');
    for (const [fact, { state, source, value }] of Object.entries(view.posture.facts).sort()) {
      print(
        `  ${fact.padEnd(32)} ${state.padEnd(8)} ${source.padEnd(9)} ${plain(String(value ?? ''))}`.trimEnd(),
      );
    }
  });

program
  .command('explain')
  .description('explain the last decisions about one VM: reasons, policies, and what to do')
  .argument('<instance>', 'instance id')
  .option('--json', 'print one JSON document')
  .action(async (id: string, options: { json?: boolean }) => {
    const connection = await connected();
    const record = await findVm(connection, id);
    const decisions = decisionsOf(record, await readReleases(connection, id));
    const { posture } = record;
    if (options.json) {
      const facts = viewOf(record, new Date()).posture.facts;
      print(JSON.stringify({ id, decisions, refusals: posture?.refusals ?? null, facts }, null, 2));
      return;
    }
    for (const { at, what, reasons, policies } of decisions) {
      print(`${at}  ${what}`);
      for (const reason of reasons)
        print(`    ${reason}: ${REASONS[reason as Reason] ?? 'a policy of your own'}`);
      if (policies.length > 0) print(`    policies: ${policies.join(', ')}`);
    }
    const refusal = posture?.refusals.last;
    if (posture && refusal) {
      print(`${refusal.at}  last of ${posture.refusals.count} refused reports`);
      print(`    ${refusal.reason}: ${REASONS[refusal.reason as Reason] ?? ''}`);
    }
    const shadow = posture?.shadow;
    if (shadow) {
      print(`${shadow.at}  shadow policies would say ${shadow.verdict}, and decide nothing`);
      print(`    ${shadow.reasons.join(', ')}; policies: ${shadow.policies.join(', ') || 'none'}`);
    }
    const evidence = posture?.evidenceRefusal;
    if (evidence) {
      print(`${evidence.at}  the last hardware evidence did not count: docs/evidence.md`);
      print(`    ${evidence.reasons.join(', ')}`);
    }
    print('facts that policy reads');
    const { facts } = viewOf(record, new Date()).posture;
    for (const fact of POLICY_FACTS) {
      const { state, source, value } = facts[fact] ?? { state: 'unknown', source: 'claimed' };
      print(
        `    ${fact.padEnd(26)} ${state.padEnd(8)} ${source.padEnd(9)} ${plain(String(value ?? ''))}`.trimEnd(),
      );
    }
  });

addIsolationCommands(program, connected);
addKeyCommands(program, connected);
program.addCommand(eventsCommand());
program.addCommand(localCommand());
program.addCommand(policyCommand(connected));
program.addCommand(verifyCommand());

interface Decision {
  readonly at: string;
  readonly what: string;
  readonly reasons: readonly string[];
  readonly policies: readonly string[];
}

/** Every recorded decision of a VM, newest first. */
function decisionsOf(record: VmRecord, releases: ReleaseItem | undefined): readonly Decision[] {
  const { vm, disks, posture, isolation } = record;
  return [
    { ...vm.decision, what: vm.managed ? 'in scope' : 'left alone' },
    ...[...disks.values()].map((disk) => ({
      ...disk.decision,
      what: `key for ${disk.volumeId} (${disk.disk})`,
    })),
    ...(releases?.decisions ?? []).map((d) => ({
      ...d,
      what: `key ${d.generation} of ${d.disk} ${d.outcome} (${d.mode})`,
    })),
    ...(posture?.decisions ?? []).map((d) => ({ ...d, what: `posture ${d.verdict}` })),
    ...(isolation?.decisions ?? []).map((d) => ({
      ...d,
      what: `profile ${d.profile} (${d.mode})`,
      policies: [],
    })),
  ].sort((a, b) => (a.at < b.at ? 1 : -1));
}

await run(program);
