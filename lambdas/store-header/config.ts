import * as z from 'zod';
import { agentApi, common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...common, ...agentApi, HEADER_BUCKET: z.string().min(3) }, environment);
