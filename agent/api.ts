import { Hash } from '@smithy/hash-node';
import { SignatureV4 } from '@smithy/signature-v4';
import * as z from 'zod';
import { refusalResponse } from '../lib/domain/enrolment.ts';

/** The API refused, and says why. Trying again the same way does not help. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
  readonly reason: string;
  constructor(reason: string, message: string) {
    super(`${reason}: ${message}`);
    this.reason = reason;
  }
}

/** The API could not be reached, or asks to be tried again later. Retryable. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
}

type Credentials = ConstructorParameters<typeof SignatureV4>[0]['credentials'];

export interface Api {
  /** @param stop ends the request before its time */
  post<T>(path: string, body: object, schema: z.ZodType<T>, stop?: AbortSignal): Promise<T>;
}

const TIMEOUT_MS = 10_000;

/** A client of the API that signs every request with the instance's credentials (SigV4). */
export function createApi(apiUrl: string, region: string, credentials: Credentials): Api {
  const signer = new SignatureV4({
    service: 'execute-api',
    region,
    credentials,
    sha256: Hash.bind(null, 'sha256'),
  });
  return {
    async post(path, body, schema, stop) {
      const url = new URL(`${apiUrl.replace(/\/$/, '')}${path}`);
      const text = JSON.stringify(body);
      const signed = await signer.sign({
        method: 'POST',
        protocol: url.protocol,
        hostname: url.hostname,
        ...(url.port ? { port: Number(url.port) } : {}),
        path: url.pathname,
        query: {},
        headers: { host: url.host, 'content-type': 'application/json' },
        body: text,
      });
      const { host: _host, ...headers } = signed.headers;
      let answer: Response;
      try {
        answer = await fetch(url, {
          method: 'POST',
          headers,
          body: text,
          redirect: 'error',
          signal: AbortSignal.any([AbortSignal.timeout(TIMEOUT_MS), ...(stop ? [stop] : [])]),
        });
      } catch (error) {
        throw new UnreachableError(`${url.origin} does not answer`, { cause: error });
      }
      const content: unknown = await answer.json().catch(() => undefined);
      if (answer.ok) {
        const parsed = schema.safeParse(content);
        if (parsed.success) return parsed.data;
        throw new UnreachableError(`${url.origin} answered something else: ${z.prettifyError(parsed.error)}`);
      }
      const refusal = refusalResponse.safeParse(content);
      if (refusal.success && (answer.status === 403 || answer.status === 400)) {
        throw new RefusedError(refusal.data.reason, refusal.data.message);
      }
      const why = refusal.success
        ? `${refusal.data.reason}: ${refusal.data.message}`
        : `HTTP ${answer.status}`;
      throw new UnreachableError(`${url.origin}${path}: ${why}`);
    },
  };
}
