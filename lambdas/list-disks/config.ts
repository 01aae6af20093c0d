import * as z from 'zod';
import { mode } from '../../lib/domain/isolation.ts';
import { agentApi, common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    { ...common, ...agentApi, MODE: mode, RECOVERY_KEY_ID: z.string().startsWith('arn:') },
    environment,
  );
