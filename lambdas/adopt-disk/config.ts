import * as z from 'zod';
import { agentApi, common, diskKeyId, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    { ...common, ...agentApi, BUS_NAME: z.string().min(1), DISK_KEY_ID: diskKeyId },
    environment,
  );
