import * as z from 'zod';
import { json, readEnvironment } from '../environment.ts';

const text = z.string().min(1);

/** It announces nothing, and so knows no bus. */
export const readConfig = (environment?: Record<string, string>) =>
  readEnvironment(
    {
      TABLE_NAME: text,
      AWS_REGION: text,
      REJECTED_QUEUE_URL: z.url(),
      ROLE_NAMES: json(z.array(text).min(1)),
      INSTANCE_ARN_PREFIX: z.string().regex(/^arn:[^:]+:ec2:[^:]+:\d{12}:instance\/$/),
    },
    environment,
  );
