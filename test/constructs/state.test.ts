import { describe, expect, test } from '@jest/globals';
import { statements, synthesize } from './synthesized.ts';

const stack = synthesize();

describe('customer keys', () => {
  const keys = [
    ['disk keys', stack.diskKey],
    ['state', stack.stateKey],
    ['recovery keys', stack.recoveryKey],
  ] as const;

  test('the keys that KMS can rotate are rotated', () => {
    for (const key of [stack.diskKey, stack.stateKey]) expect(key.Properties.EnableKeyRotation).toBe(true);
  });

  test('no role opens what is sealed to the recovery key, and operators only by a policy of their own', () => {
    const { KeySpec, KeyUsage } = stack.recoveryKey.Properties;
    expect([KeySpec, KeyUsage]).toEqual(['RSA_4096', 'ENCRYPT_DECRYPT']);
    const powers = stack.ofType('AWS::IAM::Role').flatMap((role) => stack.powersOf(role));
    const uses = powers.filter((s) => s.resources.some((r) => r.includes(`"${stack.recoveryKey.id}"`)));
    expect(uses.flatMap((s) => s.actions)).toEqual(['kms:GetPublicKey']);
    const policy = stack.only('AWS::IAM::ManagedPolicy', 'OpenRecoveryKeys').Properties;
    expect(policy.Roles).toBeUndefined();
    expect(statements(policy.PolicyDocument).map((s) => [s.actions, s.resources])).toEqual([
      [['kms:Decrypt'], [expect.stringContaining(stack.recoveryKey.id)]],
    ]);
  });

  test.each(keys)('the key of %s is kept when the stack goes', (_, key) => {
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

describe('the header bucket', () => {
  const bucket = stack.only('AWS::S3::Bucket');

  test('is kept, versioned, encrypted with the state key, and closed to the public', () => {
    expect([bucket.DeletionPolicy, bucket.UpdateReplacePolicy]).toEqual(['Retain', 'Retain']);
    expect(bucket.Properties.VersioningConfiguration).toEqual({ Status: 'Enabled' });
    const [encryption] = bucket.Properties.BucketEncryption.ServerSideEncryptionConfiguration;
    expect(JSON.stringify(encryption)).toContain(stack.stateKey.id);
    expect(Object.values(bucket.Properties.PublicAccessBlockConfiguration)).toEqual([true, true, true, true]);
  });

  test('is written by one function and shredded by one, below headers/, and read by none', () => {
    const powers = stack.ofType('AWS::IAM::Role').flatMap((role) => stack.powersOf(role));
    const uses = powers.filter((s) => s.resources.some((r) => r.includes(`"${bucket.id}"`)));
    expect(uses.map((s) => s.actions)).toEqual([
      ['s3:PutObject'],
      ['s3:ListBucketVersions'],
      ['s3:DeleteObject', 's3:DeleteObjectVersion'],
    ]);
    expect(uses[0]?.resources).toEqual([expect.stringContaining('/headers/*')]);
  });
});
