import { describe, expect, test } from '@jest/globals';
import { Duration } from 'aws-cdk-lib';
import { FUNCTIONS, QUEUE_DRIVEN, type Resource, statements, synthesize } from './synthesized.ts';

const stack = synthesize();
const queues = stack.ofType('AWS::SQS::Queue');
const rules = stack.ofType('AWS::Events::Rule');
const mapping = (name: (typeof QUEUE_DRIVEN)[number], from = stack) => {
  const found = from
    .ofType('AWS::Lambda::EventSourceMapping')
    .find((m) => JSON.stringify(m.Properties.FunctionName).includes(from.fn(name).id));
  if (!found) throw new Error(`${name} has no mapping`);
  return found.Properties;
};
const queueOf = (name: (typeof QUEUE_DRIVEN)[number]): Resource => {
  const id: string = mapping(name).EventSourceArn['Fn::GetAtt'][0];
  return stack.only('AWS::SQS::Queue', id);
};
/** The functions whose queue a rule fills, by what the rule matches. */
const woken = (match: (rule: Resource) => boolean) =>
  QUEUE_DRIVEN.filter((name) =>
    rules
      .filter(match)
      .some((rule) => JSON.stringify(rule.Properties.Targets).includes(`"${queueOf(name).id}"`)),
  );

describe('queues', () => {
  test('all are encrypted with the state key and refuse plain HTTP', () => {
    expect(queues.length).toBe(2 * QUEUE_DRIVEN.length + 1);
    for (const queue of queues) {
      expect(JSON.stringify(queue.Properties.KmsMasterKeyId)).toContain(`"${stack.stateKey.id}"`);
      const refusals = stack
        .ofType('AWS::SQS::QueuePolicy')
        .filter((policy) => JSON.stringify(policy.Properties.Queues).includes(`"${queue.id}"`))
        .flatMap((policy) => statements(policy.Properties.PolicyDocument))
        .filter((s) => s.Effect === 'Deny');
      expect(refusals.map((s) => s.Condition)).toEqual([{ Bool: { 'aws:SecureTransport': 'false' } }]);
    }
  });

  test.each(QUEUE_DRIVEN)(
    'the queue of %s has a dead-letter queue that keeps messages for 14 days',
    (name) => {
      const { RedrivePolicy } = queueOf(name).Properties;
      expect(RedrivePolicy.maxReceiveCount).toBe(5);
      const dead = stack.only('AWS::SQS::Queue', RedrivePolicy.deadLetterTargetArn['Fn::GetAtt'][0]);
      expect(dead.Properties.MessageRetentionPeriod).toBe(14 * 86_400);
    },
  );

  test.each(QUEUE_DRIVEN)(
    'a message of %s stays invisible for six times as long as the function may run',
    (name) => {
      const window = mapping(name).MaximumBatchingWindowInSeconds ?? 0;
      const timeout = stack.fn(name).Properties.Timeout;
      expect(queueOf(name).Properties.VisibilityTimeout).toBe(6 * timeout + window);
    },
  );

  test.each(QUEUE_DRIVEN)('a message that %s fails on comes back alone, not its batch', (name) => {
    expect(mapping(name).FunctionResponseTypes).toEqual(['ReportBatchItemFailures']);
  });

  test('a rule may put into a queue only what it is a rule for', () => {
    const allowed = stack
      .ofType('AWS::SQS::QueuePolicy')
      .flatMap((policy) => statements(policy.Properties.PolicyDocument))
      .filter((s) => s.Effect === 'Allow');
    expect(allowed.length).toBeGreaterThan(0);
    for (const statement of allowed) {
      expect(statement.principals).toEqual(['{"Service":"events.amazonaws.com"}']);
      expect(statement.actions).toEqual(['sqs:SendMessage']);
      const source = JSON.stringify(statement.Condition['ArnEquals']?.['aws:SourceArn']);
      expect(rules.some((rule) => source.includes(`"${rule.id}"`))).toBe(true);
    }
  });

  test('every rule that fills a queue keeps what it could not deliver', () => {
    const filling = rules.filter((rule) => !rule.Properties.ScheduleExpression);
    expect(filling.length).toBeGreaterThan(0);
    for (const rule of filling) {
      for (const target of rule.Properties.Targets) {
        expect(JSON.stringify(target.DeadLetterConfig?.Arn)).toContain('DeadLetters');
      }
    }
  });
});

describe('what observe-vm gathers', () => {
  test('is five seconds of VMs, as many as one Describe call takes, in two batches at a time', () => {
    expect(mapping('observe-vm')).toMatchObject({
      BatchSize: 200,
      MaximumBatchingWindowInSeconds: 5,
      ScalingConfig: { MaximumConcurrency: 2 },
    });
  });

  test('can be set', () => {
    const other = synthesize({ observeBatchWindow: Duration.seconds(20), observeMaxConcurrency: 7 });
    expect(mapping('observe-vm', other)).toMatchObject({
      BatchSize: 200,
      MaximumBatchingWindowInSeconds: 20,
      ScalingConfig: { MaximumConcurrency: 7 },
    });
  });

  test('without a window keeps to the ten messages that SQS then allows', () => {
    const other = mapping('observe-vm', synthesize({ observeBatchWindow: Duration.seconds(0) }));
    expect(other.BatchSize).toBe(10);
    expect(other.MaximumBatchingWindowInSeconds).toBeUndefined();
  });
});

