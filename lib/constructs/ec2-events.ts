import * as events from 'aws-cdk-lib/aws-events';
import { Construct } from 'constructs';
import type { WorkQueue } from './work-queue.ts';

/**
 * The EC2 calls after which a VM can differ from what was last seen of it. CloudTrail tells of them only
 * where a trail logs management events.
 */
const EC2_CALLS = [
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
] as const;

export interface Ec2EventsProps {
  readonly target: WorkQueue;
}

/** Rules on the default bus: everything that hints at a VM wanting to be looked at. */
export class Ec2Events extends Construct {
  constructor(scope: Construct, id: string, props: Ec2EventsProps) {
    super(scope, id);
    const rule = (name: string, description: string, eventPattern: events.EventPattern) =>
      new events.Rule(this, name, {
        description: `Casemate: ${description}`,
        eventPattern,
        targets: [props.target.targetOf()],
      });
    rule('StateChanges', 'a VM changed its state', {
      source: ['aws.ec2'],
      detailType: ['EC2 Instance State-change Notification'],
    });
    rule('Volumes', 'a volume was made, deleted, or could not be attached', {
      source: ['aws.ec2'],
      detailType: ['EBS Volume Notification'],
    });
    rule('Calls', 'somebody changed a VM, a volume, an interface, a tag or a security group', {
      source: ['aws.ec2'],
      detailType: ['AWS API Call via CloudTrail'],
      detail: {
        eventSource: ['ec2.amazonaws.com'],
        eventName: [...EC2_CALLS],
        // A call that failed changed nothing.
        errorCode: events.Match.doesNotExist(),
      },
    });
  }
}
