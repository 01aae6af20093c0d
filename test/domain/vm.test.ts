import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import {
  canonicalJson,
  coverageOf,
  GONE_AFTER_SECONDS,
  LIVE_STATES,
  nextVm,
  type ScopeDecision,
  type VmItem,
  type VmState,
} from '../../lib/domain/vm.ts';
import { AT, anObservation, aVm, aVolume, later, NOW } from '../world/items.ts';

const IN: ScopeDecision = { inScope: true, reasons: ['IN_SCOPE'], policies: ['scope.tagged'] };
const OUT: ScopeDecision = { inScope: false, reasons: ['NOT_IN_SCOPE'], policies: [] };
const seen = (overrides: Parameters<typeof anObservation>[0] = {}) =>
  ({ kind: 'seen', observation: anObservation(overrides) }) as const;
const missed = { kind: 'not-seen', bySweep: true } as const;
const unseen = { kind: 'not-seen', bySweep: false } as const;

/** The item as the table would hold it after the update. */
function stored(known: VmItem | undefined, update: ReturnType<typeof nextVm>): VmItem {
  if (update.kind === 'write') return { pk: 'vm#', version: (known?.version ?? 0) + 1, ...update.item };
  if (!known) throw new Error('nothing is stored');
  return known;
}

describe('the first sight of a VM', () => {
  test('is written with the time of it and the decision about its scope', () => {
    expect(nextVm(undefined, seen(), IN, NOW)).toEqual({
      kind: 'write',
      item: {
        observation: anObservation(),
        firstSeenAt: AT,
        managed: true,
        leavingScope: false,
        decision: { at: AT, reasons: ['IN_SCOPE'], policies: ['scope.tagged'] },
        missingSince: null,
        gone: false,
      },
    });
  });

  test('of a VM out of scope is written as not managed', () => {
    expect(nextVm(undefined, seen(), OUT, NOW)).toMatchObject({
      item: { managed: false, leavingScope: false, decision: { reasons: ['NOT_IN_SCOPE'] } },
    });
  });

  test('that shows it terminated already is gone', () => {
    expect(nextVm(undefined, seen({ state: 'terminated' }), IN, NOW)).toMatchObject({ item: { gone: true } });
  });

  test('needs a decision about scope', () => {
    expect(() => nextVm(undefined, seen(), undefined, NOW)).toThrow(TypeError);
  });
});

describe('a VM seen again', () => {
  test('is unchanged when EC2 shows the same, however much later and in whatever order of keys', () => {
    const shuffled = Object.fromEntries(Object.entries(anObservation()).reverse()) as ReturnType<
      typeof anObservation
    >;
    expect(nextVm(aVm(), { kind: 'seen', observation: shuffled }, IN, later(3600))).toEqual({
      kind: 'unchanged',
    });
  });

  test.each([
    ['state', { state: 'stopped' as const }],
    ['tags', { tags: { 'casemate:protect': 'true', Name: 'web' } }],
    ['a volume', { volumes: [aVolume(), aVolume({ id: 'vol-00000002', device: '/dev/sdg' })] }],
    ['an interface gone', { interfaces: [] }],
    ['launch time', { launchTime: later(60).toISOString() }],
  ])('is written when it differs in %s', (_, overrides) => {
    expect(nextVm(aVm(), seen(overrides), IN, NOW).kind).toBe('write');
  });

  test('keeps the time at which it was first seen', () => {
    const update = nextVm(aVm(), seen({ state: 'stopped' }), IN, later(999));
    expect(update).toMatchObject({ item: { firstSeenAt: AT } });
  });

  test('is written when policy gives another reason', () => {
    const other = { ...IN, reasons: ['BY_TENANT'] };
    expect(nextVm(aVm(), seen(), other, NOW)).toMatchObject({
      item: { decision: { reasons: ['BY_TENANT'] } },
    });
  });
});

describe('leaving scope', () => {
  test('by a tag keeps the VM managed and says that it wants to leave', () => {
    expect(nextVm(aVm(), seen({ tags: {} }), OUT, NOW)).toMatchObject({
      item: { managed: true, leavingScope: true, decision: { reasons: ['LEAVING_SCOPE'] } },
    });
  });

  test('ends when the tag comes back', () => {
    const leaving = aVm({ leavingScope: true, observation: { tags: {} } });
    expect(nextVm(leaving, seen(), IN, NOW)).toMatchObject({
      item: { managed: true, leavingScope: false, decision: { reasons: ['IN_SCOPE'] } },
    });
  });

  test('cannot be talked about for a VM that never was in scope', () => {
    const known = aVm({ managed: false, decision: { at: AT, reasons: ['NOT_IN_SCOPE'], policies: [] } });
    expect(nextVm(known, seen(), OUT, NOW)).toEqual({ kind: 'unchanged' });
  });

  test('survives being missed and seen again', () => {
    const leaving = aVm({ leavingScope: true, observation: { tags: {} } });
    const lost = stored(leaving, nextVm(leaving, missed, undefined, NOW));
    expect(lost).toMatchObject({ managed: true, leavingScope: true });
    expect(nextVm(lost, seen({ tags: {} }), OUT, later(60))).toMatchObject({
      item: { managed: true, leavingScope: true, missingSince: null },
    });
  });
});

