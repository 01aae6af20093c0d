import { type DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb';
import {
  CreateSubnetCommand,
  DescribeSubnetsCommand,
  type EC2Client,
  RunInstancesCommand,
} from '@aws-sdk/client-ec2';
import { marshall } from '@aws-sdk/util-dynamodb';
import { ACCOUNT } from '../bin/local/emulators.ts';
import { createNetwork } from '../bin/local/vms.ts';
import { nextOperator, type OperatorDecision } from '../lib/domain/operator.ts';

/** A subnet with room for thousands of VMs, and what launches VMs in scope there, with two groups of their own. */
export async function vmsToContain(ec2: EC2Client): Promise<{
  readonly network: Awaited<ReturnType<typeof createNetwork>>;
  readonly vpcId: string;
  launch(count: number): Promise<string[]>;
}> {
  const network = await createNetwork(ec2);
  const { Subnets } = await ec2.send(new DescribeSubnetsCommand({ SubnetIds: [network.subnetId] }));
  const vpcId = Subnets?.[0]?.VpcId;
  if (!vpcId) throw new Error(`EC2 does not say which VPC ${network.subnetId} is of`);
  const { Subnet } = await ec2.send(new CreateSubnetCommand({ VpcId: vpcId, CidrBlock: '10.20.16.0/20' }));
  return {
    network,
    vpcId,
    async launch(count) {
      const { Instances = [] } = await ec2.send(
        new RunInstancesCommand({
          MinCount: count,
          MaxCount: count,
          ImageId: network.imageId,
          InstanceType: 'm7i.large',
          NetworkInterfaces: [
            { DeviceIndex: 0, SubnetId: Subnet?.SubnetId, Groups: [network.web, network.admin] },
          ],
          TagSpecifications: [
            { ResourceType: 'instance', Tags: [{ Key: 'casemate:protect', Value: 'true' }] },
          ],
        }),
      );
      return Instances.flatMap((instance) => instance.InstanceId ?? []);
    },
  };
}

/** Writes that an operator contains these VMs, as the command does before it announces it. */
export async function decideQuarantine(
  dynamodb: DynamoDBClient,
  tableName: string | undefined,
  ids: readonly string[],
): Promise<OperatorDecision> {
  const decision = {
    at: new Date().toISOString(),
    by: `arn:aws:iam::${ACCOUNT}:user/bench`,
    reason: 'bench',
  };
  for (const instanceId of ids) {
    const set = { quarantine: decision };
    const next = nextOperator(undefined, { instanceId, what: 'quarantine', decision, set });
    const Item = marshall(
      { pk: `operator#${instanceId}`, version: 1, ...next },
      { removeUndefinedValues: true },
    );
    await dynamodb.send(new PutItemCommand({ TableName: tableName, Item }));
  }
  return decision;
}
