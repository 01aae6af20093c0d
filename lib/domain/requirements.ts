import * as z from 'zod';
import type { Fact } from './fact.ts';
import { utcTime } from './ids.ts';
import type { OperatorItem } from './operator.ts';

/**
 * What a VM's tags can demand of its hardware: `casemate:require` with these names, separated by spaces, and
 * `mitigation:NAME` for each processor vulnerability that must be mitigated. policies/hardware.cedar says what
 * each one means.
 */
export const REQUIREMENTS = [
  'iommu',
  'memory-encryption',
  'mitigations',
  'nested-paging',
  'smt-off',
  'snp-attested',
  'swap-encrypted',
] as const;

/** The files of /sys/devices/system/cpu/vulnerabilities that the probe reports by name, as its facts spell them. */
export const VULNERABILITIES = [
  'gather-data-sampling',
  'ghostwrite',
  'indirect-target-selection',
  'itlb-multihit',
  'l1tf',
  'mds',
  'meltdown',
  'mmio-stale-data',
  'old-microcode',
  'reg-file-data-sampling',
  'retbleed',
  'spec-rstack-overflow',
  'spec-store-bypass',
  'spectre-v1',
  'spectre-v2',
  'srbds',
  'tsa',
  'tsx-async-abort',
  'vmscape',
] as const;

const REQUIRE_TAG = 'casemate:require';
const EVIDENCE_TAG = 'casemate:evidence';
const MITIGATION = 'mitigation:';
const VULNERABILITY = 'kernel.vulnerability.';

/**
 * What the tags demand, word for word, sorted: names that nobody knows among them, because a misspelt demand is
 * refused and not ignored.
 */
export function demandedBy(tags: Readonly<Record<string, string>>): readonly string[] {
  const words = (tags[REQUIRE_TAG] ?? '').split(/\s+/).filter((word) => word !== '');
  const evidence = tags[EVIDENCE_TAG];
  if (evidence === 'required') words.push('evidence');
  else if (evidence !== undefined && evidence !== 'optional') words.push(`${EVIDENCE_TAG}=${evidence}`);
  return [...new Set(words)].sort();
}

/** What stands of a VM's demands, in its `vm#` item. */
export const demands = z.strictObject({
  standing: z.array(z.string()),
  /** Since when its tags demand less than this; null while they do not. */
  fewerSince: utcTime.nullable(),
});
export type Demands = z.infer<typeof demands>;

/**
 * The demands after a look at the tags, undefined when there are none. More is demanded at once; less only when an operator confirmed exactly
 * what is dropped, after it was dropped: tags are edited by people who may be attackers.
 */
export function nextDemands(
  before: Demands | undefined,
  tags: Readonly<Record<string, string>>,
  confirmed: OperatorItem['demandLess'],
  now: Date,
): Demands | undefined {
  const asked = demandedBy(tags);
  const since = before?.fewerSince ?? now.toISOString();
  const kept = droppedDemands(before, tags).filter(
    (name) => !(confirmed && confirmed.at >= since && confirmed.requirements.includes(name)),
  );
  if (kept.length === 0 && asked.length === 0) return undefined;
  return kept.length === 0
    ? { standing: [...asked], fewerSince: null }
    : { standing: [...asked, ...kept].sort(), fewerSince: since };
}

/** What stands although the tags no longer demand it: what an operator can confirm away. */
export function droppedDemands(
  standing: Demands | undefined,
  tags: Readonly<Record<string, string>>,
): readonly string[] {
  const asked = demandedBy(tags);
  return (standing?.standing ?? []).filter((name) => !asked.includes(name));
}

/** What demands look like to policy; schema.cedarschema says the same. */
export interface DemandContext {
  /** Known names; `mitigation` where some are demanded by name, `unknown` where a name is none. */
  readonly requires: readonly string[];
  /** Of the vulnerabilities, those whose mitigation is demanded by name. */
  readonly requiredMitigations: readonly string[];
  /** Those that the guest's kernel calls mitigated, or that the processor does not have. */
  readonly mitigated: readonly string[];
}

/** Standing demands and the present tags', with what the guest's kernel says of vulnerabilities. */
export function demandContext(
  standing: Demands | undefined,
  tags: Readonly<Record<string, string>>,
  facts: readonly Pick<Fact, 'id' | 'state'>[],
): DemandContext {
  const requires = new Set<string>();
  const requiredMitigations = new Set<string>();
  for (const name of [...(standing?.standing ?? []), ...demandedBy(tags)]) {
    const vulnerability = name.startsWith(MITIGATION) ? name.slice(MITIGATION.length) : undefined;
    if (vulnerability !== undefined && VULNERABILITIES.some((known) => known === vulnerability)) {
      requires.add('mitigation');
      requiredMitigations.add(vulnerability);
    } else if (name === 'evidence' || REQUIREMENTS.some((known) => known === name)) requires.add(name);
    else requires.add('unknown');
  }
  const mitigated = facts
    .filter(({ id, state }) => id.startsWith(VULNERABILITY) && state === 'absent')
    .map(({ id }) => id.slice(VULNERABILITY.length));
  return {
    requires: [...requires],
    requiredMitigations: [...requiredMitigations],
    mitigated: [...new Set(mitigated)],
  };
}
