import { join } from 'node:path';
import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { createApi } from './api.ts';
import type { AgentConfig } from './config.ts';
import { loadOrCreateKey } from './key.ts';
import { withLock } from './lock.ts';
import { readIdentity } from './metadata.ts';
import type { AgentParts } from './run.ts';
import { openStateDir } from './state.ts';

/** Puts the agent together; reads who this VM is. */
export async function assemble(config: AgentConfig): Promise<AgentParts> {
  const stateDir = openStateDir(config.stateDir);
  const identity = await readIdentity(config.metadataEndpoint);
  const bus = new EventBridgeClient({ region: config.region, maxAttempts: 2 });
  return {
    config,
    identity,
    // At a first boot the reporting agent and the one that opens disks start together: one of them makes the key.
    key: await withLock(join(stateDir, 'agent-key.lock'), 60, async () =>
      loadOrCreateKey(stateDir, identity.instanceId),
    ),
    // One chain of credentials serves both: the instance's role.
    api: createApi(config.apiUrl, config.region, bus.config.credentials),
    bus,
  };
}
