import { Duration, Stack, type StackProps } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import type { Construct } from 'constructs';
import type { Casemate } from './constructs/casemate.ts';
import { AGENT_SOURCE, OWN_SOURCE } from './constructs/event-bus.ts';

export interface OperationsStackProps extends StackProps {
  readonly casemate: Casemate;
}

/** What operating needs and running does not, and what the embedded cloud cannot deploy. */
export class OperationsStack extends Stack {
  constructor(scope: Construct, id: string, props: OperationsStackProps) {
    const { casemate, ...stackProps } = props;
    super(scope, id, { description: 'Casemate: archive of its bus', ...stackProps });
    new events.Archive(this, 'Archive', {
      sourceEventBus: casemate.bus.bus,
      description: 'Casemate: everything that was said on the bus',
      eventPattern: { source: [OWN_SOURCE, AGENT_SOURCE] },
      retention: Duration.days(90),
    });
  }
}
