import * as z from 'zod';
import { apiOrigin, common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      ...common,
      BUS_NAME: z.string().min(1),
      API_ORIGIN: apiOrigin,
      CALLER_IDENTITY: z.enum(['iam', 'embedded']),
    },
    environment,
  );
