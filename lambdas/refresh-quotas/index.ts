import { ServiceQuotasClient } from '@aws-sdk/client-service-quotas';
import { realTable, realTelemetry, retrying } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  logger: realTelemetry().logger,
  quotas: new ServiceQuotasClient(retrying),
  table: realTable(config.TABLE_NAME),
  now: () => new Date(),
});
