import { fromEnv } from '@aws-sdk/credential-provider-env';
import { chain, memoize } from '@smithy/core/config';
import { fromInstanceMetadata } from '@smithy/credential-provider-imds';
import { Hash } from '@smithy/hash-node';
import { SignatureV4 } from '@smithy/signature-v4';
import { type HttpAnswer, type HttpRequest, http } from './http.ts';

const REFRESH_MS = 5 * 60_000;

/**
 * The instance's role, or what the environment gives (the embedded cloud): all that an agent can have. The SDK's
 * default chain would bring profiles, SSO and STS along, and 20 MB of memory for them (measured).
 */
export function instanceCredentials() {
  const expiresWithin = (ms: number) => (credentials: { expiration?: Date }) =>
    credentials.expiration !== undefined && credentials.expiration.getTime() - Date.now() < ms;
  return memoize(
    chain(fromEnv(), fromInstanceMetadata({ timeout: 2000, maxRetries: 3 })),
    expiresWithin(REFRESH_MS),
    (credentials) => credentials.expiration !== undefined,
  );
}

export type Credentials = ConstructorParameters<typeof SignatureV4>[0]['credentials'];

export type SignedHttp = (url: URL, request: HttpRequest) => Promise<HttpAnswer>;

/** Requests to one AWS service, each signed with SigV4. */
export function createSignedHttp(service: string, region: string, credentials: Credentials): SignedHttp {
  const signer = new SignatureV4({ service, region, credentials, sha256: Hash.bind(null, 'sha256') });
  return async (url, request) => {
    const signed = await signer.sign({
      method: request.method ?? 'GET',
      protocol: url.protocol,
      hostname: url.hostname,
      ...(url.port ? { port: Number(url.port) } : {}),
      path: url.pathname,
      query: {},
      headers: { host: url.host, ...request.headers },
      body: request.body ?? '',
    });
    return http(url, { ...request, headers: signed.headers });
  };
}
