import * as z from 'zod';
import { apiOrigin, queueDriven, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      ...queueDriven,
      API_ORIGIN: apiOrigin,
      REPORT_MAX_AGE_SECONDS: z.coerce.number().int().min(60).max(86_400).default(900),
      EVIDENCE_MAX_AGE_SECONDS: z.coerce.number().int().min(60).max(604_800).default(7200),
    },
    environment,
  );
