import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { createApi } from './api.ts';
import { createBus } from './bus.ts';
import type { AgentConfig } from './config.ts';
import { instanceCredentials } from './credentials.ts';
import { lookForSources, PLACES } from './evidence.ts';
import { loadOrCreateKey } from './key.ts';
import { withLock } from './lock.ts';
import { explain, log } from './log.ts';
import { readIdentity } from './metadata.ts';
import { createNitroTpm } from './nitro-tpm.ts';
import type { AgentParts } from './run.ts';
import { openStateDir } from './state.ts';
import { openTpm, type Tpm, TpmError, whyNoTpm } from './tpm.ts';

/** Puts the agent together; reads who this VM is. */
export async function assemble(config: AgentConfig): Promise<AgentParts> {
  const stateDir = openStateDir(config.stateDir);
  const identity = await readIdentity(config.metadataEndpoint);
  const tpm = await openOwnTpm(config);
  const sources = sourcesOf(config, tpm);
  const credentials = instanceCredentials();
  return {
    config,
    tpm,
    sources,
    places: PLACES,
    nitroTpm: sources.includes('nitrotpm') ? createNitroTpm(PLACES.nitroTpmAttest, stateDir) : undefined,
    identity,
    // At a first boot the reporting agent and the one that opens disks start together: one of them makes the key.
    key: await withLock(join(stateDir, 'agent-key.lock'), 60, async () =>
      loadOrCreateKey(stateDir, identity.instanceId, tpm),
    ),
    // One chain of credentials serves both: the instance's role.
    api: createApi(config.apiUrl, config.region, credentials),
    bus: createBus(config.busName, config.region, credentials),
  };
}

/** The TPM of this VM, when there is one that does what it should. */
async function openOwnTpm(config: AgentConfig): Promise<Tpm | undefined> {
  if (!hasOwnTpm(config)) return undefined;
  const tcti = config.tpm ? config.tpm.tcti : undefined;
  if (whyNoTpm(tcti) !== undefined) return undefined; // `casemate-agent evidence` says why
  // Of this process alone: the agent that opens disks may run beside the one that reports.
  const folder = join(config.runtimeDir, `tpm-${process.pid}`);
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  try {
    return await openTpm(folder, tcti);
  } catch (error) {
    if (!(error instanceof TpmError)) throw error;
    log(`the TPM cannot be used: ${explain(error)}`);
    return undefined;
  }
}

/** Beside a recorded machine there is no hardware but a TPM that the configuration names. */
function hasOwnTpm(config: AgentConfig): boolean {
  return config.tpm !== false && (config.machine === undefined || config.tpm !== undefined);
}

function sourcesOf(config: AgentConfig, tpm: Tpm | undefined): AgentParts['sources'] {
  if (config.machine) return tpm ? ['tpm'] : [];
  return lookForSources(PLACES)
    .filter(({ name, absent }) => (name === 'tpm' ? tpm !== undefined : absent === undefined))
    .map(({ name }) => name);
}
