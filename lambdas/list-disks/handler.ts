import { vmRefusal } from '../../lib/domain/disk-access.ts';
import { type DiskListResponse, diskListRequest } from '../../lib/domain/disk-api.ts';
import { listDisks } from '../../lib/domain/disk-list.ts';
import type { Mode } from '../../lib/domain/isolation.ts';
import { releaseItem } from '../../lib/domain/key-release.ts';
import { operatorItem } from '../../lib/domain/operator.ts';
import { type ApiDeps, createApiHandler } from '../api-function.ts';
import { getItems } from '../aws/dynamodb.ts';
import { readDisks } from '../disks.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly mode: Mode;
  /** SPKI DER of the key pair that recovery keys are sealed to. */
  readonly recoveryPublicKey: () => Promise<Buffer>;
}

/** Tells an agent which volumes of its VM are covered, by which disk, and what it is to do about them. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, diskListRequest, async (request) => {
    const proof = await proveRequest(deps, request, { purpose: 'release' });
    if (proof.kind === 'refuse') return proof;
    const { vm } = proof;
    const refusal = vmRefusal(vm);
    if (refusal) return { kind: 'refuse', reason: refusal, retryable: false };
    const { instanceId } = request;
    const [disks, releases, operators, recoveryPublicKey] = await Promise.all([
      readDisks(
        deps.table,
        vm.observation.volumes.map((volume) => volume.id),
      ),
      getItems(deps.table, [`release#${instanceId}`], releaseItem),
      getItems(deps.table, [`operator#${instanceId}`], operatorItem),
      deps.recoveryPublicKey(),
    ]);
    const body: DiskListResponse = listDisks({
      vm,
      diskOf: disks.get,
      release: releases.get(`release#${instanceId}`),
      operator: operators.get(`operator#${instanceId}`),
      mode: deps.mode,
      recoveryPublicKey: recoveryPublicKey.toString('base64'),
    });
    return { kind: 'ok', status: 200, body };
  });
}
