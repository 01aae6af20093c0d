import { realTable, realTelemetry } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realTelemetry(),
  table: realTable(config.TABLE_NAME),
  keyServer: config.AMD_KEY_SERVER,
  // EC2's only processor with SEV-SNP: VLEKs on shared hosts, VCEKs on dedicated ones.
  authorities: [
    { kind: 'VLEK', product: 'Milan' },
    { kind: 'VCEK', product: 'Milan' },
  ],
  now: () => new Date(),
});
