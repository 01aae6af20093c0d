import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import {
  configuredGroups,
  definitionFor,
  fitting,
  groupsOfProfile,
  type ProfileDefinition,
  ProfilesError,
  parseProfiles,
  tenantOf,
} from '../../lib/domain/profiles.ts';
import { DEFAULT_LIMITS } from '../../lib/domain/quotas.ts';
import { anObservation } from '../world/items.ts';

const EGRESS = { kind: 'https-anywhere' as const };
const NEEDED = {
  probation: { egress: [{ peer: 'agent-endpoints' }] },
  workload: { originals: true },
  quarantine: {},
};
const parse = (file: object, profiles: object = {}) =>
  parseProfiles({ schemaVersion: 1, profiles: { ...NEEDED, ...profiles }, ...file }, EGRESS);
const rule = (overrides: object = {}) => ({ ports: 443, peer: { cidr: '10.0.0.0/8' }, ...overrides });

test('the profiles that are shipped fence as the protocol says', () => {
  const file: unknown = JSON.parse(
    readFileSync(new URL('../../policies/profiles.json', import.meta.url), 'utf8'),
  );
  const { profiles, use } = parseProfiles(file, EGRESS);
  const groups = (name: string) =>
    groupsOfProfile(name, profiles[name] as ProfileDefinition, 'acme', DEFAULT_LIMITS, EGRESS);
  const https = { protocol: 'tcp', ports: [443, 443] };
  expect(groups('probation')).toEqual([
    {
      name: 'casemate-probation',
      profile: 'probation',
      ingress: [],
      egress: [
        { ...https, peer: { cidr: '0.0.0.0/0' } },
        { ...https, peer: { cidr6: '::/0' } },
      ],
    },
  ]);
  expect(groups('quarantine')).toEqual([
    { name: 'casemate-quarantine', profile: 'quarantine', ingress: [], egress: [] },
  ]);
  expect([groups('workload'), use]).toEqual([[], []]);
});

describe('profiles are refused', () => {
  test.each<[string, object, object, RegExp]>([
    ['of another schema version', { schemaVersion: 2 }, {}, /schemaVersion/],
    ['with a member that nobody knows', { profile: {} }, {}, /Unrecognized key/],
    ['without quarantine', {}, { quarantine: undefined }, /profiles.quarantine/],
    ['whose quarantine fences nothing', {}, { quarantine: { originals: true } }, /quarantine fences nothing/],
    ['whose probation fences nothing', {}, { probation: { originals: true } }, /probation fences nothing/],
    [
      'with rules beside the groups that a VM came with',
      {},
      { workload: { originals: true, sameTenant: true } },
      /cannot have rules of its own/,
    ],
    [
      'that are used and do not exist',
      { use: [{ stage: 'workload', profile: 'segmented', tenant: 'acme' }] },
      {},
      /use\[0\]\.profile: there is no profile "segmented"/,
    ],
    [
      'that are used of nobody',
      { use: [{ stage: 'workload', profile: 'quarantine' }] },
      {},
      /says of nobody/,
    ],
    [
      'that would open a quarantine',
      { use: [{ stage: 'quarantine', profile: 'workload', tenant: 'acme' }] },
      {},
      /cannot stand for quarantine/,
    ],
    ['with a name that no group can have', {}, { 'Open!': {} }, /lower-case letters/],
    ['with tcp and no port', {}, { x: { egress: [rule({ ports: undefined })] } }, /need ports/],
    ['with icmp and a port', {}, { x: { egress: [rule({ protocol: 'icmp' })] } }, /have none/],
    ['with ports the wrong way round', {}, { x: { egress: [rule({ ports: [443, 80] })] } }, /higher than/],
    ['with a port that there is not', {}, { x: { egress: [rule({ ports: 65536 })] } }, /x/],
    ['with an address that is none', {}, { x: { egress: [rule({ peer: { cidr: '10.0.0.0/33' } })] } }, /x/],
    ['with an inbound rule from agents', {}, { x: { ingress: [{ peer: 'agent-endpoints' }] } }, /x/],
    [
      'that come to more groups than an interface takes',
      { limits: { groupsPerInterface: 2, rulesPerGroup: 1 } },
      { x: { egress: [rule(), rule({ ports: 80 }), rule({ ports: 22 })] } },
      /profiles.x comes to 3 groups, and an interface takes 2/,
    ],
    [
      'that come to more groups than an interface takes where nobody raised a quota',
      {},
      { x: { egress: Array.from({ length: 301 }, (_, i) => rule({ ports: i })) } },
      /profiles.x comes to 6 groups, and an interface takes 5/,
    ],
    [
      'with limits that AWS gives to nobody',
      { limits: { rulesPerGroup: 300 } },
      {},
      /5 groups of 300 rules are more than the 1000/,
    ],
    ['with more groups than any interface takes', { limits: { groupsPerInterface: 17 } }, {}, /limits/],
  ])('%s', (_, file, profiles, says) => {
    expect(() => parse(file, profiles)).toThrow(ProfilesError);
    expect(() => parse(file, profiles)).toThrow(says);
  });
});

