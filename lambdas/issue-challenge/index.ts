import { randomBytes } from 'node:crypto';
import { realTable, realTelemetry } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  callerIdentity: config.CALLER_IDENTITY,
  table: realTable(config.TABLE_NAME),
  now: () => new Date(),
  randomBytes,
});
