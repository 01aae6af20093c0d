import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { S3Client } from '@aws-sdk/client-s3';
import { accessDisk } from '../../lib/domain/disk-access.ts';
import { HEADER_BODY_CHARS, headerRequest } from '../../lib/domain/disk-api.ts';
import { type ApiDeps, createApiHandler } from '../api-function.ts';
import { putObject } from '../aws/s3.ts';
import { readDisks } from '../disks.ts';
import { proveRequest, type SignedDeps } from '../signed-request.ts';

export interface Deps extends ApiDeps, SignedDeps {
  readonly s3: S3Client;
  readonly bucket: string;
}

/** RFC 1952 §2.3.1: what every gzip member begins with. */
const GZIP = Buffer.from([0x1f, 0x8b, 0x08]);

/**
 * Keeps a backup of a disk's header. One object for each generation, in a bucket that keeps the versions: a header
 * holds no key, only keyslots that a key opens.
 */
export function createHandler(deps: Deps) {
  return createApiHandler(
    deps,
    headerRequest,
    async (request) => {
      const { disk, generation, payload } = request;
      const proof = await proveRequest(deps, request, { purpose: 'confirm', disk, generation, payload });
      if (proof.kind === 'refuse') return proof;
      const { vm } = proof;
      const volumes = vm.observation.volumes.map((volume) => volume.id);
      const access = accessDisk(vm, disk, (await readDisks(deps.table, volumes)).get);
      if (access.kind === 'refuse') return { ...access, retryable: false };
      if (!access.disk.generations.some((g) => g.generation === generation))
        return { kind: 'refuse', reason: 'GENERATION_UNKNOWN', retryable: false };
      const header = Buffer.from(payload, 'base64');
      if (!header.subarray(0, GZIP.length).equals(GZIP))
        return { kind: 'refuse', reason: 'HEADER_MALFORMED', retryable: false };
      const key = `headers/${access.disk.pk.slice('disk#'.length)}/${generation}/header.gz`;
      await putObject(deps.s3, deps.bucket, key, header);
      deps.metrics.addMetric('HeaderStored', MetricUnit.Count, 1);
      return { kind: 'ok', status: 201, body: { disk, key } };
    },
    { maxBodyChars: HEADER_BODY_CHARS },
  );
}
