import * as z from 'zod';
import { guardSettings } from '../../lib/domain/guard.ts';
import { mode } from '../../lib/domain/isolation.ts';
import { probationEgress } from '../../lib/domain/profiles.ts';
import { flag, json, queueDriven, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      ...queueDriven,
      MODE: mode,
      ENFORCE_SHARE: z.coerce.number().gt(0).max(1),
      PROBATION_EGRESS: json(probationEgress),
      GUARDS: json(guardSettings),
      CUT_TRACKED_FLOWS: flag,
      DETACH_ELASTIC_IPS: flag,
      STANDBY: flag,
      REPLACEMENTS_PER_HOUR: z.coerce.number().int().min(1),
      OWN_QUEUE_URL: z.url(),
    },
    environment,
  );