describe('a VM that EC2 does not show', () => {
  test('is not written when nobody knew it', () => {
    expect(nextVm(undefined, missed, undefined, NOW)).toEqual({ kind: 'unchanged' });
  });

  test('is not missed by a look that an event caused', () => {
    expect(nextVm(aVm(), unseen, undefined, NOW)).toEqual({ kind: 'unchanged' });
    const missing = aVm({ missingSince: AT });
    expect(nextVm(missing, unseen, undefined, later(86_400))).toEqual({ kind: 'unchanged' });
  });

  test('is missed, not gone, by the first sweep, however old the VM is', () => {
    expect(nextVm(aVm(), missed, undefined, later(86_400))).toMatchObject({
      item: { missingSince: later(86_400).toISOString(), gone: false },
    });
  });

  test('is not gone by a second sweep a second too early', () => {
    const missing = aVm({ missingSince: AT });
    expect(nextVm(missing, missed, undefined, later(GONE_AFTER_SECONDS - 1))).toEqual({ kind: 'unchanged' });
  });

  test('is gone by a second sweep 15 minutes after the first that missed it', () => {
    const missing = aVm({ missingSince: AT });
    expect(nextVm(missing, missed, undefined, later(900))).toMatchObject({
      item: { gone: true, managed: true, observation: anObservation() },
    });
  });

  test('starts counting anew after it was seen in between', () => {
    const missing = aVm({ missingSince: AT });
    const back = stored(missing, nextVm(missing, seen(), IN, later(600)));
    expect(back.missingSince).toBeNull();
    expect(nextVm(back, missed, undefined, later(901))).toMatchObject({
      item: { gone: false, missingSince: later(901).toISOString() },
    });
  });

  test('comes back from gone when EC2 shows it running', () => {
    expect(nextVm(aVm({ gone: true, missingSince: AT }), seen(), IN, NOW)).toMatchObject({
      item: { gone: false, missingSince: null, managed: true },
    });
  });

  test('that is gone already is left as it is', () => {
    expect(nextVm(aVm({ gone: true }), missed, undefined, later(9999))).toEqual({ kind: 'unchanged' });
  });
});

describe('whatever is seen of a VM, in any order', () => {
  const sighting = fc.oneof(
    fc.record({
      kind: fc.constant('seen' as const),
      state: fc.constantFrom<VmState>('pending', 'running', 'stopped', 'shutting-down', 'terminated'),
      inScope: fc.boolean(),
    }),
    fc.record({ kind: fc.constant('not-seen' as const), bySweep: fc.boolean() }),
  );
  const history = fc.array(fc.tuple(sighting, fc.integer({ min: 0, max: 1200 })), { maxLength: 30 });

  test('once managed stays managed, and gone has its reason', () => {
    void fc.assert(
      fc.property(history, (events) => {
        let known: VmItem | undefined;
        let seconds = 0;
        /** Since when every look by a sweep, and every look at all that saw something, missed it. */
        let missedSince: number | undefined;
        for (const [event, pause] of events) {
          seconds += pause;
          const update =
            event.kind === 'seen'
              ? nextVm(known, seen({ state: event.state }), event.inScope ? IN : OUT, later(seconds))
              : nextVm(known, event, undefined, later(seconds));
          if (event.kind === 'seen') missedSince = undefined;
          else if (event.bySweep && known && !known.gone) missedSince ??= seconds;
          const before = known;
          if (!known && update.kind === 'unchanged') continue;
          known = stored(known, update);
          expect(known.managed).toBe((before?.managed ?? false) || known.managed);
          expect(known.leavingScope && !known.managed).toBe(false);
          if (known.gone && !before?.gone) {
            const terminated = event.kind === 'seen' && event.state === 'terminated';
            const longMissed = missedSince !== undefined && seconds - missedSince >= 900;
            expect(terminated || longMissed).toBe(true);
          }
        }
      }),
    );
  });

  test('looking twice writes once', () => {
    void fc.assert(
      fc.property(sighting, fc.boolean(), (event, isKnown) => {
        const known = isKnown ? aVm() : undefined;
        const look = (vm: VmItem | undefined) =>
          event.kind === 'seen'
            ? nextVm(vm, seen({ state: event.state }), event.inScope ? IN : OUT, NOW)
            : nextVm(vm, event, undefined, NOW);
        const first = look(known);
        if (first.kind === 'unchanged') return;
        expect(look(stored(known, first))).toEqual({ kind: 'unchanged' });
      }),
    );
  });
});

test('a VM that is stopped can still carry a fence; one that shuts down cannot', () => {
  expect([...LIVE_STATES].sort()).toEqual(['pending', 'running', 'stopped', 'stopping']);
});

describe('which volumes get a key', () => {
  test('a data volume does', () => {
    expect(coverageOf(aVolume())).toEqual({ covered: true });
  });
  test('a root volume does not, and says so, also when it is Multi-Attach', () => {
    const volume = aVolume({ root: true, multiAttach: true });
    expect(coverageOf(volume)).toEqual({ covered: false, reason: 'ROOT_VOLUME' });
  });
  test('a Multi-Attach volume does not, and says so', () => {
    expect(coverageOf(aVolume({ multiAttach: true }))).toEqual({
      covered: false,
      reason: 'MULTI_ATTACH_VOLUME',
    });
  });
});

test('canonical JSON is the same for the same content, and another for another', () => {
  void fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
      const reversed = Object.fromEntries(Object.entries(value).reverse());
      expect(canonicalJson(reversed)).toBe(canonicalJson(value));
      expect(JSON.parse(canonicalJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
  expect(canonicalJson([1, 2])).not.toBe(canonicalJson([2, 1]));
});
