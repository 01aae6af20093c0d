import { fileURLToPath } from 'node:url';
import {
  AuthorizeSecurityGroupIngressCommand,
  CreateSecurityGroupCommand,
  CreateSubnetCommand,
  CreateVpcCommand,
  DescribeImagesCommand,
  DescribeInstancesCommand,
  type EC2Client,
  type Instance,
  RunInstancesCommand,
} from '@aws-sdk/client-ec2';

/** The customer's network that was there before Casemate. */
export interface Network {
  readonly imageId: string;
  readonly subnetId: string;
  /** Security groups of the workload. */
  readonly web: string;
  readonly admin: string;
}

export interface VmPlan {
  readonly name: string;
  readonly inScope: boolean;
  readonly interfaces: number;
  readonly dataVolumes: number;
  readonly sevSnp: boolean;
  /** A folder of test/fixtures/machines; undefined is this host itself. */
  readonly machine?: string;
}

export const PROTECT_TAG = 'casemate:protect';
/** Which recorded machine the agent of a VM probes here; this cloud's alone. */
export const MACHINE_TAG = 'casemate-local:machine';

/** Recorded machines that agents can probe in place of this host. */
export const MACHINES = fileURLToPath(new URL('../../test/fixtures/machines', import.meta.url));

/** The four VMs of `npm start`. */
export const PLANS: readonly VmPlan[] = [
  { name: 'this-host', inScope: true, interfaces: 1, dataVolumes: 1, sevSnp: false },
  {
    name: 'two-interfaces',
    machine: 'qemu-tcg-epyc',
    inScope: true,
    interfaces: 2,
    dataVolumes: 2,
    sevSnp: false,
  },
  {
    name: 'sev-snp',
    inScope: true,
    interfaces: 1,
    dataVolumes: 1,
    sevSnp: true,
    machine: 'epyc-milan-snp-guest',
  },
  { name: 'out-of-scope', inScope: false, interfaces: 1, dataVolumes: 1, sevSnp: false },
];

export async function createNetwork(ec2: EC2Client): Promise<Network> {
  const vpc = (await ec2.send(new CreateVpcCommand({ CidrBlock: '10.20.0.0/16' }))).Vpc?.VpcId;
  const subnet = await ec2.send(new CreateSubnetCommand({ VpcId: vpc, CidrBlock: '10.20.1.0/24' }));
  const group = async (name: string, port: number) => {
    const { GroupId = '' } = await ec2.send(
      new CreateSecurityGroupCommand({ GroupName: name, Description: `workload: ${name}`, VpcId: vpc }),
    );
    const IpPermissions = [
      { IpProtocol: 'tcp', FromPort: port, ToPort: port, IpRanges: [{ CidrIp: '10.20.0.0/16' }] },
    ];
    await ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions }));
    return GroupId;
  };
  const images = await ec2.send(new DescribeImagesCommand({ Owners: ['amazon'] }));
  return {
    imageId:
      images.Images?.find((image) => image.RootDeviceName === '/dev/sda1' && image.Platform === undefined)
        ?.ImageId ?? '',
    subnetId: subnet.Subnet?.SubnetId ?? '',
    web: await group('web', 443),
    admin: await group('admin', 22),
  };
}

/** Launches a VM as a customer would. @returns its id */
export async function launch(ec2: EC2Client, network: Network, plan: VmPlan): Promise<string> {
  const tags = [
    { Key: 'Name', Value: plan.name },
    ...(plan.inScope ? [{ Key: PROTECT_TAG, Value: 'true' }] : []),
    ...(plan.machine ? [{ Key: MACHINE_TAG, Value: plan.machine }] : []),
  ];
  const answer = await ec2.send(
    new RunInstancesCommand({
      MinCount: 1,
      MaxCount: 1,
      ImageId: network.imageId,
      InstanceType: plan.sevSnp ? 'm6a.large' : 'm7i.large',
      ...(plan.sevSnp ? { CpuOptions: { AmdSevSnp: 'enabled' } } : {}),
      NetworkInterfaces: Array.from({ length: plan.interfaces }, (_, i) => ({
        DeviceIndex: i,
        SubnetId: network.subnetId,
        Groups: i === 0 ? [network.web, network.admin] : [network.admin],
      })),
      BlockDeviceMappings: [
        { DeviceName: '/dev/sda1', Ebs: { VolumeSize: 8, Encrypted: true, DeleteOnTermination: true } },
        ...Array.from({ length: plan.dataVolumes }, (_, i) => ({
          DeviceName: `/dev/sd${String.fromCharCode('f'.charCodeAt(0) + i)}`,
          Ebs: { VolumeSize: 20, Encrypted: true, DeleteOnTermination: false },
        })),
      ],
      TagSpecifications: [{ ResourceType: 'instance', Tags: tags }],
    }),
  );
  return answer.Instances?.[0]?.InstanceId ?? '';
}

export async function findInstance(ec2: EC2Client, id: string): Promise<Instance | undefined> {
  const Filters = [{ Name: 'instance-id', Values: [id] }];
  const answer = await ec2.send(new DescribeInstancesCommand({ Filters }));
  const instance = answer.Reservations?.[0]?.Instances?.[0];
  return instance?.State?.Name === 'terminated' ? undefined : instance;
}
