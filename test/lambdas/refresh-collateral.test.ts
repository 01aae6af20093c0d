import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics } from '@aws-lambda-powertools/metrics';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Context } from 'aws-lambda';
import { CollateralError, createHandler } from '../../lambdas/refresh-collateral/handler.ts';
import { amdRoots } from '../../lib/domain/evidence/snp/index.ts';
import { crl, pem } from '../domain/evidence/forge/pki.ts';
import { asvkSerial, makeAmd } from '../domain/evidence/forge/snp.ts';
import { recorded, vector } from '../domain/evidence/vectors.ts';
import { fakeDynamoDb } from '../world/dynamodb.ts';
import { countEffects } from '../world/effects.ts';

const amd = makeAmd();
const logger = new Logger({ logLevel: 'SILENT' });
const now = new Date('2026-06-01T12:00:00Z');

let dynamodb: ReturnType<typeof fakeDynamoDb>;
let server: Server;
let answers: Map<string, { status?: number; body: Buffer | string }>;
let asked: string[];
let keyServer: string;

/** AMD's key distribution service, over HTTP. */
beforeEach(async () => {
  dynamodb = fakeDynamoDb(countEffects());
  asked = [];
  answers = new Map([
    ['/vlek/v1/Milan/cert_chain', { body: pem(amd.asvk.Milan.der, amd.ark.Milan.der) }],
    ['/vlek/v1/Milan/crl', { body: list([1]) }],
    ['/vcek/v1/Milan/cert_chain', { body: pem(amd.ask.Milan.der, amd.ark.Milan.der) }],
    ['/vcek/v1/Milan/crl', { body: list([]) }],
  ]);
  server = createServer((request, response) => {
    asked.push(request.url ?? '');
    const answer = answers.get(request.url ?? '') ?? { status: 404, body: 'no such thing' };
    const status = answer.status ?? 200;
    response.writeHead(status, status === 302 ? { location: '/elsewhere' } : {}).end(answer.body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  keyServer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

function list(serials: number[], from = '20260501000000Z', until = '20260701000000Z'): Buffer {
  return crl(amd.ark.Milan, serials, { signature: 'pssSha384', from, until });
}

async function refresh(at = now, roots = amd.roots): Promise<unknown> {
  const handler = createHandler({
    table: { client: dynamodb.client, name: 'state' },
    keyServer,
    authorities: [
      { kind: 'VLEK', product: 'Milan' },
      { kind: 'VCEK', product: 'Milan' },
    ],
    roots,
    logger,
    metrics: new Metrics({ namespace: 'Casemate', logger }),
    now: () => at,
  });
  return handler({}, { functionName: 'refresh-collateral' } as Context);
}

const row = (name: string) => dynamodb.rows.get(`collateral#${name}`);

describe('collateral of AMD is fetched', () => {
  test('for both kinds of keys, and kept with the expiry that each has itself', async () => {
    const served = list([1]);
    answers.set('/vlek/v1/Milan/crl', { body: served });
    await expect(refresh()).resolves.toEqual({ refreshed: 2 });
    expect(asked.sort()).toEqual([...answers.keys()].sort());
    expect(row('VLEK/Milan')).toEqual({
      pk: 'collateral#VLEK/Milan',
      certificates: [amd.asvk.Milan.der, amd.ark.Milan.der].map((der) => der.toString('base64')),
      expiresAt: now.getTime() / 1000 + 7 * 86_400,
      version: 1,
    });
    expect(row('VLEK/Milan/crl')).toEqual({
      pk: 'collateral#VLEK/Milan/crl',
      crl: served.toString('base64'),
      thisUpdate: '2026-05-01T00:00:00.000Z',
      expiresAt: Date.parse('2026-07-01T00:00:00Z') / 1000,
      version: 1,
    });
    expect(row('VCEK/Milan')?.['certificates']).toEqual(
      [amd.ask.Milan.der, amd.ark.Milan.der].map((der) => der.toString('base64')),
    );
  });

  test('again, and a newer list takes the place of the last', async () => {
    await refresh();
    answers.set('/vlek/v1/Milan/crl', { body: list([asvkSerial], '20260601000000Z', '20260801000000Z') });
    await refresh();
    expect(row('VLEK/Milan/crl')).toMatchObject({ thisUpdate: '2026-06-01T00:00:00.000Z', version: 2 });
    expect(row('VLEK/Milan')).toMatchObject({ version: 2 });
  });

  test('and an older list never takes the place of a newer, though it is current', async () => {
    answers.set('/vlek/v1/Milan/crl', { body: list([asvkSerial], '20260601000000Z', '20260801000000Z') });
    await refresh();
    answers.set('/vlek/v1/Milan/crl', { body: list([]) });
    await refresh();
    expect(row('VLEK/Milan/crl')).toMatchObject({ thisUpdate: '2026-06-01T00:00:00.000Z', version: 1 });
  });
});

describe('what is kept stays, and the function fails, when', () => {
  const vlekChain = '/vlek/v1/Milan/cert_chain';
  const vlekList = '/vlek/v1/Milan/crl';
  test.each<[string, string, { status?: number; body: Buffer | string }]>([
    ['the server is busy', vlekList, { status: 429, body: '' }],
    ['the server sends elsewhere', vlekList, { status: 302, body: '' }],
    ['the answer has no end', vlekList, { body: Buffer.alloc(200_000, 0x30) }],
    ['the list is none', vlekList, { body: '<html>' }],
    ['the list is over', vlekList, { body: list([], '20260501000000Z', '20260601115959Z') }],
    [
      'another hierarchy signed the list',
      vlekList,
      { body: crl(makeAmd().ark.Milan, [], { signature: 'pssSha384' }) },
    ],
    ['the chain is another authority’s', vlekChain, { body: pem(amd.ask.Milan.der, amd.ark.Milan.der) }],
    ['the chain is another product’s', vlekChain, { body: pem(amd.asvk.Genoa.der, amd.ark.Genoa.der) }],
    ['the chain has its root alone', vlekChain, { body: pem(amd.ark.Milan.der) }],
    ['the chain is the wrong way round', vlekChain, { body: pem(amd.ark.Milan.der, amd.asvk.Milan.der) }],
  ])('%s', async (_, path, answer) => {
    await refresh();
    const before = structuredClone([row('VLEK/Milan'), row('VLEK/Milan/crl')]);
    const genuine = answers.get(path);
    answers.set(path, answer);
    await expect(refresh()).rejects.toThrow(CollateralError);
    expect([row('VLEK/Milan'), row('VLEK/Milan/crl')]).toEqual(before);
    // The other authority is none the worse for it.
    expect(row('VCEK/Milan')).toMatchObject({ version: 2 });
    answers.set(path, genuine ?? { body: '' });
    await expect(refresh()).resolves.toEqual({ refreshed: 2 });
  });

  test('the roots are not AMD’s, and nothing is kept at all', async () => {
    await expect(refresh(now, amdRoots)).rejects.toThrow(CollateralError);
    expect([...dynamodb.rows.keys()]).toEqual([]);
  });

  test('the server cannot be reached', async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await expect(refresh()).rejects.toThrow('2 of 2 not refreshed');
  });
});

recorded('AMD’s own CA certificates end in AMD’s own root', async () => {
  const chain = ['asvk', 'ark'].map((name) => vector(`snp/roots/${name}-milan.pem`).toString()).join('');
  answers.set('/vlek/v1/Milan/cert_chain', { body: chain });
  // The list is not AMD's, which the root says; the chain in front of it held.
  const error = (await refresh(now, amdRoots).catch((thrown: unknown) => thrown)) as CollateralError;
  const causes = (error.cause as AggregateError).errors as Error[];
  expect(causes[0]?.message).toMatch(/^REVOCATION_LIST_INVALID: not signed by .*ARK-Milan/);
});
