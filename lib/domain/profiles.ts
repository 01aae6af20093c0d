import { createHash } from 'node:crypto';
import * as z from 'zod';
import { groupId } from './ids.ts';
import { type Profile, profileName } from './isolation.ts';
import type { ProbationEgress } from './probation-egress.ts';
import { DEFAULT_LIMITS, type Limits, MOST_GROUPS_PER_INTERFACE, RULES_PER_INTERFACE } from './quotas.ts';
import type { Observation } from './vm.ts';

/** Whose VM it is. */
export const TENANT_TAG = 'casemate:tenant';

export { type ProbationEgress, probationEgress } from './probation-egress.ts';

const port = z.number().int().min(0).max(65_535);

const peer = z.union([
  z.strictObject({ cidr: z.cidrv4() }),
  z.strictObject({ cidr6: z.cidrv6() }),
  z.strictObject({ securityGroup: groupId }),
  z.strictObject({ prefixList: z.string().regex(/^pl-[0-9a-f]{8,17}$/) }),
]);

const rule = z
  .strictObject({
    protocol: z.enum(['tcp', 'udp', 'icmp', 'icmpv6', 'all']).default('tcp'),
    /** One port or the first and last of a range; only of tcp and udp, and always of these. */
    ports: z.union([port, z.tuple([port, port])]).optional(),
    peer,
  })
  .refine(({ protocol, ports }) => (ports !== undefined) === (protocol === 'tcp' || protocol === 'udp'), {
    error: 'tcp and udp need ports, the others have none',
    path: ['ports'],
  })
  .refine(({ ports }) => !Array.isArray(ports) || ports[0] <= ports[1], {
    error: 'the first port is higher than the last',
    path: ['ports'],
  });

/** HTTPS to what the deployment says that an agent needs. */
const agentEndpoints = z.strictObject({ peer: z.literal('agent-endpoints') });

const profile = z
  .strictObject({
    description: z.string().optional(),
    /** The groups that the VM came with, and nothing of ours. */
    originals: z.boolean().default(false),
    egress: z.array(z.union([agentEndpoints, rule])).default([]),
    ingress: z.array(rule).default([]),
    /** VMs of one tenant in this profile reach each other, over everything, and nobody else. */
    sameTenant: z.boolean().default(false),
  })
  .refine((p) => !p.originals || (p.egress.length === 0 && p.ingress.length === 0 && !p.sameTenant), {
    error: 'gives back the groups that a VM came with: it cannot have rules of its own beside them',
    path: ['originals'],
  });
export type ProfileDefinition = z.infer<typeof profile>;

/** The name becomes part of the names of groups. */
const NAME = /^[a-z][a-z0-9-]{0,39}$/;

const who = {
  tenant: z.string().min(1).optional(),
  tag: z.strictObject({ key: z.string().min(1), value: z.string() }).optional(),
  autoScalingGroup: z.string().min(1).optional(),
};
const someone = (of: { tenant?: unknown; tag?: unknown; autoScalingGroup?: unknown }) =>
  of.tenant !== undefined || of.tag !== undefined || of.autoScalingGroup !== undefined;
const SOMEONE = { error: 'says of nobody: give tenant, tag or autoScalingGroup' };

/** The file of profiles: policies/profiles.json. Strict, because a misspelt rule would be a hole or a wall. */
export const profilesFile = z.strictObject({
  schemaVersion: z.literal(1),
  profiles: z.record(z.string(), profile),
  /** Which profile takes the place of another, of whom. The first that fits counts. */
  use: z
    .array(z.strictObject({ stage: profileName, profile: z.string(), ...who }).refine(someone, SOMEONE))
    .default([]),
  /** What VMs get in `workload` whose interfaces started in a group of Casemate's. The first that fits counts. */
  workloadGroups: z
    .array(z.strictObject({ groups: z.array(groupId).min(1), ...who }).refine(someone, SOMEONE))
    .default([]),
  /** What groups are composed of at most. Of what the account has beyond that, nothing is used; of what it lacks, neither. */
  limits: z
    .strictObject({
      groupsPerInterface: z.number().int().min(1).max(MOST_GROUPS_PER_INTERFACE).optional(),
      rulesPerGroup: z.number().int().min(1).max(RULES_PER_INTERFACE).optional(),
    })
    .default({}),
});
export type Profiles = z.infer<typeof profilesFile>;

/** Profiles that cannot be used. The message names every fault and where it stands. Not retryable. */
export class ProfilesError extends Error {
  override readonly name = 'ProfilesError';
}

/**
 * Reads a file of profiles.
 *
 * @throws ProfilesError when it does not fit the schema, names a profile that there is not, or needs more groups
 * on an interface than the file states, or than an account has for which nobody raised a quota
 */
