import { Aws, Stack, Token, Validations } from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';

/** Casemate's own security groups carry this, with the value `true`. */
const MANAGED_TAG = 'casemate:managed';
const PROFILE_TAG = 'casemate:profile';
/** A group is made with it, or can never be opened to the inside. */
const INGRESS_TAG = 'casemate:ingress';

export interface IsolationPowersProps {
  readonly role: iam.Role;
  /** Some group of a profile, or the one that cuts tracked flows, lets something in. */
  readonly opensGroups: boolean;
  /** Quarantine takes Elastic IP addresses. */
  readonly movesElasticIps: boolean;
  /** VMs of Auto Scaling groups are put into standby before they are contained. */
  readonly standsBy: boolean;
}

/**
 * What the one function that changes networks may change: groups that it made itself, and which groups an
 * interface carries. It may open to the inside only groups that it made for that, and only where a profile says
 * so; the groups of probation and quarantine are none of these.
 */
export class IsolationPowers extends Construct {
  constructor(scope: Construct, id: string, props: IsolationPowersProps) {
    super(scope, id);
    const { role } = props;
    const arn = (resource: string) =>
      Stack.of(this).formatArn({ service: 'ec2', resource, resourceName: '*' });
    const groups = arn('security-group');
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'LookAtInterfacesAndGroups',
        actions: [
          'ec2:DescribeInstances',
          'ec2:DescribeNetworkInterfaces',
          'ec2:DescribeSecurityGroups',
          ...(props.movesElasticIps ? ['ec2:DescribeAddresses'] : []),
        ],
        resources: ['*'],
        conditions: { StringEquals: { 'aws:RequestedRegion': Aws.REGION } },
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'MakeItsGroups',
        actions: ['ec2:CreateSecurityGroup'],
        resources: [groups],
        conditions: {
          StringEquals: { [`aws:RequestTag/${MANAGED_TAG}`]: 'true' },
          'ForAllValues:StringEquals': { 'aws:TagKeys': [MANAGED_TAG, PROFILE_TAG, INGRESS_TAG] },
        },
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'MakeItsGroupsInAnyVpc',
        actions: ['ec2:CreateSecurityGroup'],
        resources: [arn('vpc')],
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        // Only while it creates a group: a tag put on a foreign group later would make it "its own".
        sid: 'TagItsGroupsAtCreation',
        actions: ['ec2:CreateTags'],
        resources: [groups],
        conditions: { StringEquals: { 'ec2:CreateAction': 'CreateSecurityGroup' } },
      }),
    );
    role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'RepairItsGroups',
        actions: [
          'ec2:AuthorizeSecurityGroupEgress',
          'ec2:DeleteSecurityGroup',
          'ec2:RevokeSecurityGroupEgress',
          'ec2:RevokeSecurityGroupIngress',
        ],
        resources: [groups],
        conditions: { StringEquals: { [`aws:ResourceTag/${MANAGED_TAG}`]: 'true' } },
      }),
    );
    if (props.opensGroups) {
      role.addToPolicy(
        new iam.PolicyStatement({
          sid: 'OpenGroupsMadeForThat',
          actions: ['ec2:AuthorizeSecurityGroupIngress'],
          resources: [groups],
          conditions: {
            StringEquals: {
              [`aws:ResourceTag/${MANAGED_TAG}`]: 'true',
              [`aws:ResourceTag/${INGRESS_TAG}`]: 'true',
            },
          },
        }),
      );
    }
    if (props.movesElasticIps) {
      role.addToPolicy(
        new iam.PolicyStatement({
          // Any address and interface, for the reason below.
          sid: 'TakeAndGiveElasticIps',
          actions: ['ec2:AssociateAddress', 'ec2:DisassociateAddress'],
          resources: [arn('elastic-ip'), arn('network-interface'), arn('instance')],
        }),
      );
    }
    const scalingGroups = Stack.of(this).formatArn({
      service: 'autoscaling',
      resource: 'autoScalingGroup:*:autoScalingGroupName',
      resourceName: '*',
    });
    if (props.standsBy) {
      role.addToPolicy(
        new iam.PolicyStatement({
          sid: 'PutVmsIntoStandby',
          actions: ['autoscaling:EnterStandby', 'autoscaling:ExitStandby'],
          resources: [scalingGroups],
        }),
      );
      Validations.of(role).acknowledge({
        id: `AwsSolutions-IAM5[Resource::${asFindingsName(this, scalingGroups)}]`,
        reason: 'Any Auto Scaling group may have a VM that is to be contained.',
      });
    }
    role.addToPolicy(
      new iam.PolicyStatement({
        // Any interface and any group: interfaces of VMs carry no tag of ours, and the groups that a VM came
        // with are put back on it. EC2 has no condition for "an interface of a VM in scope".
        sid: 'ChangeGroupsOfInterfaces',
        actions: ['ec2:ModifyNetworkInterfaceAttribute'],
        resources: [arn('network-interface'), groups, arn('instance')],
      }),
    );
    Validations.of(role).acknowledge(
      {
        id: 'AwsSolutions-IAM5[Resource::*]',
        reason: 'Describe calls of EC2 and the X-Ray calls have no resource to limit them to.',
      },
      ...[
        ['security-group', 'Groups are made on demand in each VPC; tags limit which ones may be changed.'],
        ['vpc', 'Groups are made in whichever VPC a VM in scope stands.'],
        ['network-interface', 'VMs come and go; their interfaces carry nothing that IAM could tell them by.'],
        ['instance', 'EC2 checks the instance of the interface too.'],
        ['elastic-ip', 'Addresses are taken from whichever VM is contained.'],
      ].map(([resource, reason]) => ({
        id: `AwsSolutions-IAM5[Resource::${asFindingsName(this, arn(`${resource}`))}]`,
        reason: `${reason}`,
      })),
    );
  }
}

/** cdk-nag names what is known only at deployment as `<AWS::Region>`. */
export function asFindingsName(scope: Construct, arn: string): string {
  const stack = Stack.of(scope);
  return [
    [stack.partition, 'AWS::Partition'],
    [stack.region, 'AWS::Region'],
    [stack.account, 'AWS::AccountId'],
  ].reduce((name, [value = '', pseudo]) => {
    return Token.isUnresolved(value) ? name.replace(value, `<${pseudo}>`) : name;
  }, arn);
}
