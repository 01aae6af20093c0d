import * as z from 'zod';
import { refusalResponse } from '../lib/domain/enrolment.ts';
import { type Credentials, createSignedHttp } from './credentials.ts';
import { type HttpAnswer, isOk } from './http.ts';

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

export interface Api {
  /** @param stop ends the request before its time */
  post<T>(path: string, body: object, schema: z.ZodType<T>, stop?: AbortSignal): Promise<T>;
}

const TIMEOUT_MS = 10_000;

/** A client of the API that signs every request with the instance's credentials (SigV4). */
export function createApi(apiUrl: string, region: string, credentials: Credentials): Api {
  const send = createSignedHttp('execute-api', region, credentials);
  return {
    async post(path, body, schema, stop) {
      const url = new URL(`${apiUrl.replace(/\/$/, '')}${path}`);
      let answer: HttpAnswer;
      try {
        answer = await send(url, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
          timeoutMs: TIMEOUT_MS,
          stop,
        });
      } catch (error) {
        throw new UnreachableError(`${url.origin} does not answer`, { cause: error });
      }
      const content = jsonOf(answer.text);
      if (isOk(answer)) {
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

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // something else, as the schema will say
  }
}
