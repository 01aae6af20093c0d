import { EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { createAnnouncer } from '../aws/eventbridge.ts';
import { realSignedDeps, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realSignedDeps(config),
  announce: createAnnouncer(new EventBridgeClient(retrying), config.BUS_NAME),
});
