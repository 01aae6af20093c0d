import { Aws, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import { type EventBus, OWN_SOURCE, putEvents } from './event-bus.ts';
import type { StateTable } from './state-table.ts';

export interface OperatorAccessProps {
  readonly state: StateTable;
  readonly bus: EventBus;
}

/**
 * What the commands of operators call, and nothing else: they read the table and EC2, and write decisions of operators
 * and openings of guards. Opening recovery keys is a policy of its own.
 */
export class OperatorAccess extends Construct {
  readonly policy: iam.ManagedPolicy;

  constructor(scope: Construct, id: string, { state, bus }: OperatorAccessProps) {
    super(scope, id);
    this.policy = new iam.ManagedPolicy(this, 'Policy', {
      description: 'Casemate: what the casemate commands of operators call',
      statements: [
        new iam.PolicyStatement({
          sid: 'ReadOutputsOfTheStack',
          actions: ['cloudformation:DescribeStacks'],
          resources: [Aws.STACK_ID],
        }),
        new iam.PolicyStatement({
          sid: 'LookAtInterfacesAndGroups',
          actions: ['ec2:DescribeAddresses', 'ec2:DescribeNetworkInterfaces', 'ec2:DescribeSecurityGroups'],
          resources: ['*'],
          conditions: { StringEquals: { 'aws:RequestedRegion': Aws.REGION } },
        }),
        new iam.PolicyStatement({
          // The whole of it can be scanned as well: a listing shows every kind.
          sid: 'ReadItems',
          actions: ['dynamodb:BatchGetItem'],
          resources: [state.table.tableArn],
        }),
        putEvents(bus.bus, OWN_SOURCE, ['Operator Decided']),
      ],
    });
    state.grantScan({ addToPolicy: (statement) => this.policy.addStatements(statement) }, [
      'operator',
      'guard',
    ]);
    Validations.of(this.policy).acknowledge({
      id: 'AwsSolutions-IAM5[Resource::*]',
      reason: 'Describe calls of EC2 have no resource to limit them to.',
    });
  }
}
