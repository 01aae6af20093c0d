import { parse as parseYaml } from 'yaml';
import * as z from 'zod';
import {
  defaultPolicies,
  type EvidencePolicies,
  PolicyFileError,
  parsePolicyFile,
} from '../../lib/domain/evidence/policy-file.ts';
import { type Shell, UsageError } from './shell.ts';

const instant = z.union([z.iso.datetime({ offset: true }), z.iso.date()]);

/** A time with its zone, or a date, which is its first moment in UTC. */
export function parseTime(text: string): Date {
  const parsed = instant.safeParse(text);
  const time = new Date(parsed.success ? parsed.data : Number.NaN);
  if (Number.isNaN(time.getTime())) throw new UsageError(`--at: ${text} is no ISO 8601 time with a zone`);
  return time;
}

export function parseHex(
  option: string,
  text: string | undefined,
  lengthBytes?: number,
): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const digits = text.replace(/^0x/, '');
  if (!/^(?:[0-9a-fA-F]{2})*$/.test(digits)) throw new UsageError(`${option}: not hex`);
  const bytes = Buffer.from(digits, 'hex');
  if (lengthBytes !== undefined && bytes.length !== lengthBytes) {
    throw new UsageError(`${option}: ${bytes.length} bytes, it has ${lengthBytes}`);
  }
  return bytes;
}

/** Reads a policy file in YAML, of which JSON is a part; without one the defaults hold. */
export async function readPolicies(path: string | undefined, shell: Shell): Promise<EvidencePolicies> {
  if (path === undefined) return defaultPolicies;
  const text = new TextDecoder().decode(await shell.read(path));
  let value: unknown;
  try {
    value = parseYaml(text, { strict: true, uniqueKeys: true, maxAliasCount: 0, schema: 'core' });
  } catch (cause) {
    const [line] = cause instanceof Error ? cause.message.split('\n', 1) : [];
    throw new UsageError(`${path}: ${line}`, { cause });
  }
  try {
    return parsePolicyFile(value);
  } catch (cause) {
    if (!(cause instanceof PolicyFileError)) throw cause;
    throw new UsageError(`${path}: ${cause.message}`, { cause });
  }
}