describe('the groups of a profile', () => {
  const limits = { groupsPerInterface: 5, rulesPerGroup: 2 };
  const of = (
    definition: object,
    tenant: string | null = 'acme',
    egress: Parameters<typeof parseProfiles>[1] = EGRESS,
  ) => {
    const { profiles } = parse({}, { x: definition });
    if (!profiles['x']) throw new Error('no x');
    return groupsOfProfile('x', profiles['x'], tenant, limits, egress);
  };

  test('are as many as the quota of rules a group wants, each with a name of its own', () => {
    const egress = [rule(), rule({ ports: 80 }), rule({ ports: [8000, 8100] })];
    expect(of({ egress }).map((g) => [g.name, g.egress.length])).toEqual([
      ['casemate-x', 2],
      ['casemate-x.out2', 1],
    ]);
  });

  test('let something in only through groups apart', () => {
    const groups = of({ egress: [rule()], ingress: [rule({ peer: { cidr6: 'fd00::/8' } })] });
    expect(groups.map((g) => [g.name, g.ingress.length, g.egress.length])).toEqual([
      ['casemate-x', 0, 1],
      ['casemate-x.in1', 1, 0],
    ]);
  });

  test('of one tenant name themselves, and those of another are others', () => {
    const [acme] = of({ sameTenant: true });
    const [umbrella] = of({ sameTenant: true }, 'umbrella');
    expect(acme?.name).toMatch(/^casemate-x\.t-[0-9a-f]{16}$/);
    expect(umbrella?.name).not.toBe(acme?.name);
    expect(acme).toMatchObject({ ingress: [{ protocol: 'all', peer: 'self' }], egress: [{ peer: 'self' }] });
  });

  test('of a VM without a tenant let it talk to nobody', () => {
    expect(of({ sameTenant: true }, null)).toEqual([
      { name: 'casemate-x', profile: 'x', ingress: [], egress: [] },
    ]);
  });

  test('open what an agent needs to its endpoints alone', () => {
    const endpoints = {
      kind: 'endpoints' as const,
      securityGroupIds: ['sg-0000eeee'],
      prefixListIds: ['pl-0000ffff'],
    };
    expect(of({ egress: [{ peer: 'agent-endpoints' }] }, null, endpoints)[0]?.egress).toEqual([
      { protocol: 'tcp', ports: [443, 443], peer: { securityGroup: 'sg-0000eeee' } },
      { protocol: 'tcp', ports: [443, 443], peer: { prefixList: 'pl-0000ffff' } },
    ]);
  });
});

test('of groups, an interface gets as many as it takes, those that let out first', () => {
  const { profiles } = parse({}, { x: { egress: [rule()], ingress: [rule()], sameTenant: true } });
  const groups = groupsOfProfile('x', profiles['x'] as ProfileDefinition, 'acme', DEFAULT_LIMITS, EGRESS);
  const [out, incoming, tenant] = groups;
  expect(fitting(groups, DEFAULT_LIMITS)).toEqual({ groups, leftOut: [] });
  expect(fitting(groups, { groupsPerInterface: 2, rulesPerGroup: 60 })).toEqual({
    groups: [out, incoming],
    leftOut: [tenant],
  });
});

describe('which profile a VM gets', () => {
  const profiles = parse(
    {
      use: [
        { stage: 'workload', profile: 'a', tenant: 'acme', tag: { key: 'role', value: 'db' } },
        { stage: 'workload', profile: 'b', tenant: 'acme' },
        { stage: 'quarantine', profile: 'c', autoScalingGroup: 'web' },
      ],
      workloadGroups: [{ tenant: 'acme', groups: ['sg-0000eeee'] }],
    },
    { a: {}, b: {}, c: {} },
  );
  test.each([
    ['workload', {}, null, 'workload'],
    ['workload', {}, 'acme', 'b'],
    ['workload', { tags: { role: 'db' } }, 'acme', 'a'],
    ['workload', { tags: { role: 'db' } }, 'umbrella', 'workload'],
    ['quarantine', { autoScalingGroup: 'web' }, null, 'c'],
    ['probation', { autoScalingGroup: 'web' }, 'acme', 'probation'],
  ] as const)('for %s, as %j of %s: %s', (stage, overrides, tenant, name) => {
    expect(definitionFor(profiles, stage, anObservation(overrides), tenant)).toBe(name);
  });
  test('and which groups when it started fenced', () => {
    expect(configuredGroups(profiles, anObservation(), 'acme')).toEqual(['sg-0000eeee']);
    expect(configuredGroups(profiles, anObservation(), null)).toEqual([]);
  });
});

describe('whose VM it is', () => {
  test.each<
    [string, Record<string, string>, string | null | undefined, string | undefined, string | null, boolean]
  >([
    [
      'says its tag when it is first seen',
      { 'casemate:tenant': 'acme' },
      undefined,
      undefined,
      'acme',
      false,
    ],
    ['stays as it was when the tag changes', { 'casemate:tenant': 'evil' }, 'acme', undefined, 'acme', true],
    ['stays as it was when the tag goes', {}, 'acme', undefined, 'acme', true],
    ['stays nobody when a tag comes', { 'casemate:tenant': 'evil' }, null, undefined, null, true],
    [
      'changes when an operator confirms it',
      { 'casemate:tenant': 'umbrella' },
      'acme',
      'umbrella',
      'umbrella',
      false,
    ],
    [
      'does not change to another than was confirmed',
      { 'casemate:tenant': 'evil' },
      'acme',
      'umbrella',
      'acme',
      true,
    ],
  ])('%s', (_, tags, pinned, confirmed, tenant, changed) => {
    expect(tenantOf(tags, pinned, confirmed)).toEqual({ tenant, changed });
  });
});
