import { describe, expect, test } from '@jest/globals';
import { Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import { FencedLaunchTemplate, holdUntilProven } from '../../lib/index.ts';
import { ENV, testApp } from './synthesized.ts';

const stack = new Stack(testApp(), 'Fleet', { env: ENV });
const vpcIn = (scope: Stack) =>
  ec2.Vpc.fromVpcAttributes(scope, 'Vpc', {
    vpcId: 'vpc-0a1b2c3d4e5f60718',
    availabilityZones: ['eu-west-1a'],
    privateSubnetIds: ['subnet-00000001'],
  });
const vpc = vpcIn(stack);
const fenced = new FencedLaunchTemplate(stack, 'Web', {
  vpc,
  tenant: 'acme',
  template: {
    machineImage: ec2.MachineImage.latestAmazonLinux2023(),
    instanceType: new ec2.InstanceType('m7i.large'),
  },
});
const group = new autoscaling.AutoScalingGroup(stack, 'Group', {
  vpc,
  launchTemplate: fenced.launchTemplate,
});
holdUntilProven(group);
const template = Template.fromStack(stack);
const only = (type: string) => {
  const found = Object.values(template.findResources(type)) as { Properties: Record<string, never> }[];
  expect(found).toHaveLength(1);
  return found[0]?.Properties as Record<string, unknown>;
};

describe('a fenced launch template', () => {
  test('starts VMs in the probation group and in no other', () => {
    const data = only('AWS::EC2::LaunchTemplate')['LaunchTemplateData'] as Record<string, unknown>;
    expect(data['SecurityGroupIds']).toEqual([
      { 'Fn::GetAtt': [expect.stringMatching(/^WebProbation/), 'GroupId'] },
    ]);
    expect(data['MetadataOptions']).toMatchObject({ HttpTokens: 'required' });
    expect(JSON.stringify(data['TagSpecifications'])).toContain('"Key":"casemate:protect","Value":"true"');
    expect(JSON.stringify(data['TagSpecifications'])).toContain('"Key":"casemate:tenant","Value":"acme"');
  });

  test('makes that group closed, under the name and with the tags that Casemate finds it by', () => {
    const { GroupName, Tags, SecurityGroupEgress, SecurityGroupIngress } = only('AWS::EC2::SecurityGroup');
    expect(GroupName).toBe('casemate-probation');
    expect(Tags).toEqual(
      expect.arrayContaining([
        { Key: 'casemate:managed', Value: 'true' },
        { Key: 'casemate:profile', Value: 'probation' },
      ]),
    );
    expect(SecurityGroupIngress).toBeUndefined();
    // CDK's way to say "nothing": a rule that matches no packet, in place of EC2's "everything".
    expect(JSON.stringify(SecurityGroupEgress ?? [])).not.toMatch(/0\.0\.0\.0\/0|::\/0/);
  });

  test('takes a group that is there', () => {
    const other = new Stack(testApp(), 'Other', { env: ENV });
    new FencedLaunchTemplate(other, 'Web', {
      vpc: vpcIn(other),
      probationGroup: ec2.SecurityGroup.fromSecurityGroupId(other, 'There', 'sg-0000aaaa'),
      template: { machineImage: ec2.MachineImage.latestAmazonLinux2023() },
    });
    const made = Template.fromStack(other);
    made.resourceCountIs('AWS::EC2::SecurityGroup', 0);
    expect(JSON.stringify(made.findResources('AWS::EC2::LaunchTemplate'))).toContain('"sg-0000aaaa"');
  });
});

test('the launch hook holds a VM back, and gives up one that does not prove itself', () => {
  expect(only('AWS::AutoScaling::LifecycleHook')).toMatchObject({
    LifecycleHookName: 'casemate-probation',
    LifecycleTransition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
    DefaultResult: 'ABANDON',
    HeartbeatTimeout: 1200,
  });
});
