import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import type { AgentApi } from './agent-api.ts';
import { AGENT_SOURCE, type EventBus, putEvents } from './event-bus.ts';

export interface AgentAccessProps {
  readonly api: AgentApi;
  readonly bus: EventBus;
  /** Roles that VMs have already, by name. */
  readonly roleNames: readonly string[];
}

/**
 * What an agent may do: call the routes of the API, and say `Capability Report` on the bus. Both only with
 * credentials that EC2 gave to an instance.
 */
export class AgentAccess extends Construct {
  /** For roles that VMs have already. */
  readonly policy: iam.ManagedPolicy;
  /** For VMs that have none. */
  readonly role: iam.Role;
  readonly instanceProfile: iam.InstanceProfile;

  constructor(scope: Construct, id: string, props: AgentAccessProps) {
    super(scope, id);
    // Only somebody who may change the session's origin could have this; nobody may.
    const fromAnInstance = { Null: { 'ec2:SourceInstanceARN': 'false' } };
    this.policy = new iam.ManagedPolicy(this, 'Policy', {
      description: 'Casemate: what the agent on a VM may do',
      statements: [
        new iam.PolicyStatement({
          sid: 'CallTheApi',
          actions: ['execute-api:Invoke'],
          resources: props.api.routeArns(),
          conditions: fromAnInstance,
        }),
        putEvents(props.bus.bus, AGENT_SOURCE, ['Capability Report'], fromAnInstance),
      ],
    });
    this.role = new iam.Role(this, 'Role', {
      description: 'Casemate: a VM that runs the agent',
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [this.policy],
    });
    this.instanceProfile = new iam.InstanceProfile(this, 'InstanceProfile', { role: this.role });
    props.roleNames.forEach((name, i) => {
      this.policy.attachToRole(iam.Role.fromRoleName(this, `Existing${i}`, name));
    });
  }
}
