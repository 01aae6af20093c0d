import * as z from 'zod';
import { common, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...common, BUS_NAME: z.string().min(1), HEADER_BUCKET: z.string().min(3) }, environment);
