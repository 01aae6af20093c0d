import { request as requestInClear } from 'node:http';
import { request as requestByTls } from 'node:https';

export interface HttpRequest {
  readonly method?: 'GET' | 'POST' | 'PUT';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly timeoutMs: number;
  readonly stop?: AbortSignal | undefined;
}

export interface HttpAnswer {
  readonly status: number;
  readonly text: string;
}

/** No answer that the agent expects is larger: a sealed key and its envelope are a few kB. */
const ANSWER_MAX_BYTES = 4 * 1024 * 1024;

/**
 * One request, and the whole of its answer; redirects are not followed. By node:http and not by fetch, whose client
 * takes 13 MB of memory with its parser in WebAssembly (measured); the agent asks for little and mostly waits.
 *
 * @throws what the connection threw
 */
export function http(url: URL, request: HttpRequest): Promise<HttpAnswer> {
  const stop = AbortSignal.any([
    AbortSignal.timeout(request.timeoutMs),
    ...(request.stop ? [request.stop] : []),
  ]);
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? requestByTls : requestInClear;
    const { method = 'GET', headers = {}, body = '' } = request;
    const length = method === 'GET' ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const sent = send(url, { method, headers: { ...headers, ...length }, signal: stop, agent: false });
    sent.on('error', (error) =>
      reject(stop.aborted ? new Error('no answer in time', { cause: error }) : error),
    );
    sent.on('response', (response) => {
      const chunks: Buffer[] = [];
      let size = 0;
      response.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > ANSWER_MAX_BYTES) sent.destroy(new Error('the answer is too large'));
        else chunks.push(chunk);
      });
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') });
      });
    });
    sent.end(body);
  });
}

export const isOk = ({ status }: HttpAnswer) => status >= 200 && status < 300;
