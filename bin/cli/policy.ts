import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { getItems } from '../../lambdas/aws/dynamodb.ts';
import { CEDAR_WASM, POLICY_FOLDER, validatePolicies } from '../../lib/constructs/policies.ts';
import { parsePolicyFile } from '../../lib/domain/evidence/policy-file.ts';
import { droppedDemands } from '../../lib/domain/requirements.ts';
import { vmItem } from '../../lib/domain/vm.ts';
import {
  type CaseResult,
  PolicyCasesError,
  type PolicyTestReport,
  parsePolicyCases,
  testPolicies,
} from '../../lib/policy/cases.ts';
import { createPolicyEngine, type PolicySet } from '../../lib/policy/engine.ts';
import { type SimulatedChange, type SimulatedDecision, simulate } from '../../lib/policy/simulate.ts';
import { type Connection, ConnectionError } from './connection.ts';
import { readFleet, requireInstanceId } from './fleet.ts';
import { decide, decisionOf, readOperator } from './operator.ts';
import { plain, print } from './terminal.ts';
import { UsageError } from './usage.ts';

interface Options {
  readonly policies: string;
  readonly json?: boolean;
}

const CASES = '.test.yaml';

/** `casemate policy …`: offline on a folder of policies, and what operators confirm about demands. */
export function policyCommand(connected: () => Promise<Connection>): Command {
  const command = new Command('policy')
    .description('check, test and simulate the policies of a folder; let a VM demand less')
    .showHelpAfterError()
    .exitOverride((error) => {
      process.exit(error.exitCode === 0 ? 0 : 2);
    });
  const on = (name: string, description: string): Command =>
    command
      .command(name)
      .description(description)
      .option('--policies <folder>', 'folder of the policies', POLICY_FOLDER)
      .option('--json', 'print one JSON document');

  on(
    'check',
    'check that the policies parse and fit their schema, and that what is demanded of evidence is readable',
  ).action((options: Options) => {
    const { policies } = readPolicySet(options.policies);
    print(
      options.json
        ? JSON.stringify({ policies }, null, 2)
        : `${policies.length} policies in ${new Set(policies.map((policy) => policy.file)).size} files are in order`,
    );
  });

  on(
    'test',
    `run the cases of *${CASES} against the policies beside them; every policy must be shown at work and at rest`,
  ).action((options: Options) => {
    const report = testPolicies(readPolicySet(options.policies), readCases(options.policies));
    print(options.json ? JSON.stringify(asJson(report), null, 2) : asText(report));
    process.exitCode = report.passed ? 0 : 1;
  });

  on('simulate', 'tell what policies would decide otherwise over the present fleet, and why')
    .option('--live <folder>', 'folder of the policies that they are compared with', POLICY_FOLDER)
    .action(async (options: Options & { live: string }) => {
      const candidate = readPolicySet(options.policies);
      const live = readPolicySet(options.live);
      const fleet = await readFleet(await connected());
      const changes = simulate(fleet, { live, candidate }, { ...DEFAULT_AGES, now: new Date() });
      print(
        options.json
          ? JSON.stringify({ vms: fleet.size, changes }, null, 2)
          : [...changes.flatMap(changeLines), `${changes.length} changes over ${fleet.size} VMs`].join('\n'),
      );
    });

  command
    .command('relax')
    .description('confirm that a VM may demand less of its hardware, as its tags say now')
    .argument('<instance>', 'instance id')
    .requiredOption('--reason <text>', 'why; it is kept with your name')
    .action(async (id: string, options: { reason: string }) => {
      requireInstanceId(id);
      const connection = await connected();
      const pk = `vm#${id}`;
      const table = { client: connection.dynamodb, name: connection.tableName };
      const [vms, operator] = await Promise.all([
        getItems(table, [pk], vmItem),
        readOperator(connection, id),
      ]);
      const vm = vms.get(pk);
      if (!vm) throw new ConnectionError(`${id} was not observed in ${connection.where}; see: casemate vms`);
      const requirements = [...droppedDemands(vm.demands, vm.observation.tags)];
      if (requirements.length === 0) {
        throw new NothingToRelaxError(
          `${id}: its tags demand all that stands; take a demand from them first`,
        );
      }
      const decision = await decisionOf(connection, options.reason);
      const what = `demand less: ${requirements.join(' ')}`;
      const set = { demandLess: { ...decision, requirements } };
      await decide(connection, operator, { instanceId: id, what, decision, set });
      print(`${id} may go without ${plain(requirements.join(' '))}: it is looked at within five minutes`);
    });

  return command;
}

/** As the functions have them where nobody set others (docs/architecture.md). */
const DEFAULT_AGES = { reportMaxAgeSeconds: 900, evidenceMaxAgeSeconds: 7200 };

function changeLines({ instanceId, about, live, candidate }: SimulatedChange): readonly string[] {
  const said = ({ decision, reasons, policies }: SimulatedDecision): string =>
    `${decision}, ${reasons.join(' ')}${policies.length > 0 ? `, by ${policies.join(' ')}` : ''}`;
  return [`${instanceId}: ${about}`, `  live       ${said(live)}`, `  candidate  ${said(candidate)}`];
}

/** The VM demands no less than what stands. */
class NothingToRelaxError extends Error {
  override readonly name = 'NothingToRelaxError';
}

/** @throws PolicySetError, PolicyFileError; UsageError when there is no such folder */
function readPolicySet(folder: string): PolicySet {
  if (!existsSync(join(folder, 'schema.cedarschema'))) {
    throw new UsageError(`${folder} is no folder of policies: it has no schema.cedarschema`);
  }
  const evidence = join(folder, 'evidence.json');
  if (existsSync(evidence)) parsePolicyFile(JSON.parse(readFileSync(evidence, 'utf8')));
  return createPolicyEngine(readFileSync(CEDAR_WASM), validatePolicies(resolve(folder)));
}

function readCases(folder: string) {
  const files = readdirSync(folder).filter((name) => name.endsWith(CASES));
  if (files.length === 0) throw new UsageError(`${folder} has no cases (*${CASES})`);
  try {
    return files.sort().flatMap((name) => parsePolicyCases(name, readFileSync(join(folder, name), 'utf8')));
  } catch (error) {
    if (error instanceof PolicyCasesError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}

/** The report as `--json` prints it: docs/policies.md promises its shape. */
function asJson({ results, coverage, passed }: PolicyTestReport): object {
  return {
    passed,
    cases: results.map(({ case: { file, action, it, expected }, holds, actual }) => ({
      file,
      action,
      it,
      holds,
      expected,
      actual,
    })),
    coverage,
  };
}

function asText({ results, coverage }: PolicyTestReport): string {
  const failed = results.filter((result) => !result.holds);
  return [
    ...failed.flatMap(failureLines),
    ...coverage.neverDetermining.map((id) => `${id}: no case shows it at work`),
    ...coverage.alwaysDetermining.map((id) => `${id}: no case about its action shows it at rest`),
    `${results.length - failed.length} cases hold, ${failed.length} do not`,
  ].join('\n');
}

function failureLines({ case: { file, action, it, expected }, actual }: CaseResult): readonly string[] {
  const answer = ({ decision, reasons, policies }: typeof expected): string =>
    `${decision}, ${reasons.join(' ')}${policies ? `, by ${policies.join(' ') || 'no policy'}` : ''}`;
  return [
    `${file}: ${action} ${it}`,
    `  expected  ${answer(expected)}`,
    `  decided   ${answer(actual)}`,
    ...actual.errors.map((error) => `  error     ${error}`),
  ];
}
