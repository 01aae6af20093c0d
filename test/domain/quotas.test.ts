import { describe, expect, test } from '@jest/globals';
import {
  DEFAULT_LIMITS,
  limitsInForce,
  QUOTA_PK,
  QUOTA_SECONDS,
  quotaItemOf,
} from '../../lib/domain/quotas.ts';
import { later, NOW } from '../world/items.ts';

const kept = (groupsPerInterface: number, rulesPerGroup: number) => ({
  pk: QUOTA_PK,
  version: 1,
  ...quotaItemOf({ groupsPerInterface, rulesPerGroup }, NOW),
});

describe('groups are composed under', () => {
  test.each<[string, object, unknown, object]>([
    ['what was read, fewer', {}, kept(2, 30), { groupsPerInterface: 2, rulesPerGroup: 30 }],
    ['what was read, more', {}, kept(8, 100), { groupsPerInterface: 8, rulesPerGroup: 100 }],
    ['the defaults of AWS where nothing was read', {}, undefined, DEFAULT_LIMITS],
    [
      'what the file states, where the account has more',
      { groupsPerInterface: 4, rulesPerGroup: 20 },
      kept(8, 100),
      { groupsPerInterface: 4, rulesPerGroup: 20 },
    ],
    [
      'what the account has, where the file states more',
      { groupsPerInterface: 10, rulesPerGroup: 100 },
      kept(8, 70),
      { groupsPerInterface: 8, rulesPerGroup: 70 },
    ],
    [
      'the defaults, where nothing was read and the file states more',
      { groupsPerInterface: 10, rulesPerGroup: 100 },
      undefined,
      DEFAULT_LIMITS,
    ],
    [
      'less than the defaults, where nothing was read and the file states less',
      { rulesPerGroup: 10 },
      undefined,
      { groupsPerInterface: 5, rulesPerGroup: 10 },
    ],
    // AWS: one quota multiplied by the other cannot exceed 1000.
    ['1000 rules on an interface at most', {}, kept(16, 100), { groupsPerInterface: 16, rulesPerGroup: 62 }],
    [
      '1000 rules at most on what is used of an interface',
      { groupsPerInterface: 5 },
      kept(16, 300),
      { groupsPerInterface: 5, rulesPerGroup: 200 },
    ],
    ['16 groups at most', {}, kept(500, 1), { groupsPerInterface: 16, rulesPerGroup: 1 }],
    ['one group of all rules', {}, kept(1, 5000), { groupsPerInterface: 1, rulesPerGroup: 1000 }],
  ])('%s', (_, stated, item, limits) => {
    expect(limitsInForce(stated, item, NOW)).toEqual(limits);
  });

  test('what was read, for a day, and the defaults from then on', () => {
    const item = kept(8, 100);
    expect(limitsInForce({}, item, later(QUOTA_SECONDS - 1)).groupsPerInterface).toBe(8);
    expect(limitsInForce({}, item, later(QUOTA_SECONDS))).toEqual(DEFAULT_LIMITS);
  });

  test.each<[string, object]>([
    ['no groups', { groupsPerInterface: 0 }],
    ['fewer than none', { rulesPerGroup: -60 }],
    ['half a group', { groupsPerInterface: 7.5 }],
    ['a text', { rulesPerGroup: '1000' }],
    ['no number', { groupsPerInterface: Number.NaN }],
    ['no end', { rulesPerGroup: Number.POSITIVE_INFINITY }],
    ['one of the two alone', { rulesPerGroup: undefined }],
    ['no expiry', { expiresAt: undefined }],
    ['something that nobody knows', { unlimited: true }],
  ])('the defaults where the item says %s', (_, wrong) => {
    expect(limitsInForce({}, { ...kept(8, 100), ...wrong }, NOW)).toEqual(DEFAULT_LIMITS);
  });
});
