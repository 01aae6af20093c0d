import { describe, expect, test } from '@jest/globals';
import { Template } from 'aws-cdk-lib/assertions';
import * as sns from 'aws-cdk-lib/aws-sns';
import { CasemateStack } from '../../lib/casemate-stack.ts';
import { ENV, FUNCTION_NAMES, QUEUE_DRIVEN, Synthesized, synthesize, testApp } from './synthesized.ts';

const stack = synthesize();
const alarms = stack.ofType('AWS::CloudWatch::Alarm').map((alarm) => alarm.Properties);
const about = (id: string, metric: string) =>
  alarms.filter((a) => a.MetricName === metric && JSON.stringify(a.Dimensions).includes(`"${id}"`));

describe('alarms', () => {
  test.each(FUNCTION_NAMES)('%s rings when it fails and when it is throttled', (name) => {
    for (const metric of ['Errors', 'Throttles']) {
      expect(about(stack.fn(name).id, metric)).toMatchObject([{ Threshold: 1, Statistic: 'Sum' }]);
    }
  });

  test.each(QUEUE_DRIVEN)('%s rings when a message waits five minutes, and when one is given up', (name) => {
    const queue = stack.only(
      'AWS::SQS::Queue',
      `${stack.fn(name).id.replace(/Function.*/, '')}QueueDeadLetters`,
    );
    expect(about(queue.id, 'ApproximateNumberOfMessagesVisible')).toMatchObject([{ Threshold: 1 }]);
    const ages = alarms.filter((a) => a.MetricName === 'ApproximateAgeOfOldestMessage');
    expect(ages.filter((a) => a.AlarmDescription.startsWith(name))).toMatchObject([{ Threshold: 300 }]);
  });

  test('malformed input rings', () => {
    const rejected = stack.only('AWS::SQS::Queue', 'Rejected');
    expect(about(rejected.id, 'ApproximateNumberOfMessagesVisible')).toHaveLength(1);
  });

  test('a disk without a key for five minutes rings, by the metric that the sweep emits', () => {
    expect(alarms.filter((a) => a.MetricName === 'DisksWithoutKey')).toMatchObject([
      {
        Namespace: 'Casemate',
        Dimensions: [{ Name: 'service', Value: 'sweep' }],
        Threshold: 1,
        ComparisonOperator: 'GreaterThanOrEqualToThreshold',
      },
    ]);
  });

  test.each(['GuardReached', 'DriftFought', 'ReplacementsHalted'])(
    '%s of apply-isolation rings',
    (metric) => {
      expect(alarms.filter((a) => a.MetricName === metric)).toMatchObject([
        {
          Namespace: 'Casemate',
          Dimensions: [{ Name: 'service', Value: 'apply-isolation' }],
          Threshold: 1,
          Statistic: 'Sum',
        },
      ]);
    },
  );

  test('a sweep that does not run rings, although it then says nothing', () => {
    expect(about(stack.fn('sweep').id, 'Invocations')).toMatchObject([
      {
        ComparisonOperator: 'LessThanThreshold',
        Threshold: 1,
        EvaluationPeriods: 3,
        Period: 300,
        TreatMissingData: 'breaching',
      },
    ]);
  });

  test('all go to the topic, and say when it is over, too', () => {
    const noisy = new CasemateStack(testApp(), 'Casemate', {
      env: ENV,
      casemate: (scope) => ({
        alarmTopic: sns.Topic.fromTopicArn(scope, 'Topic', 'arn:aws:sns:eu-west-1:111122223333:ops'),
      }),
    });
    const all = new Synthesized(Template.fromStack(noisy)).ofType('AWS::CloudWatch::Alarm');
    expect(all.length).toBe(alarms.length);
    for (const { Properties } of all) {
      expect(Properties.AlarmActions).toEqual(['arn:aws:sns:eu-west-1:111122223333:ops']);
      expect(Properties.OKActions).toEqual(['arn:aws:sns:eu-west-1:111122223333:ops']);
    }
  });
});

describe('the dashboard', () => {
  test('shows every alarm, queue and function', () => {
    const body = JSON.stringify(stack.only('AWS::CloudWatch::Dashboard').Properties.DashboardBody);
    const shown = [
      ...stack.ofType('AWS::CloudWatch::Alarm'),
      ...stack.ofType('AWS::Lambda::Function'),
      ...stack.ofType('AWS::SQS::Queue'),
    ].filter(({ id }) => !body.includes(id));
    expect(shown.map(({ id }) => id)).toEqual([]);
  });
});
