import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';

/** Source of the pipeline's own events. */
export const OWN_SOURCE = 'casemate';
/** Source of what agents say. */
export const AGENT_SOURCE = 'casemate.agent';

/** The Casemate bus, and who may say what on it. */
export class EventBus extends Construct {
  readonly bus: events.EventBus;

  constructor(scope: Construct, id: string) {
    super(scope, id);
    this.bus = new events.EventBus(this, 'Bus', {
      description: 'Casemate: what changed about VMs, disk keys, postures and isolation',
    });
  }

  /** Put these detail types of the pipeline's own source. */
  grantAnnounce(role: iam.Role, detailTypes: readonly string[]): void {
    role.addToPolicy(putEvents(this.bus, OWN_SOURCE, detailTypes));
  }
}

/**
 * PutEvents limited to one source and to detail types. A call carries up to ten entries, so both keys can
 * hold several values: every value must match, and because ForAllValues holds for none, there must be one.
 * https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-conditions.html
 */
export function putEvents(
  bus: events.EventBus,
  source: string,
  detailTypes: readonly string[],
  conditions: { readonly Null?: Record<string, string> } = {},
): iam.PolicyStatement {
  return new iam.PolicyStatement({
    sid: 'PutEvents',
    actions: ['events:PutEvents'],
    resources: [bus.eventBusArn],
    conditions: {
      'ForAllValues:StringEquals': {
        'events:source': [source],
        'events:detail-type': [...detailTypes],
      },
      Null: { 'events:source': 'false', 'events:detail-type': 'false', ...conditions.Null },
    },
  });
}
