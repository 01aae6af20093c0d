import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CreateTagsCommand, StartInstancesCommand, StopInstancesCommand } from '@aws-sdk/client-ec2';
import { awsEnvironment, REGION } from '../../bin/local/emulators.ts';
import { removeAtEnd } from '../../bin/local/process.ts';
import { createNetwork, findInstance, launch, type Network } from '../../bin/local/vms.ts';
import type { VmRecord } from '../../lib/domain/convergence.ts';
import type { CloudView } from '../integration/cloud.ts';
import { ensureKernel, ensureRootImage, type Kernel, type RootImage } from './image.ts';
import { startTap, type Tap } from './tap.ts';
import { boot, type Init, type Machine, makeMachine, type Vm } from './vm.ts';

/** EBS volumes of `launch`; sparse files here. */
const VOLUME_MIB = 20 * 1024;

/** EC2's own events take seconds, too; looking for them costs the processors that the VMs need. */
export const FEED_EVERY_MS = 1000;

/** A network of VMs beside the embedded cloud on this machine, and what they are made of. */
export interface Site {
  readonly cloud: CloudView;
  readonly network: Network;
  readonly kernel: Kernel;
  readonly image: RootImage;
  readonly folder: string;
  /** What the VMs say to AWS goes through here. */
  readonly tap: Tap;
  stop(): Promise<void>;
}

/** An EC2 instance of the embedded cloud with a real VM behind it. */
export interface CloudVm {
  readonly instanceId: string;
  /** Data volumes, in the order of their attachment. */
  readonly volumeIds: readonly string[];
  readonly machine: Machine;
  /** Boots it with the agent configured; nothing of Casemate runs yet. */
  boot(options?: { readonly pipelineAway?: boolean; readonly init?: Init }): Promise<Vm>;
  /** What the pipeline knows of it. */
  record(): Promise<VmRecord | undefined>;
}

export interface LaunchPlan {
  readonly name: string;
  readonly tpm?: boolean;
  readonly processors?: number;
  /** The data volumes, by their tags. */
  readonly volumes: readonly Readonly<Record<string, string>>[];
  /** Another VM that is off: this one has a copy of its root volume. */
  readonly clonedFrom?: CloudVm;
}

/** @param cloud with EC2's own events flowing; it outlives the site */
export async function startSite(cloud: CloudView): Promise<Site> {
  const folder = mkdtempSync(join(tmpdir(), 'casemate-site-'));
  removeAtEnd(folder);
  const kernel = await ensureKernel();
  const image = await ensureRootImage(kernel);
  const network = await createNetwork(cloud.ec2);
  const tap = await startTap(cloud.emulators.aws);
  return {
    cloud,
    network,
    kernel,
    image,
    folder,
    tap,
    async stop() {
      await tap.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Launches an instance in scope, and lays out the VM behind it; it is off. */
export async function launchVm(site: Site, plan: LaunchPlan): Promise<CloudVm> {
  const { cloud } = site;
  const dataVolumes = plan.volumes.length;
  const instanceId = await launch(cloud.ec2, site.network, {
    name: plan.name,
    inScope: true,
    interfaces: 1,
    dataVolumes,
    sevSnp: false,
  });
  const instance = await findInstance(cloud.ec2, instanceId);
  const attached = (instance?.BlockDeviceMappings ?? []).map((mapping) => ({
    device: mapping.DeviceName ?? '',
    id: mapping.Ebs?.VolumeId ?? '',
  }));
  const root = attached.find(({ device }) => device === instance?.RootDeviceName);
  const volumeIds = attached.filter((volume) => volume !== root).map(({ id }) => id);
  if (!root || volumeIds.length !== dataVolumes)
    throw new Error(`${instanceId} has other volumes than it should`);
  for (const [i, tags] of plan.volumes.entries()) {
    const Tags = Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));
    if (Tags.length > 0)
      await cloud.ec2.send(new CreateTagsCommand({ Resources: [volumeIds[i] ?? ''], Tags }));
  }
  const machine = await makeMachine(join(site.folder, instanceId), site.kernel, site.image, {
    rootVolumeId: root.id,
    volumes: volumeIds.map((id) => ({ id, mib: VOLUME_MIB })),
    tpm: plan.tpm ?? false,
    ...(plan.processors ? { processors: plan.processors } : {}),
    ...(plan.clonedFrom ? { clonedFrom: plan.clonedFrom.machine } : {}),
  });
  return {
    instanceId,
    volumeIds,
    machine,
    async boot({ pipelineAway = false, init = 'script' } = {}) {
      const vm = await boot(machine, init);
      await configure(vm, site, instanceId);
      // The metadata service is on the VM's own host: it is there whatever else is not.
      const metadata = portOf(cloud.metadata.endpointOf(instanceId));
      await vm.openWayOut(metadata, metadata);
      if (!pipelineAway) await reachPipeline(vm, site);
      return vm;
    },
    record: async () => (await cloud.fleet()).get(instanceId),
  };
}

/** What user data would write, and the credentials of the instance's role. */
async function configure(vm: Vm, site: Site, instanceId: string): Promise<void> {
  const { cloud } = site;
  const config = {
    region: REGION,
    apiUrl: cloud.apiUrl,
    busName: cloud.outputs['BusName'] ?? '',
    metadataEndpoint: cloud.metadata.endpointOf(instanceId),
    // Each report, and each look at the disks, is a second or two of an emulated processor.
    reportIntervalSeconds: 20,
    evidenceIntervalSeconds: 30,
  };
  const environment = Object.entries(awsEnvironment(cloud.emulators))
    .filter(([name]) => name.startsWith('AWS_'))
    .map(([name, value]) => `${name}=${value}`);
  await vm.ok(`umask 077; mkdir -p /etc/casemate
    cat > /etc/casemate/agent.json <<'END'\n${JSON.stringify(config, null, 2)}\nEND
    cat > /etc/casemate/environment <<'END'\n${environment.join('\n')}\nEND`);
}

const portOf = (url: string) => Number(new URL(url).port);

/** Has the VM reach the pipeline, by the same address as everything else here. */
export async function reachPipeline(vm: Vm, { cloud, tap }: Site): Promise<void> {
  await vm.openWayOut(portOf(cloud.emulators.aws), tap.port);
}

/** A shell line that runs the agent as its unit does. */
export function agent(command: string): string {
  return `set -a; . /etc/casemate/environment; set +a; casemate-agent ${command}`;
}

/**
 * What the units of the package start at boot, one beside the other: the agent, again when it ends, and the one that
 * opens the disks.
 */
export async function startAgents(vm: Vm): Promise<void> {
  await vm.ok(`(${agent('disk open --all --wait')}) > /var/log/disks.log 2>&1 &
    touch /run/agents
    (while [ -e /run/agents ]; do (${agent('run')}) >> /var/log/agent.log 2>&1; sleep 1; done) &`);
}

/** Ends what `startAgents` started: a test then says itself when something happens. */
export async function stopAgents(vm: Vm): Promise<void> {
  await vm.ok(`rm -f /run/agents
    for process in /proc/[0-9]*; do
      [ $process/exe -ef /usr/lib/casemate/bin/node ] && kill \${process#/proc/}
    done 2> /dev/null; true`);
}

/** EC2's stop and start: same instance, same volumes, another boot. */
export async function stopInstance(site: Site, instanceId: string): Promise<void> {
  await site.cloud.ec2.send(new StopInstancesCommand({ InstanceIds: [instanceId] }));
}

export async function startInstance(site: Site, instanceId: string): Promise<void> {
  await site.cloud.ec2.send(new StartInstancesCommand({ InstanceIds: [instanceId] }));
}
