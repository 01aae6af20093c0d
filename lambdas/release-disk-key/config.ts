import * as z from 'zod';
import { mode } from '../../lib/domain/isolation.ts';
import { agentApi, common, diskKeyId, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      ...common,
      ...agentApi,
      BUS_NAME: z.string().min(1),
      DISK_KEY_ID: diskKeyId,
      MODE: mode,
      EVIDENCE_MAX_AGE_SECONDS: z.coerce.number().int().min(60).max(604_800).default(7200),
    },
    environment,
  );
