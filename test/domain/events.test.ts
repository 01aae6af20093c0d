import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { EVENTS } from '../../lib/domain/events.ts';
import { factSchema, probeResult } from '../../lib/domain/fact.ts';
import { diskUuid, groupId, instanceId, interfaceId, region, volumeId } from '../../lib/domain/ids.ts';
import { REASONS } from '../../lib/domain/reasons.ts';
import { createAgent, sealReport } from '../world/agent.ts';
import { AT, aVolume, DISK, NOW, VM_ID } from '../world/items.ts';

const base = { schemaVersion: 1, instanceId: VM_ID, at: AT };

const EXAMPLES: Record<keyof typeof EVENTS, Record<string, unknown>> = {
  'VM Changed': { ...base, state: 'running', managed: true, leavingScope: false, gone: false },
  'Disk Key Issued': {
    ...base,
    disk: DISK,
    volumeId: aVolume().id,
    generation: 1,
    reasons: ['KEY_ISSUED'],
  },
  'Disk Key Retired': {
    ...base,
    disk: DISK,
    volumeId: aVolume().id,
    generation: 1,
    state: 'retiring',
    retireAfter: AT,
    reasons: ['KEY_ROTATED'],
  },
  'Key Release Decided': {
    ...base,
    disk: DISK,
    generation: 1,
    outcome: 'refused',
    mode: 'enforce',
    authenticated: true,
    reasons: ['NO_REPORT'],
    policies: [],
  },
  'Posture Changed': {
    ...base,
    verdict: 'compliant',
    reasons: ['POSTURE_PROVEN'],
    policies: ['posture.reported'],
    validUntil: null,
  },
  'Isolation Changed': {
    ...base,
    profile: 'probation',
    applied: true,
    mode: 'enforce',
    interfaces: [{ id: 'eni-00000001', groups: ['sg-00000001'] }],
    reasons: ['NO_REPORT'],
  },
  'Operator Decided': {
    ...base,
    what: 'quarantine',
    by: 'arn:aws:iam::123456789012:user/ada',
    reason: 'seen scanning',
  },
  'Report Refused': { ...base, reason: 'REPORT_TIME_SKEW' },
  'Enrolment Refused': { ...base, reason: 'ENROL_WINDOW_CLOSED' },
  'Capability Report': { ...sealReport({ now: () => NOW }, createAgent(VM_ID), 1) },
};
const types = Object.keys(EVENTS) as (keyof typeof EVENTS)[];

describe('the detail of an event', () => {
  test.each(types)('%s is as its consumers know it', (type) => {
    expect(EVENTS[type].parse(EXAMPLES[type])).toEqual(EXAMPLES[type]);
  });

  test.each(types)('%s misses no member and has none of its own', (type) => {
    for (const member of Object.keys(EXAMPLES[type])) {
      const { [member]: _left, ...rest } = EXAMPLES[type];
      expect([member, EVENTS[type].safeParse(rest).success]).toEqual([member, false]);
    }
    expect(EVENTS[type].safeParse({ ...EXAMPLES[type], wrappedKey: 'AAAA' }).success).toBe(false);
  });

  test.each(types)('%s of another schema version is not understood', (type) => {
    expect(EVENTS[type].safeParse({ ...EXAMPLES[type], schemaVersion: 2 }).success).toBe(false);
  });

  test('of isolation tells no original groups', () => {
    const leaking = {
      ...EXAMPLES['Isolation Changed'],
      interfaces: [{ id: 'eni-00000001', groups: [], originals: ['sg-00000001'] }],
    };
    expect(EVENTS['Isolation Changed'].safeParse(leaking).success).toBe(false);
  });
});

describe('ids', () => {
  test.each([
    [instanceId, 'i-0a1b2c3d', 'i-0a1b2c3d4e5f60718'],
    [volumeId, 'vol-0a1b2c3d', 'vol-0a1b2c3d4e5f60718'],
    [interfaceId, 'eni-0a1b2c3d', 'eni-0a1b2c3d4e5f60718'],
    [groupId, 'sg-0a1b2c3d', 'sg-0a1b2c3d4e5f60718'],
  ])('have 8 or 17 hex digits and nothing around them', (schema, short, long) => {
    const fits = (text: string) => schema.safeParse(text).success;
    expect([fits(short), fits(long)]).toEqual([true, true]);
    for (const other of [`${short}e`, `${long}9`, `${long}\n`, ` ${long}`, long.toUpperCase(), `x${long}`]) {
      expect([other, fits(other)]).toEqual([other, false]);
    }
  });

  test('of a disk are UUIDs', () => {
    expect(diskUuid.safeParse(DISK).success).toBe(true);
    expect(diskUuid.safeParse(aVolume().id).success).toBe(false);
  });

  test.each(['eu-west-1', 'us-gov-east-1', 'ap-southeast-3', 'us-iso-east-1'])('%s is a Region', (name) => {
    expect(region.safeParse(name).success).toBe(true);
  });
});

describe('a fact', () => {
  const good = { id: 'mem.sev-snp.guest', state: 'unknown', reason: 'no /dev/cpu', evidence: 'MSR c0010131' };

  test('is present, absent or unknown, and nothing in between', () => {
    expect(factSchema.safeParse(good).success).toBe(true);
    expect(factSchema.safeParse({ ...good, state: 'maybe' }).success).toBe(false);
    expect(factSchema.safeParse({ ...good, attested: true }).success).toBe(false);
  });

  test.each(['', 'Mem.sev', 'mem..sev', '.mem', 'mem.', 'mem_sev', '__proto__', 'a'.repeat(65)])(
    'is not called %j',
    (id) => {
      expect(factSchema.safeParse({ ...good, id }).success).toBe(false);
    },
  );

  test('is one of at most 512 in what the probe says', () => {
    const machine = Object.fromEntries(
      [
        'vendor',
        'brand',
        'signature',
        'family',
        'model',
        'stepping',
        'maxLeaf',
        'maxExtendedLeaf',
        'hypervisor',
        'kernel',
      ].map((k) => [k, null]),
    );
    const said = (n: number) =>
      probeResult.safeParse({
        schema: 'casemate-probe/1',
        machine: { architecture: 'x86_64', cpuid: 'none', files: 'none', ...machine },
        facts: Array(n).fill(good),
      }).success;
    expect([said(512), said(513)]).toEqual([true, false]);
  });
});

describe('reason codes', () => {
  /** The text of every source that decides something, and of the policies. */
  function sources(folder: URL): string {
    return readdirSync(folder, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && /\.(ts|cedar)$/.test(entry.name) && entry.name !== 'reasons.ts')
      .map((entry) => readFileSync(`${entry.parentPath}/${entry.name}`, 'utf8'))
      .join('\n');
  }
  const root = new URL('../../', import.meta.url);
  const text = ['lib/domain/', 'lambdas/', 'agent/', 'bin/cli/', 'policies/']
    .map((f) => sources(new URL(f, root)))
    .join('\n');

  test.each(Object.keys(REASONS))('%s is given somewhere', (code) => {
    expect(text).toMatch(new RegExp(`['"]${code}['"]`));
  });

  test('say what they mean, in a sentence', () => {
    for (const [code, meaning] of Object.entries(REASONS)) {
      expect(code).toMatch(/^[A-Z][A-Z0-9_]+$/);
      expect(meaning).toMatch(/^[A-Z].{10,}\.$/);
    }
  });
});