describe('rules', () => {
  const onDefaultBus = (rule: Resource) => rule.Properties.EventBusName === undefined;
  const pattern = (rule: Resource) => rule.Properties.EventPattern ?? {};
  const matches = (source: string, detailType: string) => (rule: Resource) =>
    pattern(rule).source?.includes(source) && pattern(rule)['detail-type']?.includes(detailType);

  test.each([
    ['aws.ec2', 'EC2 Instance State-change Notification'],
    ['aws.ec2', 'EBS Volume Notification'],
    ['aws.ec2', 'AWS API Call via CloudTrail'],
  ])('%s, %s on the default bus wakes observe-vm', (source, detailType) => {
    expect(woken((rule) => onDefaultBus(rule) && matches(source, detailType)(rule))).toEqual(['observe-vm']);
  });

  test('the CloudTrail calls after which a VM can differ are looked at when they succeeded', () => {
    const rule = rules.find(matches('aws.ec2', 'AWS API Call via CloudTrail'));
    expect(rule && pattern(rule).detail).toEqual({
      eventSource: ['ec2.amazonaws.com'],
      eventName: [
        'RunInstances',
        'CreateVolume',
        'AttachVolume',
        'DetachVolume',
        'AttachNetworkInterface',
        'ModifyNetworkInterfaceAttribute',
        'ModifyInstanceAttribute',
        'CreateTags',
        'DeleteTags',
        'AuthorizeSecurityGroupIngress',
        'AuthorizeSecurityGroupEgress',
        'RevokeSecurityGroupIngress',
        'RevokeSecurityGroupEgress',
        'ModifySecurityGroupRules',
      ],
      errorCode: [{ exists: false }],
    });
  });

  test.each([
    ['casemate', 'VM Changed', ['issue-disk-keys', 'ingest-report', 'apply-isolation']],
    ['casemate', 'Posture Changed', ['apply-isolation']],
    ['casemate.agent', 'Capability Report', ['ingest-report']],
    ['casemate', 'Capability Report', []],
    ['casemate.agent', 'VM Changed', []],
  ])('%s, %s on the Casemate bus wakes %j', (source, detailType, names) => {
    expect(woken((rule) => !onDefaultBus(rule) && matches(source, detailType)(rule))).toEqual(names);
  });

  test('the sweep runs every five minutes', () => {
    const [schedule] = rules.filter((rule) => rule.Properties.ScheduleExpression);
    expect(schedule?.Properties.ScheduleExpression).toBe('rate(5 minutes)');
    expect(JSON.stringify(schedule?.Properties.Targets)).toContain(`"${stack.fn('sweep').id}"`);
  });

  test('quotas are read every hour, and again when that fails', () => {
    const schedules = rules.filter((rule) => rule.Properties.ScheduleExpression === 'rate(1 hour)');
    const reading = schedules.filter((rule) =>
      JSON.stringify(rule.Properties.Targets).includes(`"${stack.fn('refresh-quotas').id}"`),
    );
    expect(reading.map((rule) => rule.Properties.Targets[0].RetryPolicy)).toEqual([
      { MaximumRetryAttempts: 2 },
    ]);
  });
});

describe('functions', () => {
  test.each(Object.keys(FUNCTIONS) as (keyof typeof FUNCTIONS)[])(
    '%s is traced, on Node 24, with a log that ends',
    (name) => {
      const { Properties } = stack.fn(name);
      expect(Properties.Runtime).toBe('nodejs24.x');
      expect(Properties.TracingConfig).toEqual({ Mode: 'Active' });
      expect(Properties.Architectures).toEqual(['arm64']);
      const log = stack.only('AWS::Logs::LogGroup', Properties.LoggingConfig.LogGroup.Ref);
      expect(log.Properties.RetentionInDays).toBe(30);
      expect(Properties.Environment.Variables).toMatchObject({
        POWERTOOLS_SERVICE_NAME: name,
        POWERTOOLS_METRICS_NAMESPACE: 'Casemate',
        POWERTOOLS_LOG_LEVEL: 'INFO',
      });
    },
  );

  test('changes no network interface unless told to', () => {
    expect(stack.fn('apply-isolation').Properties.Environment.Variables.MODE).toBe('observe');
    const enforcing = synthesize({ mode: 'enforce', probationEgress: { kind: 'https-anywhere' } });
    const { MODE, PROBATION_EGRESS } = enforcing.fn('apply-isolation').Properties.Environment.Variables;
    expect([MODE, JSON.parse(PROBATION_EGRESS)]).toEqual(['enforce', { kind: 'https-anywhere' }]);
    expect(enforcing.fn('sweep').Properties.Environment.Variables.MODE).toBe('enforce');
  });
});
