import { CfnOutput, Stack, type StackProps } from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import { Casemate, type CasemateProps } from './constructs/casemate.ts';

export interface CasemateStackProps extends StackProps {
  /** Of the pipeline; a function when they need the stack as a scope, as an imported topic does. */
  readonly casemate: CasemateProps | ((scope: Construct) => CasemateProps);
}

/** Everything that runs. Deploys on AWS and on the embedded cloud alike. */
export class CasemateStack extends Stack {
  readonly casemate: Casemate;

  constructor(scope: Construct, id: string, props: CasemateStackProps) {
    const { casemate: settings, ...stackProps } = props;
    super(scope, id, { description: 'Casemate: every VM earns its disk key', ...stackProps });
    const casemate = new Casemate(
      this,
      'Casemate',
      typeof settings === 'function' ? settings(this) : settings,
    );
    this.casemate = casemate;
    const output = (name: string, value: string, description: string) =>
      new CfnOutput(this, name, { value, description });
    output('Mode', casemate.mode, 'observe plans; enforce also changes network interfaces');
    output('EnforceShare', String(casemate.enforceShare), 'Of the VMs, the share that enforce counts for');
    output(
      'Containment',
      JSON.stringify(casemate.containment),
      'What containing a VM does; casemate plan reads it',
    );
    output('TableName', casemate.state.table.tableName, 'The state table; kept when the stack is deleted');
    output('DiskKeyArn', casemate.keys.disks.keyArn, 'Wraps disk keys; kept when the stack is deleted');
    output('StateKeyArn', casemate.keys.state.keyArn, 'Encrypts the table; kept when the stack is deleted');
    output(
      'RecoveryKeyArn',
      casemate.keys.recovery.keyArn,
      'Opens recovery keys; kept when the stack is deleted',
    );
    output(
      'RecoveryPolicyArn',
      casemate.keys.recoveryPolicy.managedPolicyArn,
      'Attach it to the roles of operators who open recovery keys',
    );
    output(
      'OperatorPolicyArn',
      casemate.operators.policy.managedPolicyArn,
      'Attach it to the roles of operators: what the casemate commands call',
    );
    output('HeaderBucketName', casemate.headers.bucket.bucketName, 'Backups of LUKS headers; kept');
    output('BusName', casemate.bus.bus.eventBusName, 'The Casemate bus');
    output('ApiId', casemate.api.api.restApiId, 'REST API that agents call, stage v1');
    output('ApiOrigin', casemate.apiOrigin, 'What agents sign: scheme and host');
    output('ApiUrl', `${casemate.apiOrigin}/v1`, 'The apiUrl that agents are configured with');
    output('AgentPolicyArn', casemate.agents.policy.managedPolicyArn, 'Attach it to the roles of your VMs');
    output(
      'AgentInstanceProfileName',
      casemate.agents.instanceProfile.instanceProfileName,
      'For VMs that have no role of their own',
    );
    output('RejectedQueueUrl', casemate.rejected.queueUrl, 'Malformed input, with its reason');
    output('ObserveQueueUrl', casemate.queues['observe-vm'].queue.queueUrl, 'Queue of observe-vm');
    output('DashboardName', casemate.health.dashboard.dashboardName, 'CloudWatch dashboard');
  }
}
