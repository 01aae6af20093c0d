import * as z from 'zod';
import { queueDriven, readEnvironment } from '../environment.ts';

export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ ...queueDriven, DISK_KEY_ID: z.string().startsWith('arn:') }, environment);
