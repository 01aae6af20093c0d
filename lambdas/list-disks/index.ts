import { realSignedDeps } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realSignedDeps(config),
  mode: config.MODE,
  recoveryPublicKey: config.RECOVERY_PUBLIC_KEY ?? null,
});
