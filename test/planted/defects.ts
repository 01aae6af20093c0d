/** A mistake that somebody could make, as a change of one place. */
export interface Defect {
  readonly name: string;
  readonly file: string;
  /** Stands there exactly once. */
  readonly find: string;
  readonly plant: string;
}

const DOMAIN = 'lib/domain/isolation.ts';
const FENCING = 'lambdas/apply-isolation/fencing.ts';
const HANDLER = 'lambdas/apply-isolation/handler.ts';

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
    find: 'for (const { vpcId } of record.vm.observation.interfaces) healers.set(vpcId, id);',
    plant: 'healers.set(String(record.vm.observation.vpcId), id);',
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
  },
  {
    name: 'an item is written whatever version it has',
    file: 'lambdas/aws/dynamodb.ts',
    find: "ConditionExpression: 'version = :read',",
    plant: "ConditionExpression: '(version > :read OR version = :read)',",
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
];
