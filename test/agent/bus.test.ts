import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { BusError, busEndpoint, createBus } from '../../agent/bus.ts';
import { AGENT_SOURCE } from '../../lib/domain/events.ts';
import { REGION } from '../world/ec2.ts';
import { VM_ID } from '../world/items.ts';
import { serve } from './harness.ts';

const CREDENTIALS = {
  accessKeyId: 'AKIDEXAMPLE',
  secretAccessKey: 'a-secret-that-stays-here',
  sessionToken: 'TOKEN',
};
const DETAIL = { schemaVersion: 1, instanceId: VM_ID, payload: '{"é":"\u2028"}', signature: 'c2ln' } as const;

let answer: { status: number; text: string } | 'hangs';
let seen: { readonly headers: Record<string, unknown>; readonly body: string }[];
let server: Awaited<ReturnType<typeof serve>>;
beforeEach(async () => {
  seen = [];
  answer = { status: 200, text: '{"FailedEntryCount":0,"Entries":[{"EventId":"e-1"}]}' };
  server = await serve((request, body, response) => {
    seen.push({ headers: request.headers, body });
    if (answer !== 'hangs') response.writeHead(answer.status).end(answer.text);
  });
  process.env['AWS_ENDPOINT_URL_EVENTBRIDGE'] = server.url;
});
afterEach(() => {
  delete process.env['AWS_ENDPOINT_URL_EVENTBRIDGE'];
  return server.close();
});

const bus = () => createBus('casemate', REGION, CREDENTIALS);

describe('a report', () => {
  test('is put on the bus by one signed call, as it is', async () => {
    await bus().put(DETAIL);
    expect(seen).toHaveLength(1);
    const [{ headers, body }] = seen as [(typeof seen)[number]];
    expect(headers).toMatchObject({
      'x-amz-target': 'AWSEvents.PutEvents',
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-security-token': 'TOKEN',
    });
    expect(headers['authorization']).toMatch(
      new RegExp(`^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\\d{8}/${REGION}/events/aws4_request, `),
    );
    const { Entries } = JSON.parse(body) as { Entries: Record<string, string>[] };
    expect(Entries).toEqual([
      {
        EventBusName: 'casemate',
        Source: AGENT_SOURCE,
        DetailType: 'Capability Report',
        Detail: JSON.stringify(DETAIL),
      },
    ]);
    expect(JSON.stringify(seen)).not.toContain(CREDENTIALS.secretAccessKey);
  });

  test.each<[string, number, string, string]>([
    ['refuses the entry', 200, '{"Entries":[{"ErrorCode":"ThrottlingException"}]}', 'ThrottlingException'],
    ['says nothing of the entry', 200, '{}', 'no answer for the entry'],
    ['answers something else', 200, '<html>', 'no answer for the entry'],
    ['refuses the caller', 400, '{"__type":"AccessDeniedException"}', 'AccessDeniedException'],
    ['is broken', 503, 'Service Unavailable', 'HTTP 503'],
    ['sends elsewhere', 307, '', 'HTTP 307'],
  ])('is not taken when the bus %s', async (_, status, text, says) => {
    answer = { status, text };
    const error = await bus()
      .put(DETAIL)
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(BusError);
    expect((error as Error).message).toContain(says);
  });

  test('is not taken when nobody answers', async () => {
    await server.close();
    await expect(bus().put(DETAIL)).rejects.toMatchObject({
      name: 'BusError',
      cause: { code: 'ECONNREFUSED' },
    });
    server = await serve(() => undefined);
  });

  test('is given up at once when the agent stops', async () => {
    answer = 'hangs';
    const stop = new AbortController();
    const sent = bus().put(DETAIL, stop.signal);
    while (seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    stop.abort();
    await expect(sent).rejects.toThrow(BusError);
  });
});

test.each<[string, Record<string, string>, string]>([
  ['eu-west-1', {}, 'https://events.eu-west-1.amazonaws.com/'],
  ['cn-north-1', {}, 'https://events.cn-north-1.amazonaws.com.cn/'],
  ['eu-west-1', { AWS_ENDPOINT_URL: 'http://127.0.0.1:1' }, 'http://127.0.0.1:1/'],
  [
    'eu-west-1',
    { AWS_ENDPOINT_URL: 'http://127.0.0.1:1', AWS_ENDPOINT_URL_EVENTBRIDGE: 'http://127.0.0.1:2' },
    'http://127.0.0.1:2/',
  ],
])('the bus of %s with %j is at %s', (region, environment, url) => {
  expect(busEndpoint(region, environment).href).toBe(url);
});
