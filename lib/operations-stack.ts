import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as events from 'aws-cdk-lib/aws-events';
import * as logs from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';
import type { Casemate } from './constructs/casemate.ts';

export interface OperationsStackProps extends StackProps {
  readonly casemate: Casemate;
}

/** What operating needs and running does not; also what the embedded cloud cannot deploy. */
export class OperationsStack extends Stack {
  constructor(scope: Construct, id: string, props: OperationsStackProps) {
    super(scope, id, { description: 'Casemate: archive, queries and one alarm over all', ...props });
    const { bus, functions, health } = props.casemate;

    new events.Archive(this, 'Archive', {
      sourceEventBus: bus.bus,
      description: 'Casemate: everything that was said on the bus',
      eventPattern: { source: ['casemate', 'casemate.agent'] },
      retention: Duration.days(90),
    });

    new cloudwatch.CompositeAlarm(this, 'Unwell', {
      alarmDescription: 'Casemate: something wants an operator; see the dashboard',
      alarmRule: cloudwatch.AlarmRule.anyOf(
        ...health.alarms.map((alarm) => cloudwatch.AlarmRule.fromAlarm(alarm, cloudwatch.AlarmState.ALARM)),
      ),
    });

    const logGroups = Object.values(functions).map(({ fn }) => fn.logGroup);
    const query = (id: string, name: string, lines: Omit<logs.QueryStringProps, 'fields'>) =>
      new logs.QueryDefinition(this, id, {
        queryDefinitionName: `Casemate/${name}`,
        logGroups,
        queryString: new logs.QueryString({
          fields: ['@timestamp', 'service', 'level', 'message', 'instanceId', 'reason'],
          ...lines,
        }),
      });
    query('OneVm', 'everything about one VM', {
      filterStatements: ['instanceId = "i-…"'],
      sort: '@timestamp asc',
      limit: 1000,
    });
    query('Faults', 'warnings and errors', {
      filterStatements: ['level in ["WARN", "ERROR", "CRITICAL"]'],
      sort: '@timestamp desc',
      limit: 200,
    });
  }
}
