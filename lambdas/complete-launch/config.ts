import * as z from 'zod';
import { readEnvironment } from '../environment.ts';

const text = z.string().min(1);

/** It announces nothing, and so knows no bus. */
export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment({ TABLE_NAME: text, AWS_REGION: text, REJECTED_QUEUE_URL: z.url() }, environment);
