import { setTimeout as sleep } from 'node:timers/promises';
import * as z from 'zod';
import { accountId, instanceId, region } from '../lib/domain/ids.ts';
import { type HttpRequest, http, isOk } from './http.ts';

/** The instance metadata service did not answer as it should. Retryable. */
export class MetadataError extends Error {
  override readonly name = 'MetadataError';
}

/** What the agent needs of the identity document; the pipeline verifies the signed form. */
const document = z.looseObject({ instanceId, accountId, region });

export interface Identity {
  readonly instanceId: string;
  readonly accountId: string;
  readonly region: string;
}

const TIMEOUT_MS = 2000;

/** IMDSv2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html */
async function get(endpoint: string, path: string): Promise<string> {
  const base = endpoint.replace(/\/$/, '');
  let fault: unknown;
  for (let attempt = 0; attempt < 3; attempt++) {
    if (attempt > 0) await sleep(200 * 2 ** attempt * Math.random());
    try {
      const token = await request(`${base}/latest/api/token`, {
        method: 'PUT',
        headers: { 'x-aws-ec2-metadata-token-ttl-seconds': '60' },
      });
      return await request(`${base}${path}`, { headers: { 'x-aws-ec2-metadata-token': token } });
    } catch (error) {
      fault = error;
    }
  }
  throw new MetadataError(`the instance metadata service at ${endpoint} does not answer`, { cause: fault });
}

async function request(url: string, what: Pick<HttpRequest, 'method' | 'headers'>): Promise<string> {
  const answer = await http(new URL(url), { ...what, timeoutMs: TIMEOUT_MS });
  if (!isOk(answer)) throw new MetadataError(`${url}: HTTP ${answer.status}`);
  return answer.text;
}

/** Who this VM is. */
export async function readIdentity(endpoint: string): Promise<Identity> {
  const text = await get(endpoint, '/latest/dynamic/instance-identity/document');
  const parsed = document.safeParse(JSON.parse(text));
  if (!parsed.success) throw new MetadataError(`the identity document is not one: ${parsed.error.message}`);
  const { instanceId: id, accountId: account, region: where } = parsed.data;
  return { instanceId: id, accountId: account, region: where };
}

/**
 * The signed identity document (PKCS#7, RSA-2048). A bearer token: it goes to the API alone, and is neither
 * stored nor logged.
 */
export function readSignedIdentity(endpoint: string): Promise<string> {
  return get(endpoint, '/latest/dynamic/instance-identity/rsa2048');
}
