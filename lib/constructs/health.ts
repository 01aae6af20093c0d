import { Duration } from 'aws-cdk-lib';
import type * as apigateway from 'aws-cdk-lib/aws-apigateway';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import type * as lambda from 'aws-cdk-lib/aws-lambda';
import type * as sns from 'aws-cdk-lib/aws-sns';
import type * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { METRICS_NAMESPACE } from './pipeline-function.ts';

const PERIOD = Duration.minutes(5);

/** A message that waits this long means that its function does not keep up, or fails. */
const QUEUE_AGE_SECONDS = 5 * 60;

export interface WatchedFunction {
  readonly name: string;
  readonly fn: lambda.IFunction;
  readonly queue?: { readonly queue: sqs.IQueue; readonly deadLetters: sqs.IQueue };
}

export interface HealthProps {
  readonly functions: readonly WatchedFunction[];
  readonly rejected: sqs.IQueue;
  readonly api: apigateway.RestApi;
  readonly topic?: sns.ITopic;
}

/** Alarms for what an operator has to act on, and one dashboard to look at when one rings. */
export class Health extends Construct {
  readonly alarms: readonly cloudwatch.Alarm[];
  readonly dashboard: cloudwatch.Dashboard;
  private readonly topic: sns.ITopic | undefined;

  constructor(scope: Construct, id: string, props: HealthProps) {
    super(scope, id);
    this.topic = props.topic;
    const queues = props.functions.flatMap((f) => (f.queue ? [{ name: f.name, ...f.queue }] : []));
    const missing = disksWithoutKey();
    this.alarms = [
      ...props.functions.flatMap(({ name, fn }) => [
        this.alarm(`${name}-errors`, `${name} failed: see its log`, sum(fn.metricErrors({ period: PERIOD }))),
        this.alarm(
          `${name}-throttles`,
          `${name} was throttled: the account's Lambda concurrency is used up`,
          sum(fn.metricThrottles({ period: PERIOD })),
        ),
      ]),
      ...queues.flatMap(({ name, queue, deadLetters }) => [
        this.alarm(
          `${name}-age`,
          `${name} has not taken a message for ${QUEUE_AGE_SECONDS} s`,
          queue.metricApproximateAgeOfOldestMessage({ period: PERIOD, statistic: 'Maximum' }),
          { threshold: QUEUE_AGE_SECONDS },
        ),
        this.alarm(
          `${name}-dead-letters`,
          `${name} could not process a message: fix the cause, then redrive its dead-letter queue`,
          deadLetters.metricApproximateNumberOfMessagesVisible({ period: PERIOD, statistic: 'Maximum' }),
        ),
      ]),
      this.alarm(
        'rejected',
        'Malformed input was rejected: the reason is an attribute of the message',
        props.rejected.metricApproximateNumberOfMessagesVisible({ period: PERIOD, statistic: 'Maximum' }),
      ),
      this.alarm(
        'guard-reached',
        'Policy wanted to contain more VMs of a VPC, an Auto Scaling group or a tenant than it may: casemate guard list',
        isolationMetric('GuardReached'),
      ),
      this.alarm(
        'drift-fought',
        'Somebody keeps changing the groups of a fenced interface: it is left for ten minutes; find out who (CloudTrail)',
        isolationMetric('DriftFought'),
      ),
      this.alarm(
        'replacements-halted',
        'Too many VMs of an Auto Scaling group were contained and replaced within an hour: look at its image',
        isolationMetric('ReplacementsHalted'),
      ),
      ...(props.functions.some(({ name }) => name === 'deny-credentials')
        ? [
            this.alarm(
              'credentials-not-denied',
              'Credentials of contained VMs work on: see the log of deny-credentials',
              metricOf('CredentialsNotDenied', 'deny-credentials'),
            ),
          ]
        : []),
      this.alarm('disks-without-key', 'A disk in scope has had no key for more than 5 minutes', missing),
      this.alarm(
        'sweep-stopped',
        'The sweep has not run for 15 minutes: a lost event is no longer found',
        sum(functionNamed(props.functions, 'sweep').metricInvocations({ period: PERIOD })),
        {
          comparisonOperator: cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
          evaluationPeriods: 3,
          treatMissingData: cloudwatch.TreatMissingData.BREACHING,
        },
      ),
      this.alarm(
        'api-faults',
        'The API answered 5xx: agents cannot enrol',
        sum(props.api.metricServerError({ period: PERIOD })),
      ),
    ];
    this.dashboard = new cloudwatch.Dashboard(this, 'Dashboard', {
      defaultInterval: Duration.hours(3),
      widgets: [
        [
          new cloudwatch.AlarmStatusWidget({
            title: 'Alarms',
            alarms: [...this.alarms],
            width: 24,
            height: 4,
          }),
        ],
        [
          graph('Disks without a key for more than 5 minutes', [missing]),
          graph(
            'Oldest message, seconds',
            queues.map((q) =>
              q.queue.metricApproximateAgeOfOldestMessage({ label: q.name, statistic: 'Maximum' }),
            ),
          ),
          graph('Not processed', [
            ...queues.map((q) =>
              q.deadLetters.metricApproximateNumberOfMessagesVisible({
                label: `${q.name}, dead letters`,
                statistic: 'Maximum',
              }),
            ),
            props.rejected.metricApproximateNumberOfMessagesVisible({
              label: 'rejected',
              statistic: 'Maximum',
            }),
          ]),
        ],
        [
          graph(
            'Invocations',
            props.functions.map(({ name, fn }) => fn.metricInvocations({ label: name })),
          ),
          graph(
            'Errors',
            props.functions.map(({ name, fn }) => fn.metricErrors({ label: name })),
          ),
          graph(
            'Duration, p99',
            props.functions.map(({ name, fn }) => fn.metricDuration({ label: name, statistic: 'p99' })),
          ),
        ],
        [
          graph('API', [
            props.api.metricCount({ label: 'calls' }),
            props.api.metricClientError({ label: '4xx' }),
            props.api.metricServerError({ label: '5xx' }),
          ]),
          graph('API latency, p99', [props.api.metricLatency({ label: 'ms', statistic: 'p99' })]),
          graph(
            'Throttles',
            props.functions.map(({ name, fn }) => fn.metricThrottles({ label: name })),
          ),
        ],
      ],
    });
  }

