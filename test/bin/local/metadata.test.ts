import type { Instance } from '@aws-sdk/client-ec2';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createIdentityIssuer } from '../../../bin/local/identity-issuer.ts';
import { type MetadataServer, startMetadata } from '../../../bin/local/metadata.ts';

const VM = 'i-0123456789abcdef0';
const OTHER = 'i-0fedcba9876543210';
const GONE = 'i-00000000000000000';
const instance = (InstanceId: string): Instance => ({
  InstanceId,
  Architecture: 'x86_64',
  ImageId: 'ami-0123456789abcdef0',
  InstanceType: 'm6a.large',
  LaunchTime: new Date('2026-11-01T08:00:00.000Z'),
  Placement: { AvailabilityZone: 'us-east-1b' },
  PrivateIpAddress: '10.20.1.6',
});

describe('the instance metadata service', () => {
  let server: MetadataServer;
  let now = Date.parse('2026-11-01T08:05:00Z');
  beforeAll(async () => {
    const issuer = await createIdentityIssuer('us-east-1');
    const find = async (id: string) => (id === GONE ? undefined : instance(id));
    server = await startMetadata(issuer, find, () => now);
  });
  afterAll(() => server.stop());

  const ask = (path: string, init: RequestInit = {}, vm = VM) => fetch(server.endpointOf(vm) + path, init);
  const put = (headers: Record<string, string>, vm = VM) =>
    ask('/latest/api/token', { method: 'PUT', headers }, vm);
  const tokenOf = async (vm = VM, ttl = '60') =>
    (await put({ 'x-aws-ec2-metadata-token-ttl-seconds': ttl }, vm)).text();
  const get = (path: string, token: string, vm = VM) =>
    ask(path, { headers: { 'x-aws-ec2-metadata-token': token } }, vm);

  test('tells the instance id to who has a token', async () => {
    const answer = await get('/latest/meta-data/instance-id', await tokenOf());
    expect([answer.status, await answer.text()]).toEqual([200, VM]);
  });

  test('tells the identity document as EC2 has it, and signs that very document', async () => {
    const token = await tokenOf();
    const document = await (await get('/latest/dynamic/instance-identity/document', token)).text();
    expect(JSON.parse(document)).toEqual({
      accountId: '000000000000',
      architecture: 'x86_64',
      availabilityZone: 'us-east-1b',
      billingProducts: null,
      devpayProductCodes: null,
      marketplaceProductCodes: null,
      imageId: 'ami-0123456789abcdef0',
      instanceId: VM,
      instanceType: 'm6a.large',
      kernelId: null,
      pendingTime: '2026-11-01T08:00:00Z',
      privateIp: '10.20.1.6',
      ramdiskId: null,
      region: 'us-east-1',
      version: '2017-09-30',
    });
    const signed = await (await get('/latest/dynamic/instance-identity/rsa2048', token)).text();
    expect(Buffer.from(signed, 'base64').includes(document)).toBe(true);
  });

  test.each([
    '/latest/meta-data/instance-id',
    '/latest/dynamic/instance-identity/document',
    '/latest/dynamic/instance-identity/rsa2048',
    '/latest/user-data',
  ])('refuses %s without a token', async (path) => {
    const answer = await ask(path);
    expect([answer.status, await answer.text()]).toEqual([401, '']);
  });

  test('refuses an unknown token, and that of another VM', async () => {
    const path = '/latest/meta-data/instance-id';
    expect((await get(path, 'AQAEAKnotatoken')).status).toBe(401);
    expect((await get(path, await tokenOf(OTHER))).status).toBe(401);
  });

  test('refuses a token after its time', async () => {
    const token = await tokenOf(VM, '60');
    now += 60_000;
    expect((await get('/latest/meta-data/instance-id', token)).status).toBe(200);
    now += 1;
    expect((await get('/latest/meta-data/instance-id', token)).status).toBe(401);
  });

  test.each(['0', '21601', '-1', '1.5', 'soon', ''])('gives no token for %j seconds', async (ttl) => {
    expect((await put({ 'x-aws-ec2-metadata-token-ttl-seconds': ttl })).status).toBe(400);
  });

  test('gives no token without a time to live, to a forwarded request, or to a GET', async () => {
    expect((await put({})).status).toBe(400);
    const forwarded = { 'x-aws-ec2-metadata-token-ttl-seconds': '60', 'x-forwarded-for': '10.0.0.1' };
    expect((await put(forwarded)).status).toBe(403);
    expect((await ask('/latest/api/token')).status).toBe(405);
  });

  test('knows no other path, no other method and no other VM', async () => {
    const token = await tokenOf();
    expect((await get('/latest/dynamic/instance-identity/pkcs7', token)).status).toBe(404);
    const headers = { 'x-aws-ec2-metadata-token': token };
    expect((await ask('/latest/meta-data/instance-id', { method: 'POST', headers })).status).toBe(405);
    expect((await put({ 'x-aws-ec2-metadata-token-ttl-seconds': '60' }, GONE)).status).toBe(404);
  });
});
