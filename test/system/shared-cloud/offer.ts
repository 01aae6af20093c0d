import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Cloud, type CloudAddress, startCloud } from '../../integration/cloud.ts';
import { missingForVms } from '../prerequisites.ts';
import { FEED_EVERY_MS } from '../site.ts';
import { ASK_AT } from './ask.ts';
import { quotesDemanded } from './policies.ts';

interface Shared {
  readonly server: Server;
  starting?: Promise<Cloud>;
}

let shared: Shared | undefined;

/**
 * Suites run in processes of their own; this is called in the one that they have in common. The cloud is started when
 * the first suite asks for it, while others are at work already.
 */
export async function offerCloud(): Promise<void> {
  if (missingForVms()) return;
  const offered: Shared = {
    server: createServer((_request, response) => {
      offered.starting ??= start();
      offered.starting.then(
        (cloud) => response.end(JSON.stringify(addressOf(cloud))),
        (error: unknown) => response.writeHead(500).end(String(error)),
      );
    }),
  };
  await new Promise<void>((resolve, reject) => {
    offered.server.once('error', reject);
    offered.server.listen(0, '127.0.0.1', resolve);
  });
  offered.server.unref();
  process.env[ASK_AT] = `http://127.0.0.1:${(offered.server.address() as AddressInfo).port}`;
  shared = offered;
}

export async function endCloud(): Promise<void> {
  shared?.server.close();
  await shared?.starting?.then(
    (cloud) => cloud.stop(),
    () => undefined, // whoever asked for it was told
  );
}

async function start(): Promise<Cloud> {
  const cloud = await startCloud(quotesDemanded());
  cloud.feed(FEED_EVERY_MS);
  return cloud;
}

function addressOf({ folder, emulators, outputs, metadata }: Cloud): CloudAddress {
  const { aws, ec2, tpms } = emulators;
  return { folder, emulators: { aws, ec2, tpms }, outputs, metadata: { origin: metadata.origin } };
}
