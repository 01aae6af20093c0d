import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import {
  type Demands,
  demandContext,
  demandedBy,
  nextDemands,
  VULNERABILITIES,
} from '../../lib/domain/requirements.ts';
import { later, NOW } from '../world/items.ts';

const confirmed = (seconds: number, ...requirements: string[]) => ({
  at: later(seconds).toISOString(),
  by: 'arn:aws:iam::123456789012:user/olga',
  reason: 'moved to another host',
  requirements,
});
const demanding = (value: string) => ({ 'casemate:require': value });

describe('what tags demand', () => {
  test.each<[string, Record<string, string>, string[]]>([
    ['nothing', {}, []],
    ['names, whatever is between them', demanding('  smt-off  iommu\tiommu '), ['iommu', 'smt-off']],
    ['names that nobody knows, too', demanding('iommu smt-of'), ['iommu', 'smt-of']],
    ['evidence', { 'casemate:evidence': 'required' }, ['evidence']],
    ['no evidence where it is optional', { 'casemate:evidence': 'optional' }, []],
    [
      'something unknown where it is neither',
      { 'casemate:evidence': 'Required' },
      ['casemate:evidence=Required'],
    ],
  ])('%s', (_, tags, expected) => {
    expect(demandedBy(tags)).toEqual(expected);
  });
});

describe('demands', () => {
  const before: Demands = { standing: ['iommu', 'smt-off'], fewerSince: null };

  test('grow at once', () => {
    expect(nextDemands(before, demanding('iommu smt-off evidence'), undefined, NOW)).toEqual({
      standing: ['evidence', 'iommu', 'smt-off'],
      fewerSince: null,
    });
  });

  test('do not shrink because a tag does, and say since when it does', () => {
    const kept = nextDemands(before, demanding('iommu'), undefined, NOW);
    expect(kept).toEqual({ standing: ['iommu', 'smt-off'], fewerSince: NOW.toISOString() });
    expect(nextDemands(kept, {}, undefined, later(60))).toEqual(kept);
  });

  test('shrink by what an operator confirmed after that', () => {
    const kept = nextDemands(before, demanding('iommu'), undefined, NOW);
    expect(nextDemands(kept, demanding('iommu'), confirmed(60, 'smt-off'), later(90))).toEqual({
      standing: ['iommu'],
      fewerSince: null,
    });
  });

  test('do not shrink by a confirmation from before, nor by one of something else', () => {
    const kept = nextDemands(before, demanding('iommu'), undefined, NOW);
    expect(nextDemands(kept, demanding('iommu'), confirmed(-1, 'smt-off'), later(90))).toEqual(kept);
    expect(nextDemands(kept, demanding('iommu'), confirmed(60, 'iommu'), later(90))).toEqual(kept);
    const all = nextDemands(kept, {}, confirmed(60, 'smt-off'), later(90));
    expect(all).toEqual({ standing: ['iommu'], fewerSince: NOW.toISOString() });
  });

  test('are as the tags say again once the tags demand what stands', () => {
    const kept = nextDemands(before, {}, undefined, NOW);
    expect(nextDemands(kept, demanding('smt-off iommu'), undefined, later(60))).toEqual(before);
  });

  test('are nothing once an operator confirmed that all may go', () => {
    const kept = nextDemands(before, {}, undefined, NOW);
    expect(nextDemands(kept, {}, confirmed(1, 'iommu', 'smt-off'), later(2))).toBeUndefined();
    expect(nextDemands(undefined, {}, undefined, NOW)).toBeUndefined();
  });

  test('are never less than what the tags say now, nor than what nobody confirmed away', () => {
    const names = fc.uniqueArray(fc.constantFrom('iommu', 'smt-off', 'evidence', 'mitigation:mds', 'typo'));
    void fc.assert(
      fc.property(names, names, fc.option(names, { nil: undefined }), (standing, asked, dropped) => {
        const tags = demanding(asked.join(' '));
        const decision = dropped && confirmed(60, ...dropped);
        const next = nextDemands({ standing, fewerSince: null }, tags, decision, later(90))?.standing ?? [];
        expect(next).toEqual(expect.arrayContaining(demandedBy(tags) as string[]));
        // Confirmed before it was dropped is not confirmed.
        expect(next).toEqual(expect.arrayContaining(standing));
      }),
    );
  });
});

describe('what policy sees of demands', () => {
  test('is known names, and one word for all that is none', () => {
    expect(demandContext(undefined, demanding('iommu IOMMU mitigation:nothing'), [])).toEqual({
      requires: expect.arrayContaining(['iommu', 'unknown']),
      requiredMitigations: [],
      mitigated: [],
    });
  });

  test('is what stands and what the tags say, though the VM was not looked at again yet', () => {
    const standing = { standing: ['smt-off'], fewerSince: NOW.toISOString() };
    expect(demandContext(standing, demanding('iommu'), []).requires.toSorted()).toEqual(['iommu', 'smt-off']);
  });

  test('is mitigations by name, with those that were read as absent and no other', () => {
    const facts = [
      { id: 'kernel.vulnerability.mds', state: 'absent' },
      { id: 'kernel.vulnerability.l1tf', state: 'present' },
      { id: 'kernel.vulnerability.tsa', state: 'unknown' },
      { id: 'kernel.vulnerabilities', state: 'absent' },
    ] as const;
    expect(demandContext(undefined, demanding('mitigation:mds mitigation:tsa'), facts)).toEqual({
      requires: ['mitigation'],
      requiredMitigations: ['mds', 'tsa'],
      mitigated: ['mds'],
    });
  });

  test('knows exactly the vulnerabilities that the probe reports by name', () => {
    const list = readFileSync(new URL('../../native/include/casemate/fact_list.h', import.meta.url), 'utf8');
    const reported = [...list.matchAll(/"kernel\.vulnerability\.([a-z0-9-]+)"/g)].map(([, name]) => name);
    expect([...VULNERABILITIES]).toEqual(reported.sort());
  });
});
