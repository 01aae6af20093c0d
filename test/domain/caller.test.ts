import { describe, expect, test } from '@jest/globals';
import { callerRefusal } from '../../lib/domain/caller.ts';

const ID = 'i-0a1b2c3d4e5f60718';
const session = (rest: string) => ({ userArn: `arn:aws:sts::123456789012:assumed-role/${rest}` });

describe('behind IAM the caller', () => {
  test.each([
    session(`web/${ID}`),
    { userArn: `arn:aws-cn:sts::123456789012:assumed-role/web/${ID}` },
    { userArn: `arn:aws-us-gov:sts::123456789012:assumed-role/web/${ID}` },
    session(`aws:ec2-instance/${ID}`),
  ])('is the instance after which EC2 named its session: %j', (identity) => {
    expect(callerRefusal('iam', identity, ID)).toBeUndefined();
  });

  test.each([{}, { userArn: null }, { userArn: '' }, { accountId: '123456789012' }])(
    'is nobody without an IAM identity: %j',
    (identity) => {
      expect(callerRefusal('iam', identity, ID)).toBe('CALLER_UNAUTHENTICATED');
    },
  );

  test.each([
    ['another instance', session('web/i-00000002')],
    ['a person', session('admin/jane')],
    ['a session that only starts like it', session(`web/${ID}0`)],
    ['a session that only ends like it', session(`web/x${ID}`)],
    ['a role with the name of the instance', session(`${ID}/jane`)],
    ['a path behind it', session(`web/${ID}/more`)],
    ['a second line', session(`web/${ID}\n`)],
    ['a user', { userArn: `arn:aws:iam::123456789012:user/${ID}` }],
    ['a federated user', { userArn: `arn:aws:sts::123456789012:federated-user/${ID}` }],
    ['an account', { userArn: 'arn:aws:iam::123456789012:root' }],
    ['no account', { userArn: `arn:aws:sts::assumed-role/web/${ID}` }],
  ])('is foreign when it is %s', (_, identity) => {
    expect(callerRefusal('iam', identity, ID)).toBe('CALLER_FOREIGN');
  });
});

test('the embedded cloud authenticates nobody: identity document and key carry everything', () => {
  expect(callerRefusal('embedded', {}, ID)).toBeUndefined();
});