export function parseProfiles(json: unknown, egress: ProbationEgress): Profiles {
  const parsed = profilesFile.safeParse(json);
  if (!parsed.success) throw new ProfilesError(z.prettifyError(parsed.error));
  const profiles = parsed.data;
  const faults: string[] = [];
  for (const name of Object.keys(profiles.profiles)) {
    if (!NAME.test(name))
      faults.push(`profiles."${name}": a name is lower-case letters, digits and dashes, at most 40`);
  }
  for (const stage of profileName.options) {
    if (!profiles.profiles[stage]) faults.push(`profiles.${stage} is missing`);
  }
  for (const stage of ['probation', 'quarantine'] as const) {
    if (profiles.profiles[stage]?.originals)
      faults.push(`profiles.${stage} fences nothing: it has originals`);
  }
  for (const [i, use] of profiles.use.entries()) {
    const definition = profiles.profiles[use.profile];
    if (!definition) faults.push(`use[${i}].profile: there is no profile "${use.profile}"`);
    else if (definition.originals && use.stage !== 'workload') {
      faults.push(`use[${i}]: "${use.profile}" gives VMs their own groups and cannot stand for ${use.stage}`);
    }
  }
  // What the account really has is not known here: limitsInForce sees to that.
  const expected = {
    groupsPerInterface: profiles.limits.groupsPerInterface ?? DEFAULT_LIMITS.groupsPerInterface,
    rulesPerGroup: profiles.limits.rulesPerGroup ?? DEFAULT_LIMITS.rulesPerGroup,
  };
  if (expected.groupsPerInterface * expected.rulesPerGroup > RULES_PER_INTERFACE) {
    faults.push(
      `limits: ${expected.groupsPerInterface} groups of ${expected.rulesPerGroup} rules are more than the ${RULES_PER_INTERFACE} that AWS allows on an interface`,
    );
  }
  for (const [name, definition] of Object.entries(profiles.profiles)) {
    const groups = groupsOfProfile(name, definition, 'a tenant', expected, egress).length;
    if (groups > expected.groupsPerInterface) {
      faults.push(
        `profiles.${name} comes to ${groups} groups, and an interface takes ${expected.groupsPerInterface}: use fewer rules, prefix lists, or raise the quota and say so in limits`,
      );
    }
  }
  if (faults.length > 0) throw new ProfilesError(faults.join('\n'));
  return profiles;
}

interface Who {
  readonly tenant?: string | undefined;
  readonly tag?: { readonly key: string; readonly value: string } | undefined;
  readonly autoScalingGroup?: string | undefined;
}

function fits(of: Who, observation: Observation, tenant: string | null): boolean {
  return (
    (of.tenant === undefined || of.tenant === tenant) &&
    (of.tag === undefined || observation.tags[of.tag.key] === of.tag.value) &&
    (of.autoScalingGroup === undefined || of.autoScalingGroup === observation.autoScalingGroup)
  );
}

/** The name of the profile that a VM gets for a stage. */
export function definitionFor(
  profiles: Profiles,
  stage: Profile,
  observation: Observation,
  tenant: string | null,
): string {
  return profiles.use.find((use) => use.stage === stage && fits(use, observation, tenant))?.profile ?? stage;
}

/** What a VM's interfaces get in `workload` that started in a group of Casemate's; empty when nobody said so. */
export function configuredGroups(
  profiles: Profiles,
  observation: Observation,
  tenant: string | null,
): readonly string[] {
  return profiles.workloadGroups.find((of) => fits(of, observation, tenant))?.groups ?? [];
}

export type ResolvedPeer =
  | z.infer<typeof peer>
  /** The very group that has the rule. */
  | 'self';

export interface ResolvedRule {
  readonly protocol: 'tcp' | 'udp' | 'icmp' | 'icmpv6' | 'all';
  readonly ports?: readonly [from: number, to: number];
  readonly peer: ResolvedPeer;
}

/** A security group as it has to be in a VPC. */
export interface GroupSpec {
  /** Unique in the VPC, and how Casemate finds it again. */
  readonly name: string;
  readonly profile: string;
  readonly ingress: readonly ResolvedRule[];
  readonly egress: readonly ResolvedRule[];
}

/** What every name of a Casemate group starts with. */
export const GROUP_PREFIX = 'casemate-';

/** In it everything is allowed, so that EC2 tracks no flow, for the moment before none is. */
export const CUT_GROUP: GroupSpec = {
  name: `${GROUP_PREFIX}cut`,
  profile: 'cut',
  ...both([
    { protocol: 'all', peer: { cidr: '0.0.0.0/0' } },
    { protocol: 'all', peer: { cidr6: '::/0' } },
  ]),
};

function both(rules: readonly ResolvedRule[]): Pick<GroupSpec, 'ingress' | 'egress'> {
  return { ingress: rules, egress: rules };
}

