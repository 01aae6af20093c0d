import { describe, expect, test } from '@jest/globals';
import { statements, synthesize } from './synthesized.ts';

const stack = synthesize();

describe('customer keys', () => {
  const keys = [
    ['disk keys', stack.diskKey],
    ['state', stack.stateKey],
  ] as const;

  test.each(keys)('the key of %s is rotated, and kept when the stack goes', (_, key) => {
    expect(key.Properties.EnableKeyRotation).toBe(true);
    expect(key.DeletionPolicy).toBe('Retain');
    expect(key.UpdateReplacePolicy).toBe('Retain');
  });

  test.each(keys)('the key of %s cannot be scheduled for deletion by anybody', (_, key) => {
    const refusals = statements(key.Properties.KeyPolicy).filter((s) => s.Effect === 'Deny');
    const deletion = refusals.filter((s) => s.actions.includes('kms:ScheduleKeyDeletion'));
    expect(deletion.map((s) => [s.principals, s.Condition])).toEqual([[['{"AWS":"*"}'], {}]]);
  });

  test.each(keys)('the key of %s is administered by the account alone', (_, key) => {
    const wide = statements(key.Properties.KeyPolicy).filter(
      (s) => s.Effect === 'Allow' && s.actions.includes('kms:*'),
    );
    expect(wide.map((s) => s.principals)).toEqual([[expect.stringContaining(':iam::111122223333:root')]]);
  });

  test('the disk key serves nobody who does not name the VM, administrators included', () => {
    const refusal = statements(stack.diskKey.Properties.KeyPolicy).find(
      (s) => s.Effect === 'Deny' && s.actions.includes('kms:Decrypt'),
    );
    expect(refusal?.principals).toEqual(['{"AWS":"*"}']);
    expect(refusal?.Condition).toEqual({ Null: { 'kms:EncryptionContext:casemate:vm': 'true' } });
    expect(refusal?.actions).toEqual([
      'kms:Decrypt',
      'kms:Encrypt',
      'kms:GenerateDataKey',
      'kms:GenerateDataKeyWithoutPlaintext',
      'kms:ReEncryptFrom',
      'kms:ReEncryptTo',
    ]);
  });

  test('no service is let into the disk key', () => {
    const services = statements(stack.diskKey.Properties.KeyPolicy).filter(
      (s) => s.Effect === 'Allow' && s.principals.some((p) => p.includes('Service')),
    );
    expect(services).toEqual([]);
  });

  test('into the state key only EventBridge is let, and only for this account', () => {
    const services = statements(stack.stateKey.Properties.KeyPolicy).filter(
      (s) => s.Effect === 'Allow' && s.principals.some((p) => p.includes('Service')),
    );
    expect(services.map((s) => [s.principals, s.actions, s.Condition])).toEqual([
      [
        ['{"Service":"events.amazonaws.com"}'],
        ['kms:Decrypt', 'kms:GenerateDataKey'],
        { StringEquals: { 'aws:SourceAccount': '111122223333' } },
      ],
    ]);
  });
});

describe('the state table', () => {
  const { table } = stack;
  const [replica] = table.Properties.Replicas;

  test('is kept when the stack goes, and cannot be deleted before', () => {
    expect(table.DeletionPolicy).toBe('Retain');
    expect(table.UpdateReplacePolicy).toBe('Retain');
    expect(replica.DeletionProtectionEnabled).toBe(true);
  });

  test('can be restored to any point in time', () => {
    expect(replica.PointInTimeRecoverySpecification).toEqual({ PointInTimeRecoveryEnabled: true });
  });

  test('is encrypted with the state key, not with that of the disks', () => {
    expect(table.Properties.SSESpecification).toEqual({ SSEEnabled: true, SSEType: 'KMS' });
    expect(JSON.stringify(replica.SSESpecification)).toContain(`"${stack.stateKey.id}"`);
  });

  test('costs nothing while nothing happens', () => {
    expect(table.Properties.BillingMode).toBe('PAY_PER_REQUEST');
  });

  test('has the key and the expiry that the functions write', () => {
    expect(table.Properties.KeySchema).toEqual([{ AttributeName: 'pk', KeyType: 'HASH' }]);
    expect(table.Properties.TimeToLiveSpecification).toEqual({ AttributeName: 'expiresAt', Enabled: true });
  });
});
