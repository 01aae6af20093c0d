import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type * as z from 'zod';
import { accessDisk } from '../../lib/domain/disk-access.ts';
import { confirmationPayload, confirmationRequest } from '../../lib/domain/disk-api.ts';
import type { DiskItem } from '../../lib/domain/disk-key.ts';
import { confirmGeneration } from '../../lib/domain/key-rotation.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import { putVersioned, VersionConflictError } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { readDisks } from '../disks.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly announce: Announce;
}

/** Takes the agent's word that it opened a disk with a generation; those before it begin to retire. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, confirmationRequest, (request) => confirm(deps, request));
}

async function confirm(deps: Deps, request: z.infer<typeof confirmationRequest>): Promise<Answer> {
  const { disk: uuid, generation, payload } = request;
  const proof = await proveRequest(deps, request, { purpose: 'confirm', disk: uuid, generation, payload });
  if (proof.kind === 'refuse') return proof;
  const sealed = parsePayload(payload);
  if (!sealed) return { kind: 'refuse', reason: 'CONFIRMATION_MALFORMED', retryable: false };
  const { vm, now } = proof;
  const volumes = vm.observation.volumes.map((volume) => volume.id);
  const access = accessDisk(vm, uuid, (await readDisks(deps.table, volumes)).get);
  if (access.kind === 'refuse') return { ...access, retryable: false };
  const { pk, version, ...disk } = access.disk;
  const decision = confirmGeneration(disk, generation, sealed, now);
  if (decision.kind === 'refuse') return { ...decision, retryable: false };
  if (decision.changed) {
    try {
      // Store before announce: what retires is said again with the next confirmation, a lost state is not.
      await putVersioned(deps.table, pk, version, decision.disk);
    } catch (error) {
      // Somebody else changed the disk meanwhile: the agent confirms again, and hears what holds then.
      if (error instanceof VersionConflictError)
        return { kind: 'refuse', reason: 'WRITTEN_MEANWHILE', retryable: true };
      throw error;
    }
    deps.metrics.addMetric('DiskKeyConfirmed', MetricUnit.Count, 1);
  }
  const retiring = decision.disk.generations.filter((g) => g.state === 'retiring');
  await Promise.all(retiring.map((g) => announceRetiring(deps, decision.disk, g, now)));
  return {
    kind: 'ok',
    status: 200,
    body: { disk: uuid, generation, state: 'active', retiring: retiring.map((g) => g.generation) },
  };
}

function parsePayload(payload: string): z.infer<typeof confirmationPayload> | undefined {
  try {
    const parsed = confirmationPayload.safeParse(JSON.parse(payload));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined; // refused as malformed
  }
}

async function announceRetiring(
  deps: Deps,
  disk: Pick<DiskItem, 'disk' | 'volumeId' | 'instanceId'>,
  generation: DiskItem['generations'][number],
  now: Date,
): Promise<void> {
  await deps.announce({
    detailType: 'Disk Key Retired',
    detail: {
      schemaVersion: 1,
      instanceId: disk.instanceId,
      at: now.toISOString(),
      disk: disk.disk,
      volumeId: disk.volumeId,
      generation: generation.generation,
      state: 'retiring',
      retireAfter: generation.retireAfter ?? null,
      reasons: ['KEY_ROTATED'],
    },
  });
}