/**
 * The groups that a profile comes to: as many as its rules need at the quota of rules a group. What lets something
 * in stands in groups of its own, so that nobody, not even Casemate, can open the others to the inside. VMs of a
 * tenant share a group that names itself as its peer.
 */
export function groupsOfProfile(
  name: string,
  definition: ProfileDefinition,
  tenant: string | null,
  limits: Limits,
  egress: ProbationEgress,
): readonly GroupSpec[] {
  if (definition.originals) return [];
  const out = definition.egress.flatMap((r) =>
    r.peer === 'agent-endpoints' ? agentRules(egress) : [resolved(r as z.infer<typeof rule>)],
  );
  const incoming = definition.ingress.map(resolved);
  const base = `${GROUP_PREFIX}${name}`;
  const groups: GroupSpec[] = [
    ...chunks(out, limits.rulesPerGroup).map((rules, i) => ({
      name: i === 0 ? base : `${base}.out${i + 1}`,
      profile: name,
      ingress: [],
      egress: rules,
    })),
    ...chunks(incoming, limits.rulesPerGroup).map((rules, i) => ({
      name: `${base}.in${i + 1}`,
      profile: name,
      ingress: rules,
      egress: [],
    })),
  ];
  if (definition.sameTenant && tenant !== null) {
    // By its hash: a name may have characters that the name of a group may not.
    const hash = createHash('sha256').update(tenant).digest('hex').slice(0, 16);
    groups.push({
      name: `${base}.t-${hash}`,
      profile: name,
      ...both([{ protocol: 'all', peer: 'self' }]),
    });
  }
  return groups.length > 0 ? groups : [{ name: base, profile: name, ingress: [], egress: [] }];
}

/**
 * Of the groups of a profile, those that an interface takes. Groups only ever let something through, so without the
 * others it is closed further than the profile says, and never less.
 */
export function fitting(
  groups: readonly GroupSpec[],
  limits: Limits,
): { readonly groups: readonly GroupSpec[]; readonly leftOut: readonly GroupSpec[] } {
  const { groupsPerInterface: most } = limits;
  return { groups: groups.slice(0, most), leftOut: groups.slice(most) };
}

/**
 * What every VPC has from the first VM on that is enforced there: quarantine must not wait for its group to be made.
 */
export function stageGroups(
  profiles: Profiles,
  limits: Limits,
  egress: ProbationEgress,
  cutTrackedFlows: boolean,
): readonly GroupSpec[] {
  return [
    ...(['probation', 'quarantine'] as const).flatMap(
      (stage) =>
        fitting(groupsOfProfile(stage, definitionNamed(profiles, stage), null, limits, egress), limits)
          .groups,
    ),
    ...(cutTrackedFlows ? [CUT_GROUP] : []),
  ];
}

/** parseProfiles has seen that every name is there. */
export function definitionNamed(profiles: Profiles, name: string): ProfileDefinition {
  const definition = profiles.profiles[name];
  if (!definition) throw new RangeError(`there is no profile ${name}`);
  return definition;
}

function resolved(of: z.infer<typeof rule>): ResolvedRule {
  const { protocol, ports, peer: to } = of;
  if (ports === undefined) return { protocol, peer: to };
  return { protocol, ports: typeof ports === 'number' ? [ports, ports] : ports, peer: to };
}

function agentRules(egress: ProbationEgress): ResolvedRule[] {
  const https = { protocol: 'tcp', ports: [443, 443] } as const;
  switch (egress.kind) {
    case 'https-anywhere':
      return [
        { ...https, peer: { cidr: '0.0.0.0/0' } },
        { ...https, peer: { cidr6: '::/0' } },
      ];
    case 'endpoints':
      return [
        ...egress.securityGroupIds.map((id) => ({ ...https, peer: { securityGroup: id } })),
        ...egress.prefixListIds.map((id) => ({ ...https, peer: { prefixList: id } })),
      ];
  }
}

function chunks<T>(all: readonly T[], size: number): T[][] {
  const parts: T[][] = [];
  for (let i = 0; i < all.length; i += size) parts.push(all.slice(i, i + size));
  return parts;
}

/**
 * Whose VM it is. The first tag that was seen counts until an operator confirms another: whoever may edit tags
 * could otherwise move a VM in among another tenant's.
 */
export function tenantOf(
  tags: Readonly<Record<string, string>>,
  pinned: string | null | undefined,
  confirmed: string | undefined,
): { readonly tenant: string | null; readonly changed: boolean } {
  const tagged = tags[TENANT_TAG] ?? null;
  const asConfirmed = confirmed !== undefined && tagged === confirmed;
  if (pinned === undefined || tagged === pinned || asConfirmed) return { tenant: tagged, changed: false };
  return { tenant: pinned, changed: true };
}
