import { Duration, Tags } from 'aws-cdk-lib';
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import { Construct } from 'constructs';
import { LAUNCH_HOOK } from '../domain/launch.ts';
import { GROUP_PREFIX } from '../domain/profiles.ts';

export interface FencedLaunchTemplateProps {
  readonly vpc: ec2.IVpc;
  /** Everything of the template but its groups: these are what this is about. */
  readonly template: Omit<ec2.LaunchTemplateProps, 'securityGroup'>;
  /**
   * The probation group of the VPC, where Casemate or another template made it already.
   * @default - it is made here, closed, and kept in order by Casemate from then on
   */
  readonly probationGroup?: ec2.ISecurityGroup;
  /** Whose VMs they are. */
  readonly tenant?: string;
}

/**
 * A launch template whose VMs start in the probation group, so that there is no moment at which one is open. The
 * groups of the workload stand in the profiles (`workloadGroups`): the VM gets them once it proved itself.
 */
export class FencedLaunchTemplate extends Construct {
  readonly launchTemplate: ec2.LaunchTemplate;
  readonly probationGroup: ec2.ISecurityGroup;

  constructor(scope: Construct, id: string, props: FencedLaunchTemplateProps) {
    super(scope, id);
    this.probationGroup = props.probationGroup ?? closedProbationGroup(this, props.vpc);
    this.launchTemplate = new ec2.LaunchTemplate(this, 'Template', {
      requireImdsv2: true,
      ...props.template,
      securityGroup: this.probationGroup,
    });
    Tags.of(this.launchTemplate).add('casemate:protect', 'true');
    if (props.tenant !== undefined) Tags.of(this.launchTemplate).add('casemate:tenant', props.tenant);
  }
}

/** As Casemate itself would make it, and so finds and fills it: by its name and its tags. */
function closedProbationGroup(scope: Construct, vpc: ec2.IVpc): ec2.SecurityGroup {
  const group = new ec2.SecurityGroup(scope, 'Probation', {
    vpc,
    securityGroupName: `${GROUP_PREFIX}probation`,
    description: 'Casemate: probation. Made and repaired by Casemate; changes are undone.',
    allowAllOutbound: false,
    disableInlineRules: true,
  });
  Tags.of(group).add('casemate:managed', 'true');
  Tags.of(group).add('casemate:profile', 'probation');
  return group;
}

/** Enrolment ends 15 minutes after launch: who has not proved itself by then needs an operator. */
const DEFAULT_PATIENCE = Duration.minutes(20);

/**
 * Has an Auto Scaling group hold each new VM in `Pending:Wait` until it left probation. One that does not within
 * `patience` is given up and replaced.
 */
export function holdUntilProven(
  group: autoscaling.AutoScalingGroup,
  patience: Duration = DEFAULT_PATIENCE,
): autoscaling.LifecycleHook {
  return group.addLifecycleHook('CasemateProbation', {
    lifecycleHookName: LAUNCH_HOOK,
    lifecycleTransition: autoscaling.LifecycleTransition.INSTANCE_LAUNCHING,
    heartbeatTimeout: patience,
    defaultResult: autoscaling.DefaultResult.ABANDON,
  });
}
