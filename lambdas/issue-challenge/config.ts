import * as z from 'zod';
import { common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...common, CALLER_IDENTITY: z.enum(['iam', 'embedded']) }, environment);
