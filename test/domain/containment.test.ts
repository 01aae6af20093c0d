import { describe, expect, test } from '@jest/globals';
import { type ContainmentStep, hasStepsLeft, inOrder } from '../../lib/domain/containment.ts';
import { anInterface, NOW } from '../world/items.ts';

const at = NOW.toISOString();
const cut = (interfaceId: string, state: 'planned' | 'done' = 'done'): ContainmentStep => ({
  kind: 'cut',
  interfaceId,
  state,
  attempts: 1,
  at,
});
const standby: ContainmentStep = {
  kind: 'standby',
  autoScalingGroup: 'web',
  replaced: true,
  state: 'failed',
  at,
};
const taken = (interfaceId: string): ContainmentStep => ({
  kind: 'elastic-ip',
  interfaceId,
  allocationId: 'eipalloc-00000001',
  privateAddress: '10.0.0.7',
  state: 'done',
  at,
});
const SEEN = [anInterface({ id: 'eni-00000001' }), anInterface({ id: 'eni-00000002', publicAddress: true })];

describe('the steps of a containment', () => {
  test('are in the same order whichever was recorded first', () => {
    const steps = [cut('eni-00000001'), cut('eni-00000002'), standby];
    expect(inOrder([...steps].reverse())).toEqual(steps);
  });

  test.each<[string, 'quarantine' | 'workload', ContainmentStep[], boolean]>([
    [
      'a cut that nobody has seen closed, in quarantine',
      'quarantine',
      [cut('eni-00000001', 'planned')],
      true,
    ],
    ['what is done, in quarantine', 'quarantine', [cut('eni-00000001'), standby], false],
    ['an address on an interface that it was taken from', 'quarantine', [taken('eni-00000002')], true],
    ['no address where it was taken', 'quarantine', [taken('eni-00000001')], false],
    ['standby that was not ended, out of it', 'workload', [standby], true],
    ['a cut, out of it: nothing of it is taken back', 'workload', [cut('eni-00000001')], false],
  ])('are left where there is %s', (_, profile, steps, left) => {
    expect(hasStepsLeft(steps, profile, SEEN)).toBe(left);
  });
});
