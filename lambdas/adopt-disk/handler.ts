import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { EC2Client } from '@aws-sdk/client-ec2';
import type { KMSClient } from '@aws-sdk/client-kms';
import type * as z from 'zod';
import {
  type AdoptionContext,
  type AdoptionPlan,
  adoptedDisk,
  generationsToRewrap,
  planAdoption,
  sameTenant,
} from '../../lib/domain/disk-adoption.ts';
import { adoptionRequest } from '../../lib/domain/disk-api.ts';
import { type DiskItem, diskItem, encryptionContext } from '../../lib/domain/disk-key.ts';
import { operatorItem } from '../../lib/domain/operator.ts';
import { type VmItem, vmItem } from '../../lib/domain/vm.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import { type Answer, type ApiDeps, createApiHandler } from '../api-function.ts';
import { createAll, getItems, putVersioned, VersionConflictError } from '../aws/dynamodb.ts';
import { volumeOfSnapshot } from '../aws/ec2.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { rewrapKey, UnwrapRefusedError } from '../aws/kms.ts';
import { readDisks } from '../disks.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly kms: KMSClient;
  readonly diskKeyId: string;
  readonly ec2: EC2Client;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
}

type Request = z.infer<typeof adoptionRequest>;
type Adoption = Extract<AdoptionPlan, { kind: 'move' | 'copy' }>;

/** Wraps the keys of a disk anew for the VM that it came to, if policy says so. Never sees a key. */
export function createHandler(deps: Deps) {
  return createApiHandler(deps, adoptionRequest, (request) => adopt(deps, request));
}

async function adopt(deps: Deps, request: Request): Promise<Answer> {
  const proof = await proveRequest(deps, request, { purpose: 'recover', disk: request.disk });
  if (proof.kind === 'refuse') return proof;
  const { vm, now } = proof;
  const volumes = vm.observation.volumes.map((volume) => volume.id);
  const disks = await readDisks(deps.table, volumes);
  const plan = planAdoption({ vm, volumeId: request.volumeId, disk: request.disk, diskOf: disks.get });
  if (plan.kind === 'refuse') return { ...plan, retryable: false };
  if (plan.kind === 'adopted') return answerOf(plan.disk);

  const { source, lineage } = await sourceOf(deps, request.disk, plan);
  if (!source) return { kind: 'refuse', reason: 'ADOPTION_DISK_UNKNOWN', retryable: false };
  const policy = await ask(deps, vm, plan, source, lineage);
  if (!policy.allowed) {
    const { instanceId, disk, volumeId } = request;
    deps.logger.info('adoption refused', { instanceId, disk, volumeId, reasons: policy.reasons });
    return { kind: 'refuse', reason: 'ADOPTION_NOT_PERMITTED', retryable: false };
  }
  const decision = {
    at: now.toISOString(),
    reasons: [...policy.reasons],
    policies: [...policy.policies],
  };
  const rewrapped = await rewrap(deps, source, vm.observation.instanceId);
  if (!rewrapped) return { kind: 'refuse', reason: 'KEY_NOT_UNWRAPPED', retryable: false };
  const to = {
    instanceId: vm.observation.instanceId,
    volumeId: plan.volume.id,
    copy: plan.kind === 'copy' || source.copy === true,
  };
  const item = adoptedDisk(source, to, rewrapped, decision);
  try {
    // Store before announce; the keys as they were wrapped before stay in KMS's sight until this write.
    if (plan.kind === 'move') await putVersioned(deps.table, source.pk, source.version, item);
    else {
      const pointer = { pk: `disk#${to.volumeId}`, disk: source.disk, copy: true };
      await createAll(deps.table, [{ ...item, version: 1 }, pointer]);
    }
  } catch (error) {
    if (error instanceof VersionConflictError)
      return { kind: 'refuse', reason: 'WRITTEN_MEANWHILE', retryable: true };
    throw error;
  }
  deps.metrics.addMetric('DiskAdopted', MetricUnit.Count, 1);
  await Promise.all(item.generations.map((g) => announceIssued(deps, item, g.generation)));
  return answerOf(item);
}

/**
 * Which item's keys the volume opens with. EC2 says which volume a snapshot is of; a snapshot that is gone, or was
 * copied from elsewhere, leaves only the UUID, and policy knows that.
 */
async function sourceOf(
  deps: Deps,
  uuid: string,
  plan: Adoption,
): Promise<{ source: DiskItem | undefined; lineage: AdoptionContext['lineage'] }> {
  if (plan.kind === 'move') return { source: plan.disk, lineage: 'asserted' };
  const origin = await volumeOfSnapshot(deps.ec2, plan.volume.snapshotId);
  const original = origin === undefined ? undefined : (await readDisks(deps.table, [origin])).get(origin);
  if (original?.disk === uuid) return { source: original, lineage: 'asserted' };
  const pk = `disk#${uuid}`;
  return { source: (await getItems(deps.table, [pk], diskItem)).get(pk), lineage: 'unknown' };
}

async function ask(
  deps: Deps,
  vm: VmItem,
  plan: Adoption,
  source: DiskItem,
  lineage: AdoptionContext['lineage'],
) {
  const { instanceId } = vm.observation;
  const [operators, vms] = await Promise.all([
    getItems(deps.table, [`operator#${instanceId}`], operatorItem),
    getItems(deps.table, [`vm#${source.instanceId}`], vmItem),
  ]);
  const allowed = operators.get(`operator#${instanceId}`)?.adopt?.[plan.volume.id] !== undefined;
  const context: AdoptionContext = {
    kind: plan.kind,
    lineage,
    ownDisk: source.instanceId === instanceId,
    sameTenant: sameTenant(vms.get(`vm#${source.instanceId}`), vm),
    allowed,
  };
  const resource = { type: 'Disk', id: source.disk, sizeGiB: plan.volume.sizeGiB } as const;
  return deps.policy.decide('AdoptDisk', vm.observation, resource, { ...context });
}

/** The keys by generation, wrapped for the VM; undefined when one was not wrapped as its row says. */
async function rewrap(
  deps: Deps,
  source: DiskItem,
  instanceId: string,
): Promise<ReadonlyMap<number, string> | undefined> {
  const rewrapped = new Map<number, string>();
  for (const { generation, wrappedKey, wrappedFor } of generationsToRewrap(source)) {
    const from = encryptionContext(source.disk, generation, wrappedFor);
    const to = encryptionContext(source.disk, generation, instanceId);
    try {
      rewrapped.set(generation, await rewrapKey(deps.kms, deps.diskKeyId, wrappedKey, from, to));
    } catch (error) {
      if (!(error instanceof UnwrapRefusedError)) throw error;
      deps.logger.error('a stored key does not unwrap', { disk: source.disk, generation, error });
      return undefined;
    }
  }
  return rewrapped;
}

function answerOf(disk: Pick<DiskItem, 'disk' | 'volumeId' | 'generations'>): Answer {
  const generations = disk.generations.map(({ generation, state }) => ({ generation, state }));
  return { kind: 'ok', status: 200, body: { disk: disk.disk, volumeId: disk.volumeId, generations } };
}

async function announceIssued(
  deps: Deps,
  disk: Omit<DiskItem, 'pk' | 'version'>,
  generation: number,
): Promise<void> {
  await deps.announce({
    detailType: 'Disk Key Issued',
    detail: {
      schemaVersion: 1,
      instanceId: disk.instanceId,
      at: disk.decision.at,
      disk: disk.disk,
      volumeId: disk.volumeId,
      generation,
      reasons: disk.decision.reasons,
    },
  });
}
