import { describe, expect, test } from '@jest/globals';
import { HISTORY_KEPT, nextOperator, type OperatorItem, operatorItem } from '../../lib/domain/operator.ts';
import { AT, anOperator, DECISION, VM_ID } from '../world/items.ts';

const next = (before: OperatorItem | undefined, set: Parameters<typeof nextOperator>[1]['set'], what = 'x') =>
  nextOperator(before, { instanceId: VM_ID, what, decision: DECISION, set });

describe('what an operator decides', () => {
  test('stands with who, when and why, and in the history', () => {
    const item = next(undefined, { quarantine: DECISION }, 'quarantine');
    expect(item).toEqual({
      instanceId: VM_ID,
      quarantine: DECISION,
      history: [{ ...DECISION, what: 'quarantine' }],
    });
    expect(operatorItem.safeParse({ pk: `operator#${VM_ID}`, version: 1, ...item }).success).toBe(true);
  });

  test('is taken back alone: what else was decided stays, and so does the history', () => {
    const item = next(anOperator({ hold: DECISION }), { quarantine: undefined }, 'restore');
    expect(item).not.toHaveProperty('quarantine');
    expect(item).toMatchObject({ hold: DECISION, history: [{ what: 'restore' }, { what: 'quarantine' }] });
  });

  test('is remembered twenty times, newest first', () => {
    let item: OperatorItem | undefined;
    for (let i = 0; i < HISTORY_KEPT + 5; i++) {
      const decision = { ...DECISION, reason: `${i}` };
      const change = { instanceId: VM_ID, what: 'hold', decision, set: { hold: decision } };
      item = { pk: 'operator#', version: i + 1, ...nextOperator(item, change) };
    }
    expect(item?.history.map((h) => h.reason)).toEqual(
      Array.from({ length: HISTORY_KEPT }, (_, i) => `${HISTORY_KEPT + 4 - i}`),
    );
  });

  test('is anonymous never', () => {
    for (const wrong of [
      { ...DECISION, by: '' },
      { ...DECISION, reason: '' },
      { at: AT, by: 'x' },
    ]) {
      const item = { pk: 'operator#', version: 1, instanceId: VM_ID, quarantine: wrong, history: [] };
      expect(operatorItem.safeParse(item).success).toBe(false);
    }
  });
});
