import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Instance } from '@aws-sdk/client-ec2';
import { ACCOUNT, REGION } from './emulators.ts';
import type { IdentityIssuer } from './identity-issuer.ts';

/** The instance metadata services of all VMs of the embedded cloud, each under a path of its own. */
export interface MetadataServer {
  readonly origin: string;
  /** What an agent of this VM has as its metadata endpoint. */
  endpointOf(instanceId: string): string;
  stop(): Promise<void>;
}

/** Where the metadata service of one VM is. */
export const metadataEndpoint = (origin: string, instanceId: string) => `${origin}/vm/${instanceId}`;

const TOKEN_TTL_HEADER = 'x-aws-ec2-metadata-token-ttl-seconds';
const TOKEN_HEADER = 'x-aws-ec2-metadata-token';
const MAX_TTL_SECONDS = 21_600;

/**
 * IMDSv2 alone, as it should be configured: no document without a token, no token without a TTL, none that
 * was forwarded. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
 *
 * @param instances the VM of an id, as EC2 shows it; undefined when there is none
 */
export async function startMetadata(
  issuer: IdentityIssuer,
  instances: (id: string) => Promise<Instance | undefined>,
  now: () => number = Date.now,
): Promise<MetadataServer> {
  const tokens = new Map<string, { readonly instanceId: string; readonly expiresAt: number }>();

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const [, vm, instanceId = '', ...rest] = (request.url ?? '').split('/');
    const path = `/${rest.join('/')}`;
    const header = (name: string) => {
      const value = request.headers[name];
      return typeof value === 'string' ? value : undefined;
    };
    const send = (status: number, body = '') =>
      response.writeHead(status, { 'content-type': 'text/plain' }).end(body);
    const instance = vm === 'vm' ? await instances(instanceId) : undefined;
    if (!instance) return void send(404);
    if (path === '/latest/api/token') {
      if (request.method !== 'PUT') return void send(405);
      if (header('x-forwarded-for') !== undefined) return void send(403);
      const ttl = Number(header(TOKEN_TTL_HEADER));
      if (!Number.isInteger(ttl) || ttl < 1 || ttl > MAX_TTL_SECONDS) return void send(400);
      const token = randomBytes(32).toString('base64url');
      tokens.set(token, { instanceId, expiresAt: now() + ttl * 1000 });
      return void send(200, token);
    }
    const token = tokens.get(header(TOKEN_HEADER) ?? '');
    if (!token || token.instanceId !== instanceId || token.expiresAt < now()) return void send(401);
    if (request.method !== 'GET') return void send(405);
    switch (path) {
      case '/latest/meta-data/instance-id':
        return void send(200, instanceId);
      case '/latest/dynamic/instance-identity/document':
        return void send(200, JSON.stringify(identityOf(instance), null, 2));
      case '/latest/dynamic/instance-identity/rsa2048':
        return void send(200, await issuer.issue(identityOf(instance)));
      default:
        return void send(404);
    }
  };

  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.writeHead(500).end());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${port}`;
  return {
    origin,
    endpointOf: (instanceId) => metadataEndpoint(origin, instanceId),
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html */
function identityOf(instance: Instance): object {
  return {
    accountId: ACCOUNT,
    architecture: instance.Architecture ?? 'x86_64',
    availabilityZone: instance.Placement?.AvailabilityZone ?? `${REGION}a`,
    billingProducts: null,
    devpayProductCodes: null,
    marketplaceProductCodes: null,
    imageId: instance.ImageId,
    instanceId: instance.InstanceId,
    instanceType: instance.InstanceType,
    kernelId: null,
    pendingTime: instance.LaunchTime?.toISOString().replace(/\.\d+Z$/, 'Z'),
    privateIp: instance.PrivateIpAddress,
    ramdiskId: null,
    region: REGION,
    version: '2017-09-30',
  };
}
