import { Aws, Duration, Stack } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import type * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import type { CustomerKeys } from './customer-keys.ts';
import { type EventBus, OWN_SOURCE } from './event-bus.ts';
import type { WatchedFunction } from './health.ts';
import { PipelineFunction, type PipelineFunctionProps } from './pipeline-function.ts';
import type { StateTable } from './state-table.ts';
import { grantSend, WorkQueue } from './work-queue.ts';

export interface CredentialDenialProps {
  readonly defaults: Omit<PipelineFunctionProps, 'name' | 'description' | 'environment' | 'decidesByPolicy'>;
  /** Roles of instance profiles. */
  readonly roleNames: readonly string[];
  readonly keys: CustomerKeys;
  readonly state: StateTable;
  readonly bus: EventBus;
  readonly rejected: sqs.Queue;
}

/**
 * Denies everything to the credentials of contained VMs, in the roles that the deployment names. A function of its own:
 * who writes policies of roles neither changes networks nor touches a key.
 */
export class CredentialDenial extends Construct {
  readonly watched: WatchedFunction;
  readonly role: iam.Role;

  constructor(scope: Construct, id: string, props: CredentialDenialProps) {
    super(scope, id);
    const { keys, state, rejected } = props;
    const queue = new WorkQueue(this, 'Queue', {
      keys,
      functionTimeout: props.defaults.timeout,
      batchWindow: Duration.seconds(0),
    });
    const { fn, role } = new PipelineFunction(this, 'Denier', {
      ...props.defaults,
      name: 'deny-credentials',
      description: 'denies everything to the credentials of contained VMs',
      environment: {
        TABLE_NAME: state.table.tableName,
        REJECTED_QUEUE_URL: rejected.queueUrl,
        ROLE_NAMES: JSON.stringify(props.roleNames),
        INSTANCE_ARN_PREFIX: `arn:${Aws.PARTITION}:ec2:${Stack.of(this).region}:${Stack.of(this).account}:instance/`,
      },
      decidesByPolicy: false,
    });
    queue.drive(fn, role, { size: 10, window: Duration.seconds(0), maxConcurrency: 2 });
    new events.Rule(this, 'Contained', {
      eventBus: props.bus.bus,
      description: `Casemate: VM Changed, Isolation Changed of ${OWN_SOURCE}`,
      eventPattern: { source: [OWN_SOURCE], detailType: ['VM Changed', 'Isolation Changed'] },
      targets: [queue.targetOf()],
    });
    state.grant(role, { reads: ['vm', 'isolation', 'credential'], puts: ['credential'] });
    grantSend(role, 'RejectMalformedInput', rejected, keys);
    role.addToPolicy(
      new iam.PolicyStatement({
        // IAM has no condition for the name of an inline policy, so the roles are all that limits it. What it writes
        // there could also allow: name roles of instance profiles, and no others.
        sid: 'DenyInNamedRoles',
        actions: ['iam:DeleteRolePolicy', 'iam:GetRolePolicy', 'iam:PutRolePolicy'],
        resources: props.roleNames.map(
          (name) => `arn:${Aws.PARTITION}:iam::${Stack.of(this).account}:role/${name}`,
        ),
      }),
    );
    this.role = role;
    this.watched = { name: 'deny-credentials', fn, queue };
  }
}
