import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type EC2Client, type Instance, paginateDescribeInstances } from '@aws-sdk/client-ec2';
import type { AgentSettings } from '../../agent/config.ts';
import type { Outputs } from './deploy.ts';
import { awsEnvironment, type Emulators, REGION } from './emulators.ts';
import type { MetadataServer } from './metadata.ts';
import { type Service, startService } from './process.ts';
import { MACHINE_TAG, MACHINES, PROTECT_TAG } from './vms.ts';

const AGENT = fileURLToPath(new URL('../../agent/main.ts', import.meta.url));

export interface AgentSurroundings {
  readonly emulators: Emulators;
  readonly outputs: Outputs;
  readonly metadata: MetadataServer;
  readonly folder: string;
  readonly ec2: EC2Client;
}

/** Where the files of one VM's agent are: its configuration, log, state and recorded machine. */
export function agentHome(folder: string, instanceId: string): string {
  return join(folder, 'agents', instanceId);
}

/**
 * What user data does on EC2: every running VM that asks for protection gets an agent, and loses it when it
 * stops running; one that ends by itself is started again, as systemd does. A VM that names a recorded machine
 * gets a copy of it, which one may then break.
 */
export function startAgents(surroundings: AgentSurroundings): { stop(): Promise<void> } {
  const agents = new Map<string, { readonly service: Service; readonly volumes: string }>();
  const stop = new AbortController();
  const watch = async () => {
    while (!stop.signal.aborted) {
      const running = await runningInstances(surroundings.ec2).catch(() => undefined); // looked at again below
      for (const [id, instance] of running ?? []) {
        const tags = new Map(instance.Tags?.map((tag) => [tag.Key, tag.Value]));
        if (stop.signal.aborted || !tags.has(PROTECT_TAG)) continue;
        const volumes = dataVolumesOf(instance).sort().join();
        const known = agents.get(id);
        if (known?.volumes === volumes) continue;
        // EC2 shows a VM before its volumes, and volumes come later: where their stand-ins are is configuration.
        agents.delete(id);
        await known?.service.stop();
        const service = startAgent(surroundings, id, instance);
        agents.set(id, { service, volumes });
        service.died.catch(() => agents.get(id)?.service === service && agents.delete(id)); // started on the next look
      }
      for (const [id, agent] of agents) {
        if (running && !running.has(id)) {
          agents.delete(id);
          await agent.service.stop();
        }
      }
      await sleep(500, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  };
  const done = watch();
  return {
    async stop() {
      stop.abort();
      await done;
      await Promise.all([...agents.values()].map((agent) => agent.service.stop()));
    },
  };
}

async function runningInstances(ec2: EC2Client): Promise<ReadonlyMap<string, Instance>> {
  const running = new Map<string, Instance>();
  const Filters = [{ Name: 'instance-state-name', Values: ['running'] }];
  for await (const page of paginateDescribeInstances({ client: ec2 }, { Filters })) {
    for (const instance of page.Reservations?.flatMap((r) => r.Instances ?? []) ?? []) {
      running.set(instance.InstanceId ?? '', instance);
    }
  }
  return running;
}

/**
 * Whether agents format and open what stands for their volumes: with cryptsetup. A file is never mapped, for which no
 * root and no device mapper is needed; the key is proven by opening its header.
 */
export const OPENS_DISKS =
  spawnSync('cryptsetup', ['--version'], {
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
  }).status === 0;

/** Ids of the volumes beside the root. */
function dataVolumesOf(instance: Instance): string[] {
  return (instance.BlockDeviceMappings ?? [])
    .filter((mapping) => mapping.DeviceName !== instance.RootDeviceName)
    .flatMap((mapping) => mapping.Ebs?.VolumeId ?? []);
}

/** A sparse file for each data volume, kept over a restart of the VM as the volume is. */
function standIns(folder: string, instance: Instance): Record<string, string> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return Object.fromEntries(
    dataVolumesOf(instance).map((id) => {
      const path = join(folder, `${id}.img`);
      if (!existsSync(path)) {
        writeFileSync(path, '', { mode: 0o600 });
        truncateSync(path, STAND_IN_BYTES);
      }
      return [id, path];
    }),
  );
}
const STAND_IN_BYTES = 1024 * 1024 * 1024;

/**
 * The real agent, with the real probe of this host or of a recorded machine.
 *
 * @param tpm where the VM's software TPM is, if it has one; this host's, if it has one, is no VM's
 */
export function startAgent(
  surroundings: AgentSurroundings,
  id: string,
  instance: Instance,
  tpm: AgentSettings['tpm'] = false,
): Service {
  const { emulators, outputs } = surroundings;
  const home = agentHome(surroundings.folder, id);
  const machine = instance.Tags?.find((tag) => tag.Key === MACHINE_TAG)?.Value;
  mkdirSync(home, { recursive: true, mode: 0o700 });
  const root = join(home, 'machine');
  if (machine && !existsSync(root)) cpSync(join(MACHINES, machine), root, { recursive: true });
  const config: AgentSettings = {
    region: REGION,
    // By path: `{api}.execute-api` names need not resolve on this machine.
    apiUrl: `${emulators.aws}/restapis/${outputs['ApiId']}/v1/_user_request_`,
    busName: outputs['BusName'] ?? '',
    stateDir: join(home, 'state'),
    metadataEndpoint: surroundings.metadata.endpointOf(id),
    reportIntervalSeconds: 10,
    tpm,
    runtimeDir: join(home, 'run'),
    ...(OPENS_DISKS ? { devices: standIns(join(home, 'volumes'), instance) } : {}),
    ...(machine ? { machine: { root } } : {}),
  };
  const configFile = join(home, 'agent.json');
  writeFileSync(configFile, JSON.stringify(config, null, 2), { mode: 0o600 });
  return startService([process.execPath, AGENT, 'run', '--config', configFile], {
    log: join(home, 'agent.log'),
    env: awsEnvironment(emulators),
  });
}
