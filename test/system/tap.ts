import { createServer, type IncomingMessage, request } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One request of a VM and its answer, as somebody on the network saw them. */
export interface Seen {
  readonly path: string;
  readonly request: Buffer;
  readonly status: number;
  readonly answer: Buffer;
}

/**
 * What becomes of a request: `lost` never arrives, `unanswered` has its effect and its answer is lost. `meanwhile`
 * happens at that moment, and is waited for.
 */
export type Fate = { readonly kind: 'lost' | 'unanswered'; readonly meanwhile: () => Promise<void> };

/** The network between the VMs and AWS. */
export interface Tap {
  readonly port: number;
  readonly seen: readonly Seen[];
  /** Asked about each request by the end of its path; undefined lets it pass. */
  fate?: ((path: string) => Fate | undefined) | undefined;
  stop(): Promise<void>;
}

export async function startTap(target: string): Promise<Tap> {
  const seen: Seen[] = [];
  const { hostname, port: targetPort } = new URL(target);
  const server = createServer((asked, answer) => {
    const serve = async () => {
      const path = asked.url ?? '';
      const body = await read(asked);
      const fate = tap.fate?.(path);
      if (fate?.kind === 'lost') {
        await fate.meanwhile();
        return void asked.socket.destroy();
      }
      const real = await new Promise<IncomingMessage>((resolve, reject) => {
        const { method, headers } = asked;
        const sent = request(
          { hostname, port: targetPort, path, method: method ?? 'POST', headers },
          resolve,
        );
        sent.once('error', reject);
        sent.end(body);
      });
      const content = await read(real);
      seen.push({ path, request: body, status: real.statusCode ?? 0, answer: content });
      if (fate) {
        await fate.meanwhile();
        return void asked.socket.destroy();
      }
      const { 'transfer-encoding': _, ...headers } = real.headers;
      answer.writeHead(real.statusCode ?? 500, { ...headers, 'content-length': content.length }).end(content);
    };
    serve().catch(() => asked.socket.destroy()); // one of both ends went away
  });
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const tap: Tap = {
    port: (server.address() as AddressInfo).port,
    seen,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return tap;
}

async function read(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
