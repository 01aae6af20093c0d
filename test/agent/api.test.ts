import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { createApi, RefusedError, UnreachableError } from '../../agent/api.ts';
import { challengeResponse } from '../../lib/domain/enrolment.ts';
import { REGION } from '../world/ec2.ts';
import { serve } from './harness.ts';

const CREDENTIALS = {
  accessKeyId: 'AKIDEXAMPLE',
  secretAccessKey: 'a-secret-that-stays-here',
  sessionToken: 'TOKEN',
};
const GOOD = { nonce: Buffer.alloc(32).toString('base64'), expiresAt: '2026-11-24T08:01:00.000Z' };

let answer: { status: number; body: unknown; headers?: Record<string, string> };
let seen: {
  method?: string | undefined;
  url?: string | undefined;
  headers: Record<string, unknown>;
  body: string;
}[];
let server: Awaited<ReturnType<typeof serve>>;
beforeEach(async () => {
  seen = [];
  answer = { status: 201, body: GOOD };
  server = await serve((request, body, response) => {
    seen.push({ method: request.method, url: request.url, headers: request.headers, body });
    const text = typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body);
    response.writeHead(answer.status, answer.headers).end(text);
  });
});
afterEach(() => server.close());
const post = (path = '/v1') =>
  createApi(`${server.url}${path}`, REGION, CREDENTIALS).post('/challenges', { a: 1 }, challengeResponse);

describe('a request', () => {
  test('goes below the stage, signed for execute-api, with the session and without the secret', async () => {
    await expect(post()).resolves.toEqual(GOOD);
    await post('/v1/');
    expect(seen.map((s) => [s.method, s.url, s.body])).toEqual([
      ['POST', '/v1/challenges', '{"a":1}'],
      ['POST', '/v1/challenges', '{"a":1}'],
    ]);
    const { headers } = seen[0] as (typeof seen)[number];
    expect(headers['authorization']).toMatch(
      new RegExp(`^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\\d{8}/${REGION}/execute-api/aws4_request, `),
    );
    expect(headers['authorization']).toMatch(/SignedHeaders=[^,]*host[^,]*x-amz-security-token/);
    expect(headers['x-amz-security-token']).toBe('TOKEN');
    expect(JSON.stringify(seen)).not.toContain(CREDENTIALS.secretAccessKey);
  });
});

describe('a refusal', () => {
  const refusal = { reason: 'ENROL_WINDOW_CLOSED', message: 'First enrolment ends.' };

  test.each([400, 403])('with status %i is a refusal, and keeps its reason', async (status) => {
    answer = { status, body: refusal };
    const error = await post().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(RefusedError);
    expect(error).toMatchObject({
      reason: 'ENROL_WINDOW_CLOSED',
      message: expect.stringContaining('First enrolment'),
    });
  });

  test('that trying again can heal is worth trying again', async () => {
    answer = { status: 409, body: { ...refusal, reason: 'ENROL_VM_UNKNOWN' } };
    const error = await post().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnreachableError);
    expect(error).toMatchObject({ message: expect.stringContaining('ENROL_VM_UNKNOWN') });
  });
});

describe('an answer is worth trying again', () => {
  test.each<[string, { status: number; body: unknown; headers?: Record<string, string> }]>([
    ['429', { status: 429, body: { message: 'Too Many Requests' } }],
    ['500', { status: 500, body: { reason: 'ENROL_WINDOW_CLOSED', message: 'not from us' } }],
    ['502 of API Gateway', { status: 502, body: { message: 'Internal server error' } }],
    ['503 without a body', { status: 503, body: '' }],
    ['403 of API Gateway, before a policy has spread', { status: 403, body: { message: 'Forbidden' } }],
    ['200 that is no JSON', { status: 200, body: '<html>' }],
    ['200 of another shape', { status: 200, body: { nonce: 'short' } }],
    ['302, which is not followed', { status: 302, body: '', headers: { location: 'http://127.0.0.1:1/' } }],
  ])('%s', async (_, given) => {
    answer = given;
    await expect(post()).rejects.toThrow(UnreachableError);
    expect(seen).toHaveLength(1);
  });

  test('no answer at all, and the cause is kept', async () => {
    await server.close();
    const error = await post().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnreachableError);
    expect((error as Error).cause).toBeDefined();
  });
});
