import { describe, expect, test } from '@jest/globals';
import { admit, type GuardSettings, heldBack, isContainment } from '../../lib/domain/guard.ts';
import { anIsolation, later, NOW } from '../world/items.ts';

const SETTINGS: GuardSettings = {
  share: 0.01,
  minimum: 1,
  windowSeconds: 3600,
  protected: { instanceIds: [], autoScalingGroups: [] },
};
const quarantine = { kind: 'fence', profile: 'quarantine', by: 'policy', reasons: ['X'] } as const;

describe('what guards count as a containment', () => {
  test('is quarantine of a VM that observe mode only decided about: nobody was contained by that', () => {
    const observed = anIsolation({ mode: 'observe', profile: 'quarantine' });
    expect(isContainment(quarantine, observed)).toBe(true);
    expect(heldBack(quarantine, observed, 'GUARD_REACHED').profile).toBe('probation');
  });

  test('is no quarantine that stands already, nor one that an operator wants', () => {
    expect(isContainment(quarantine, anIsolation({ profile: 'quarantine' }))).toBe(false);
    expect(isContainment({ ...quarantine, by: 'operator' }, undefined)).toBe(false);
  });
});

describe('a VM that is contained again within the window', () => {
  test('counts once, from the last time on', () => {
    const vm = (instanceId: string) => ({ instanceId, scopes: ['vpc/vpc-1'] });
    const first = admit(vm('i-00000001'), new Map(), () => 10, SETTINGS, NOW);
    const again = admit(vm('i-00000001'), first.next, () => 10, SETTINGS, later(3000));
    expect(again.admitted).toBe(true);
    expect(again.next.get('vpc/vpc-1')?.contained).toEqual([
      { instanceId: 'i-00000001', at: later(3000).toISOString() },
    ]);
    // An hour after the first time, and ten minutes after the second.
    const other = admit(vm('i-00000002'), again.next, () => 10, SETTINGS, later(3601));
    expect(other.admitted).toBe(false);
  });
});
