/**
 * Policy: time of one decision of each action, with the project's policies and every fact that policy may
 * read, beside Cedar's own floor: the same call with one policy that permits everything, no schema, no
 * entities and an empty context.
 */
import * as cedar from '@cedar-policy/cedar-wasm/web';
import type { SourcedFact } from '../lib/domain/fact.ts';
import type { PolicyAction, PolicyDecision } from '../lib/domain/policy.ts';
import { POLICY_FACTS } from '../lib/domain/policy-facts.ts';
import type { Observation } from '../lib/domain/vm.ts';
import { cedarFacts } from '../lib/policy/engine.ts';
import { projectPolicies } from '../test/world/world.ts';
import { type Item, item, median, print, quantile, say } from './measuring.ts';

const BAR = { of: 'value', max: 100 } as const;
const ROUNDS = 5_000;

const engine = projectPolicies();
const vm: Observation = {
  instanceId: 'i-0123456789abcdef0',
  accountId: '123456789012',
  region: 'eu-west-1',
  state: 'running',
  launchTime: '2026-11-24T08:00:00Z',
  instanceType: 'm6a.large',
  imageId: 'ami-0123456789abcdef0',
  vpcId: 'vpc-0a1b2c3d4e5f60718',
  autoScalingGroup: 'web',
  tags: { Name: 'web-1', 'casemate:protect': 'true', team: 'payments', stage: 'production' },
  amdSevSnp: 'enabled',
  nestedVirtualization: null,
  interfaces: [],
  volumes: [],
};
const present: SourcedFact = { state: 'present', source: 'claimed', value: 'yes' };
const facts = {
  ...Object.fromEntries(POLICY_FACTS.map((id) => [id, present])),
  'mem.swap': { state: 'absent', source: 'claimed', value: undefined } satisfies SourcedFact,
};
const disk = { type: 'Disk', id: '11111111-2222-4333-8444-555555555555', sizeGiB: 20 } as const;
const fleet = { type: 'Fleet', id: '123456789012/eu-west-1' } as const;
const demands = { requires: [], requiredMitigations: [], mitigated: [] };
// As the functions ask: cedarFacts is part of each decision.
const posture = () => ({
  facts: cedarFacts(facts),
  enrolled: true,
  contradicted: false,
  missedReports: 0,
  ...demands,
});
const decisions: Record<PolicyAction, () => PolicyDecision> = {
  Manage: () => engine.decide('Manage', vm, fleet, {}),
  IssueKey: () => engine.decide('IssueKey', vm, disk, { managed: true }),
  ReleaseKey: () =>
    engine.decide('ReleaseKey', vm, disk, {
      facts: cedarFacts(facts),
      verdict: 'compliant',
      profile: 'workload',
      isolated: true,
      mode: 'enforce',
      held: false,
      contained: false,
      ...demands,
    }),
  AdoptDisk: () =>
    engine.decide('AdoptDisk', vm, disk, {
      kind: 'copy',
      lineage: 'asserted',
      ownDisk: true,
      sameTenant: false,
      allowed: false,
    }),
  LeaveProbation: () => engine.decide('LeaveProbation', vm, fleet, posture()),
  Quarantine: () => engine.decide('Quarantine', vm, fleet, posture()),
};

const prepared = cedar.preparsePolicySet('bench', {
  staticPolicies: { all: 'permit (principal, action, resource);' },
});
if (prepared.type === 'failure') throw new Error('the floor does not parse');
const uid = (type: string) => ({ type, id: 'x' });
const floor = () =>
  cedar.statefulIsAuthorized({
    principal: uid('Vm'),
    action: uid('Action'),
    resource: uid('Fleet'),
    context: {},
    entities: [],
    preparsedPolicySetId: 'bench',
  });

/** Of each call alone, in microseconds. */
function times(run: () => unknown): readonly number[] {
  const all: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const began = performance.now();
    run();
    all.push((performance.now() - began) * 1000);
  }
  return all;
}

const all = Object.entries(decisions);
const measured = new Map<string, number[]>();
for (const [, decide] of all) times(decide); // warm
times(floor);
// In turns, so that a busy machine is as busy for each.
for (let turn = 0; turn < 4; turn++) {
  for (const [name, run] of [...all, ['floor', floor] as const]) {
    measured.set(name, [...(measured.get(name) ?? []), ...times(run)]);
  }
}
const of = (name: string) => measured.get(name) ?? [];
const items: Item[] = [];
for (const [name, decide] of all) {
  const { allowed, errors } = decide();
  if (errors.length > 0 || allowed !== (name !== 'Quarantine'))
    throw new Error(`${name} decides another way`);
  const microseconds = of(name);
  const mean = microseconds.reduce((sum, value) => sum + value, 0) / microseconds.length;
  const other = { name: 'Cedar with one policy, no schema, no entities', value: median(of('floor')) };
  items.push(
    item(`policy.${name}.p50`, median(microseconds), 'µs', { other, bar: BAR }),
    item(`policy.${name}.p99`, quantile(microseconds, 0.99), 'µs'),
    item(`policy.${name}.rate`, Math.round(1e6 / mean), 'decisions/s'),
  );
  say(
    `${name}: p50 ${median(microseconds).toFixed(0)} µs, p99 ${quantile(microseconds, 0.99).toFixed(0)} µs`,
  );
}
print({ items, decisions: ROUNDS * 4 });
