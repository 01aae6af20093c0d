/** A mistake that somebody could make, as a change of one place. */
export interface Defect {
  readonly name: string;
  readonly file: string;
  /** Stands there exactly once. */
  readonly find: string;
  readonly plant: string;
  /** The suite that catches what histories do not play; histories, unless told. */
  readonly suite?: string;
}

const DOMAIN = 'lib/domain/isolation.ts';
const FENCING = 'lambdas/apply-isolation/fencing.ts';
const HANDLER = 'lambdas/apply-isolation/handler.ts';
const BEYOND = 'lambdas/apply-isolation/beyond-groups.ts';
const STEPS = 'lib/domain/containment.ts';
const HOLD_BACK = 'lambdas/apply-isolation/hold-back.ts';
const GUARD = 'lib/domain/guard.ts';
const STANDBY = 'lambdas/apply-isolation/standby.ts';

export const DEFECTS: readonly Defect[] = [
  {
    name: 'originals are recorded after the change, not before',
    file: FENCING,
    find: "interfaces: mode === 'enforce' ? plan.records : notTaken(plan, on),",
    plant:
      "interfaces: mode === 'enforce' ? plan.records.map((r) => ({ ...r, originals: before?.interfaces.find((b) => b.id === r.id)?.originals ?? null })) : notTaken(plan, on),",
  },
  {
    name: 'originals are taken down again at each plan',
    file: DOMAIN,
    find: 'const originals = taken ?? (theirs',
    plant: 'const originals = (theirs',
  },
  {
    name: 'a Casemate group is recorded as an original',
    file: DOMAIN,
    find: 'groups.filter((group) => !target.isOwn(group));',
    plant: 'groups.filter((group) => target.isOwn(group) || true);',
  },
  {
    name: 'originals are forgotten before they were read back',
    file: DOMAIN,
    find: 'back ? { id: record.id, originals: null, groups: eni.groups } : { ...record, groups: eni.groups },',
    plant: '{ id: record.id, originals: null, groups: eni.groups },',
  },
  {
    name: 'originals of a detached interface are forgotten',
    file: DOMAIN,
    find: 'records: [...records, ...detached(known.records, interfaces)],',
    plant: 'records: [...records, ...detached([], interfaces)],',
  },
  {
    name: 'contained is said when one interface is, not all',
    file: DOMAIN,
    find: 'applied &&= wanted !== undefined && sameGroups(eni.groups, wanted);',
    plant: 'applied = wanted !== undefined && sameGroups(eni.groups, wanted);',
  },
  {
    name: 'an interface that came while the plan ran is not counted',
    file: DOMAIN,
    find: 'applied &&= readBack.every((eni) => records.some((record) => record.id === eni.id));',
    plant: '',
    suite: 'test/domain/isolation.test.ts',
  },
  {
    name: 'still contained is said of a VM whose new interface could not be',
    file: FENCING,
    find: 'applied: isWhole(plan) && known.settled,',
    plant: 'applied: plan.changes.length === 0 && known.settled,',
  },
  {
    name: 'what was changed is believed without reading it back',
    file: HANDLER,
    find: 'const settled = await settle(deps, started, readBack);',
    plant:
      'const done = new Map(started.plan.changes.map((c) => [c.interfaceId, [...c.groups]]));\n  const settled = await settle(deps, started, readBack.map((eni) => ({ ...eni, groups: done.get(eni.id) ?? eni.groups })));',
  },
  {
    name: 'a group is used before it is closed',
    file: 'lambdas/aws/security-groups.ts',
    find: 'await healRules(client, group, spec, onFault);',
    plant: 'void healRules(client, group, spec, onFault).catch(() => undefined);',
  },
  {
    name: 'rules are put right in the VPC of the VM alone',
    file: 'lib/domain/sweep.ts',
    find: 'for (const { vpcId } of record.vm.observation.interfaces) healers',
    plant: 'for (const { vpcId } of [record.vm.observation]) healers',
    suite: 'test/domain/sweep.test.ts',
  },
  {
    name: 'a good posture goes before an operator’s quarantine',
    file: DOMAIN,
    find: 'if (operator?.quarantine) {',
    plant: "if (operator?.quarantine && posture?.verdict !== 'compliant') {",
  },
  {
    name: 'a posture that grew stale keeps the fence open',
    file: DOMAIN,
    find: 'const standing = standingVerdict(posture, now);',
    plant: 'const standing = posture ?? standingVerdict(posture, now);',
    suite: 'test/domain/isolation.test.ts',
  },
  {
    name: 'an item is written whatever version it has',
    file: 'lambdas/aws/dynamodb.ts',
    find: "ConditionExpression: 'version = :read',",
    plant: "ConditionExpression: '(version > :read OR version = :read)',",
    suite: 'test/lambdas/aws.test.ts',
  },
  {
    name: 'a requester-managed interface is changed',
    file: DOMAIN,
    find: "if (target.kind === 'groups') left.push({ interfaceId: eni.id, reason: 'REQUESTER_MANAGED' });\n      continue;",
    plant: '',
  },
  {
    name: 'a sweep does not drive what was not applied',
    file: 'lib/domain/convergence.ts',
    find: "else if (mode === 'enforce' && !isolation.applied) found.push('PROFILE_NOT_APPLIED');",
    plant: '',
    suite: 'test/domain/sweep.test.ts',
  },
  {
    name: 'interfaces are changed in observe mode',
    file: FENCING,
    find: "  if (mode === 'enforce') {\n    // Every interface is tried",
    plant: "  if (mode === 'enforce' || mode === 'observe') {\n    // Every interface is tried",
  },
  {
    name: 'a VM that is held in quarantine gets its key',
    file: 'policies/disk-keys.cedar',
    find: 'when { context.verdict == "compliant" && context.profile != "quarantine" };',
    plant: 'when { context.verdict != "unproven" };',
  },
  {
    name: 'an interface is opened before the cut is recorded',
    file: BEYOND,
    find: 'const planned = await store(',
    plant: 'const planned = item;\n  const _late = async () => store(',
  },
  {
    name: 'an interface is opened without a message that has it closed',
    file: BEYOND,
    find: 'await sendLater(deps.sqs, deps.ownQueueUrl, redrive(item.instanceId), REDRIVE_AFTER_SECONDS);',
    plant: 'void sendLater;\n  void redrive;\n  void REDRIVE_AFTER_SECONDS;',
  },
  {
    name: 'an interface with a public address is opened',
    file: STEPS,
    find: "if (eni.publicAddress) return [next('refused', attempts)];",
    plant: '',
  },
  {
    name: 'an interface is opened before its quarantine was read back',
    file: BEYOND,
    find: "if (!deps.cutTrackedFlows || (item.profile === 'quarantine' && !item.applied)) return item;",
    plant: 'if (!deps.cutTrackedFlows) return item;',
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
  {
    name: 'an Elastic IP address is taken before it is recorded',
    file: BEYOND,
    find: 'const planned = plan.take.length > 0 ? await storeSteps(deps, item, plan.steps) : item;',
    plant: 'const planned = item;',
  },
  {
    name: 'an Elastic IP address that cannot be given back yet is forgotten',
    file: STEPS,
    find: 'steps: [...others, ...waiting],',
    plant: 'steps: [...others, ...waiting.slice(waiting.length)],',
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
  {
    name: 'an Elastic IP address of another service is taken',
    file: BEYOND,
    find: "new Set(readBack.flatMap((eni) => (eni.managedBy === 'customer' ? [eni.id] : []))),",
    plant: 'new Set(readBack.map((eni) => eni.id)),',
  },
  {
    name: 'a sweep does not drive steps that are left',
    file: 'lib/domain/convergence.ts',
    find: 'if (hasStepsLeft(isolation.steps, isolation.profile, vm.observation.interfaces))',
    plant: 'if (hasStepsLeft([], isolation.profile, vm.observation.interfaces))',
    suite: 'test/domain/sweep.test.ts',
  },
  {
    name: 'a VM is contained only when its Auto Scaling group answers',
    file: STANDBY,
    find: "return 'failed';",
    plant: 'throw error;',
  },
  {
    name: 'a VM is taken out of standby while it is contained',
    file: STANDBY,
    find: "if (item.profile === 'quarantine' || !item.applied) return false;",
    plant: '',
  },
  {
    name: 'a launch is continued in probation',
    file: 'lib/domain/launch.ts',
    find: "if (isolation.profile !== 'workload') return { kind: 'wait', reason: 'IN_PROBATION' };",
    plant: '',
  },
  {
    name: 'policy contains without asking the guards',
    file: HOLD_BACK,
    find: 'else if (isContainment(fence, before)) containments.push(fencing);',
    plant: 'else void isContainment;',
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
  {
    name: 'what a guard admitted is not stored',
    file: HOLD_BACK,
    find: 'if (!state || state === before.get(scope)) return;',
    plant: 'if (state || !state) return;',
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
  {
    name: 'what observe mode decided counts as contained',
    file: GUARD,
    find: "if (!before || (before.mode === 'observe' && before.profile === 'quarantine')) return 'probation';",
    plant: "if (!before) return 'probation';",
    suite: 'test/domain/guard.test.ts',
  },
  {
    name: 'policy contains a protected VM',
    file: HOLD_BACK,
    find: "if (fence.profile !== 'workload' && isProtected(vm.observation, deps.guards)) {",
    plant: "if (fence.profile === 'probation' && isProtected(vm.observation, deps.guards)) {",
  },
  {
    name: 'VMs beyond the share are enforced',
    file: GUARD,
    find: "return place < enforcement.share ? 'enforce' : 'observe';",
    plant: "return place < 2 ? 'enforce' : 'observe';",
  },
  {
    name: 'what was taken beyond the share is not given back',
    file: GUARD,
    find: "if (vm.by === 'operator' || taken) return 'enforce';",
    plant: "if (vm.by === 'operator') return 'enforce';\n  void taken;",
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
  {
    name: 'whoever edits a tag moves a VM into the segment of another tenant',
    file: 'lib/domain/profiles.ts',
    find: 'if (pinned === undefined || tagged === pinned || asConfirmed)',
    plant: 'if (pinned === undefined || tagged !== pinned || tagged === pinned || asConfirmed)',
  },
  {
    name: 'rules of micro-segments are not put right',
    file: 'lib/domain/sweep.ts',
    find: "composition?.profiles.profiles[definition]?.originals ?? profile === 'workload';",
    plant: "composition !== undefined && profile === 'workload';",
  },
  {
    name: 'groups that a late worker took again are not given back again',
    file: DOMAIN,
    find: 'return theirs ? before.groups : null;',
    plant: 'return theirs ? null : null;',
    suite: 'test/domain/isolation.test.ts',
  },
  {
    name: 'credentials of a contained VM are good again once it ended',
    file: 'lib/domain/credentials.ts',
    find: 'return ended ? [] : [{ ...one, over }];',
    plant: 'return ended || over ? [] : [{ ...one, over }];',
    suite: 'test/lambdas/deny-credentials.test.ts',
  },
  {
    name: 'a sweep does not drive credentials that were not seen denied in every role',
    file: 'lib/domain/sweep.ts',
    find: "if (wish === 'deny') return !denied || denials?.applied !== true;",
    plant: "if (wish === 'deny') return !denied;",
    suite: 'test/domain/sweep.test.ts',
  },
  {
    name: 'a reading of quotas counts for ever',
    file: 'lib/domain/quotas.ts',
    find: 'read.success ? unexpired(read.data, now) : undefined',
    plant: 'read.success && unexpired(read.data, new Date(0)) ? read.data : undefined',
    suite: 'test/lambdas/apply-isolation.containment.test.ts',
  },
];
