import { expect, test } from '@jest/globals';
import { memoryEncrypted } from '../../lib/domain/instance-type.ts';

test.each(['m6a.large', 'm7i-flex.xlarge', 'c6g.metal', 'm6i.32xlarge', 'r8g.medium'])(
  'EC2 encrypts the memory of %s',
  (type) => {
    expect(memoryEncrypted(type)).toBe(true);
  },
);

test.each([
  'm5.large',
  'm5a.large',
  't3.micro',
  'a1.large',
  'm6',
  '',
  'M6A.large',
  'x9z.large',
  'toString.large',
])('nobody says so of %s', (type) => {
  expect(memoryEncrypted(type)).toBeUndefined();
});
