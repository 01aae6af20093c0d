import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { KMSClient } from '@aws-sdk/client-kms';
import { type DiskItem, decideDiskKey, encryptionContext, issuedDisk } from '../../lib/domain/disk-key.ts';
import type { EventDetail } from '../../lib/domain/events.ts';
import { type ObservedVolume, type VmItem, vmItem } from '../../lib/domain/vm.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import { createAll, getItems, type Table, VersionConflictError } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { generateWrappedKey } from '../aws/kms.ts';
import { readDisks } from '../disks.ts';
import { createQueueHandler, oncePerVm, type QueueDeps } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';

export interface Deps extends QueueDeps {
  readonly kms: KMSClient;
  readonly diskKeyId: string;
  readonly table: Table;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
  readonly now: () => Date;
  readonly randomUuid: () => string;
}

/** Makes sure that every covered volume of a VM has exactly one key to open with. */
export function createHandler(deps: Deps) {
  return createQueueHandler<EventDetail<'VM Changed'>>(deps, {
    name: 'issue-disk-keys',
    parse: parseVmChanged,
    async run(work) {
      const ids = work.map((item) => item.value.instanceId);
      const vms = await getItems(
        deps.table,
        ids.map((id) => `vm#${id}`),
        vmItem,
      );
      const volumes = vms.values().flatMap((vm) => vm.observation.volumes.map((volume) => volume.id));
      const disks = await readDisks(deps.table, volumes);
      return oncePerVm(
        work,
        (detail) => [detail.instanceId],
        async (id, items) => {
          const vm = vms.get(`vm#${id}`);
          if (!vm) return;
          const redelivered = items.some((item) => item.redelivered);
          const outcomes = await Promise.allSettled(
            vm.observation.volumes.map(async (volume) =>
              converge(deps, vm, volume, disks.get(volume.id), redelivered),
            ),
          );
          const failed = outcomes.find((outcome) => outcome.status === 'rejected');
          if (failed) throw failed.reason;
        },
      );
    },
  });
}

async function converge(
  deps: Deps,
  vm: VmItem,
  volume: ObservedVolume,
  disk: DiskItem | undefined,
  redelivered: boolean,
): Promise<void> {
  const decision = decideDiskKey(vm, volume, disk);
  if (decision.kind === 'issue') return issue(deps, vm, volume, decision.generation);
  if (decision.kind === 'keep' && disk && redelivered) await announceIssued(deps, disk);
}

async function issue(deps: Deps, vm: VmItem, volume: ObservedVolume, generation: number): Promise<void> {
  const { instanceId } = vm.observation;
  const disk = deps.randomUuid();
  const policy = deps.policy.decide(
    'IssueKey',
    vm.observation,
    { type: 'Disk', id: disk, sizeGiB: volume.sizeGiB },
    { managed: vm.managed },
  );
  if (!policy.allowed) {
    deps.logger.info('key not issued', { instanceId, volumeId: volume.id, reasons: policy.reasons });
    return;
  }
  const wrappedKey = await generateWrappedKey(
    deps.kms,
    deps.diskKeyId,
    encryptionContext(disk, generation, instanceId),
  );
  const decision = {
    at: deps.now().toISOString(),
    reasons: [...policy.reasons],
    policies: [...policy.policies],
  };
  const item = {
    pk: `disk#${disk}`,
    version: 1,
    ...issuedDisk({ disk, volumeId: volume.id, instanceId }, wrappedKey, decision),
  };
  try {
    // The pointer and the disk are written together or not at all: of two workers that issue at once one
    // wins, and the other's key was never stored, so it opens nothing and is forgotten here.
    // Store before announce: the announcement can be repeated, a lost key cannot.
    await createAll(deps.table, [item, { pk: `disk#${volume.id}`, disk }]);
  } catch (error) {
    if (error instanceof VersionConflictError) return;
    throw error;
  }
  deps.metrics.addMetric('DiskKeyIssued', MetricUnit.Count, 1);
  await announceIssued(deps, item);
}

async function announceIssued(deps: Deps, disk: Omit<DiskItem, 'pk' | 'version'>): Promise<void> {
  for (const generation of disk.generations.filter((g) => g.state === 'issued')) {
    await deps.announce({
      detailType: 'Disk Key Issued',
      detail: {
        schemaVersion: 1,
        instanceId: disk.instanceId,
        at: generation.issuedAt,
        disk: disk.disk,
        volumeId: disk.volumeId,
        generation: generation.generation,
        reasons: disk.decision.reasons,
      },
    });
  }
}
