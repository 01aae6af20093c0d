import type { AskReleasePolicy } from '../domain/key-release.ts';
import type { AskPosturePolicy } from '../domain/posture.ts';
import type { Observation } from '../domain/vm.ts';
import { cedarFacts, type PolicyEngine, type PolicyResource } from './engine.ts';

/** One account in one Region, which questions about a VM as a whole are about. */
export function fleetOf({ accountId, region }: Observation): PolicyResource {
  return { type: 'Fleet', id: `${accountId}/${region}` };
}

/** Questions about a VM's posture, put to an engine. */
export function askPosture(policy: PolicyEngine, vm: Observation): AskPosturePolicy {
  return (action, { facts, ...context }) =>
    policy.decide(action, vm, fleetOf(vm), { ...context, facts: cedarFacts(facts) });
}

/** The question about a disk's key, put to an engine. */
export function askRelease(policy: PolicyEngine, vm: Observation, disk: PolicyResource): AskReleasePolicy {
  return ({ facts, ...context }) =>
    policy.decide('ReleaseKey', vm, disk, { ...context, facts: cedarFacts(facts) });
}
