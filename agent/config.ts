import { readFileSync } from 'node:fs';
import * as z from 'zod';
import { region, volumeId } from '../lib/domain/ids.ts';

/** The agent's configuration is missing or wrong. The message names every fault. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** HPKE and signatures do not authenticate the server: TLS does. Loopback is the embedded cloud. */
const apiUrl = z.url({ abort: true }).refine(
  (text) => {
    const url = new URL(text);
    const loopback = ['127.0.0.1', '[::1]', 'localhost'].includes(url.hostname);
    return url.protocol === 'https:' || (url.protocol === 'http:' && loopback);
  },
  { error: 'must be https (http only on loopback)' },
);

export const configSchema = z.strictObject({
  region,
  /** The API with its stage: `https://abc.execute-api.eu-west-1.amazonaws.com/v1`. Its origin is signed. */
  apiUrl,
  busName: z.string().min(1),
  /** Root-only: the agent's key, its spool, its counters. */
  stateDir: z.string().min(1).default('/var/lib/casemate'),
  metadataEndpoint: z.url().default('http://169.254.169.254'),
  reportIntervalSeconds: z.number().int().min(1).max(3600).default(300),
  /** How often hardware that can sign is asked to; well below the age at which evidence grows old. */
  evidenceIntervalSeconds: z.number().int().min(1).max(86_400).default(1800),
  /** Reports that wait while the bus is away; beyond it the oldest are dropped. */
  spoolMax: z.number().int().min(1).max(100_000).default(2000),
  /** Copies of disk headers while they are judged and opened; on a tmpfs. */
  runtimeDir: z.string().min(1).default('/run/casemate'),
  /** Below which a volume's tag may have it mounted. */
  mountPrefixes: z.array(z.string().regex(/^\/[^/]/)).default(['/mnt', '/srv', '/data', '/var/lib']),
  /**
   * Devices by volume id, where they are not found by their serial. A regular file stands for a device that this
   * machine does not map: it is formatted, and its key proven, but nothing is mounted.
   */
  devices: z.record(volumeId, z.string().min(1)).default({}),
  /** Tells the volume which sectors are free. It also tells whoever watches the volume. */
  discards: z.boolean().default(false),
  /** The TPM, unless it is the kernel's /dev/tpmrm0; false where there is one that is not this VM's. */
  tpm: z
    .union([
      z.literal(false),
      z.strictObject({
        /** As tpm2-tools name it (TCTI). */
        tcti: z.string().min(1).optional(),
        /** PCRs to quote, as tpm2_quote takes them. */
        pcrs: z
          .string()
          .regex(/^sha(?:256|384|512):\d{1,2}(?:,\d{1,2})*$/)
          .optional(),
      }),
    ])
    .optional(),
  /** A recorded machine to probe in place of this one. */
  machine: z.strictObject({ cpuidFile: z.string().optional(), root: z.string().optional() }).optional(),
});
export type AgentConfig = Readonly<z.infer<typeof configSchema>>;
/** As the file has it: what it leaves out gets its default. */
export type AgentSettings = z.input<typeof configSchema>;

/** @throws ConfigError */
export function readConfig(file: string): AgentConfig {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new ConfigError(`${file}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  const parsed = configSchema.safeParse(json);
  if (!parsed.success) {
    const faults = parsed.error.issues.map(
      (issue) => `${issue.path.join('.') || 'the document'}: ${issue.message}`,
    );
    throw new ConfigError(`${file}: ${faults.join('; ')}`);
  }
  return Object.freeze(parsed.data);
}
