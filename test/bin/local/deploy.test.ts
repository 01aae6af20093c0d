import { expect, test } from '@jest/globals';
import { timesToLive } from '../../../bin/local/deploy.ts';

test('the TTL of a table is found in the template, whatever the table is called', () => {
  const template = {
    Resources: {
      Nonces1A2B: {
        Type: 'AWS::DynamoDB::GlobalTable',
        Properties: { TimeToLiveSpecification: { AttributeName: 'expiresAt', Enabled: true } },
      },
      Forever: { Type: 'AWS::DynamoDB::GlobalTable', Properties: {} },
      Queue: { Type: 'AWS::SQS::Queue' },
    },
  };
  expect([...timesToLive(template)]).toEqual([['Nonces1A2B', { AttributeName: 'expiresAt', Enabled: true }]]);
});
