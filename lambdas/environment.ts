import * as z from 'zod';

/** A setting of the function is missing or wrong. The message names every one, with what it must be. */
export class EnvironmentError extends Error {
  override readonly name = 'EnvironmentError';
}

/** Reads the settings once, at the start, into a frozen object. */
export function readEnvironment<T extends z.ZodRawShape>(
  shape: T,
  environment: Record<string, string | undefined> = process.env,
): Readonly<z.infer<z.ZodObject<T>>> {
  const parsed = z.object(shape).safeParse(environment);
  if (parsed.success) return Object.freeze(parsed.data);
  const faults = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  throw new EnvironmentError(`wrong settings: ${faults.join('; ')}`);
}

const nonEmpty = z.string().min(1);

/** A JSON document in one variable. */
export function json<T extends z.ZodType>(schema: T) {
  return z
    .string()
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        context.addIssue({ code: 'custom', message: 'is not JSON' });
        return z.NEVER;
      }
    })
    .pipe(schema);
}

export const flag = z.enum(['true', 'false']).transform((text) => text === 'true');

/** Settings that every function has. */
export const common = { TABLE_NAME: nonEmpty, AWS_REGION: nonEmpty };

/** Settings that every queue-driven function has. */
export const queueDriven = { ...common, BUS_NAME: nonEmpty, REJECTED_QUEUE_URL: z.url() };

// `abort`: what is no URL must not reach the refinement, which would throw in place of naming the variable.
export const apiOrigin = z.url({ abort: true }).refine((url) => new URL(url).origin === url, {
  error: 'must be scheme and host alone, like https://api.example.com',
});

/** Settings of every function that answers signed requests of agents. */
export const agentApi = { API_ORIGIN: apiOrigin, CALLER_IDENTITY: z.enum(['iam', 'embedded']) };

export const diskKeyId = z.string().startsWith('arn:');
