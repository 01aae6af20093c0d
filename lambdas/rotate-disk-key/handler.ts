import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { KMSClient } from '@aws-sdk/client-kms';
import type * as z from 'zod';
import { accessDisk } from '../../lib/domain/disk-access.ts';
import { rotationRequest } from '../../lib/domain/disk-api.ts';
import { encryptionContext, type KeyGeneration } from '../../lib/domain/disk-key.ts';
import { planRotation, withGeneration } from '../../lib/domain/key-rotation.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import { putVersioned, VersionConflictError } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { generateWrappedKey } from '../aws/kms.ts';
import { readDisks } from '../disks.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly kms: KMSClient;
  readonly diskKeyId: string;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
}

/** Issues the next generation of a disk's key, which nothing opens with until its agent confirms it. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, rotationRequest, (request) => rotate(deps, request));
}

async function rotate(deps: Deps, request: z.infer<typeof rotationRequest>): Promise<Answer> {
  const { instanceId, disk: uuid, generation } = request;
  const proof = await proveRequest(deps, request, { purpose: 'rotate', disk: uuid, generation });
  if (proof.kind === 'refuse') return proof;
  const { vm, now } = proof;
  const volumes = vm.observation.volumes.map((volume) => volume.id);
  const access = accessDisk(vm, uuid, (await readDisks(deps.table, volumes)).get);
  if (access.kind === 'refuse') return { ...access, retryable: false };
  const { pk, version, ...disk } = access.disk;
  const issued = async (of: KeyGeneration, reasons: readonly string[]): Promise<Answer> => {
    await deps.announce({
      detailType: 'Disk Key Issued',
      detail: {
        schemaVersion: 1,
        instanceId,
        at: of.issuedAt,
        disk: uuid,
        volumeId: disk.volumeId,
        generation,
        reasons: [...reasons],
      },
    });
    return { kind: 'ok', status: 200, body: { disk: uuid, generation, state: 'issued' } };
  };
  const plan = planRotation(disk, generation);
  switch (plan.kind) {
    case 'refuse':
      return { ...plan, retryable: false };
    case 'issued':
      return issued(plan.generation, ['KEY_ISSUED']);
    case 'issue': {
      const policy = deps.policy.decide(
        'IssueKey',
        vm.observation,
        { type: 'Disk', id: uuid, sizeGiB: access.volume.sizeGiB },
        { managed: vm.managed },
      );
      if (!policy.allowed) {
        deps.logger.info('key not issued', { instanceId, disk: uuid, reasons: policy.reasons });
        return { kind: 'refuse', reason: 'ROTATION_NOT_PERMITTED', retryable: false };
      }
      const context = encryptionContext(uuid, generation, instanceId);
      const wrappedKey = await generateWrappedKey(deps.kms, deps.diskKeyId, context);
      const next = withGeneration(disk, { generation, wrappedKey }, now);
      try {
        // Store before announce and before the answer: a key that was not stored opens nothing, and nobody
        // hears of it.
        await putVersioned(deps.table, pk, version, next);
      } catch (error) {
        // Of two rotations at once one wins; the other asks again and hears of the winner's key.
        if (error instanceof VersionConflictError)
          return { kind: 'refuse', reason: 'WRITTEN_MEANWHILE', retryable: true };
        throw error;
      }
      deps.metrics.addMetric('DiskKeyIssued', MetricUnit.Count, 1);
      return issued(next.generations[next.generations.length - 1] as KeyGeneration, policy.reasons);
    }
  }
}
