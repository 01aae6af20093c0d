import * as z from 'zod';
import { mode } from '../../lib/domain/isolation.ts';
import { common, flag, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      ...common,
      OBSERVE_QUEUE_URL: z.url(),
      MODE: mode,
      ENFORCE_SHARE: z.coerce.number().gt(0).max(1),
      DENIES_CREDENTIALS: flag,
    },
    environment,
  );