  /** Rings at the first period at or above the threshold (1 unless told); says nothing while there is no data. */
  private alarm(
    id: string,
    description: string,
    metric: cloudwatch.IMetric,
    overrides: Partial<cloudwatch.AlarmProps> = {},
  ): cloudwatch.Alarm {
    const alarm = new cloudwatch.Alarm(this, id, {
      alarmDescription: description,
      metric,
      threshold: 1,
      evaluationPeriods: 1,
      comparisonOperator: cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
      treatMissingData: cloudwatch.TreatMissingData.NOT_BREACHING,
      ...overrides,
    });
    if (this.topic) {
      const action = new SnsAction(this.topic);
      alarm.addAlarmAction(action);
      alarm.addOkAction(action);
    }
    return alarm;
  }
}

/** What the sweep counts: disks in scope that have had no key for more than five minutes. */
function disksWithoutKey(): cloudwatch.Metric {
  return new cloudwatch.Metric({
    namespace: METRICS_NAMESPACE,
    metricName: 'DisksWithoutKey',
    dimensionsMap: { service: 'sweep' },
    statistic: 'Maximum',
    period: PERIOD,
  });
}

/** What apply-isolation counts. */
function isolationMetric(metricName: string): cloudwatch.Metric {
  return metricOf(metricName, 'apply-isolation');
}

function metricOf(metricName: string, service: string): cloudwatch.Metric {
  return new cloudwatch.Metric({
    namespace: METRICS_NAMESPACE,
    metricName,
    dimensionsMap: { service },
    statistic: 'Sum',
    period: PERIOD,
  });
}

function functionNamed(functions: readonly WatchedFunction[], name: string): lambda.IFunction {
  const found = functions.find((f) => f.name === name);
  if (!found) throw new Error(`there is no function ${name}`);
  return found.fn;
}

function sum(metric: cloudwatch.Metric): cloudwatch.Metric {
  return metric.with({ statistic: 'Sum' });
}

function graph(title: string, left: cloudwatch.IMetric[]): cloudwatch.GraphWidget {
  return new cloudwatch.GraphWidget({ title, left, width: 8, height: 6 });
}
