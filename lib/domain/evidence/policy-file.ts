import * as z from 'zod';
import type { IdentityPolicy } from './identity/policy.ts';
import { defaultNitroPolicy, type NitroPolicy } from './nitro/index.ts';
import { defaultSnpPolicy, type SnpPolicy } from './snp/index.ts';
import { defaultTdxPolicy, type TdxPolicy } from './tdx/index.ts';
import { defaultTpmPolicy, type TpmPolicy } from './tpm/index.ts';

/** What is demanded of evidence, by format. */
export interface EvidencePolicies {
  readonly snp: SnpPolicy;
  readonly nitro: NitroPolicy;
  readonly tdx: TdxPolicy;
  readonly tpm: TpmPolicy;
  readonly identity: IdentityPolicy;
}

export const defaultPolicies: EvidencePolicies = {
  snp: defaultSnpPolicy,
  nitro: defaultNitroPolicy,
  tdx: defaultTdxPolicy,
  tpm: defaultTpmPolicy,
  identity: {},
};

const digestOf = (...lengths: number[]) =>
  z
    .string()
    .regex(/^(?:[0-9a-fA-F]{2})+$/, 'is not hex')
    .transform((text) => new Uint8Array(Buffer.from(text, 'hex')))
    .refine((bytes) => lengths.includes(bytes.length), `has not ${lengths.join(' or ')} bytes`);

const instant = z.iso.datetime({ offset: true }).transform((text) => new Date(text));

const generations = (register: RegExp, ...lengths: number[]) =>
  z
    .array(
      z
        .strictObject({
          name: z.string().min(1).max(64),
          from: instant.optional(),
          until: instant.optional(),
          measurements: z
            .record(z.string().regex(register, 'is no register of this format'), digestOf(...lengths))
            .refine((named) => Object.keys(named).length > 0, 'pins nothing'),
        })
        .refine(({ from, until }) => !from || !until || from < until, 'ends before it starts'),
    )
    .max(64);

const level = z.int().min(0).max(255);
const region = z.string().regex(/^[a-z]{2,}(?:-[a-z]+)+-\d+$/, 'is no AWS Region');

const snp = z.strictObject({
  allowDebug: z.boolean().optional(),
  allowMigrationAgent: z.boolean().optional(),
  allowSmt: z.boolean().optional(),
  requireAliasCheck: z.boolean().optional(),
  vmpl: z.array(z.int().min(0).max(3)).min(1).optional(),
  keys: z
    .array(z.enum(['VCEK', 'VLEK']))
    .min(1)
    .optional(),
  region: region.optional(),
  minimumTcb: z
    .record(
      z.string().regex(/^(?:Milan|Genoa|Turin|[0-9a-f]{2}\/[0-9a-f]{2})$/, 'is no product or family/model'),
      z.strictObject({
        fmc: level.optional(),
        bootloader: level.optional(),
        tee: level.optional(),
        snp: level.optional(),
        microcode: level.optional(),
      }),
    )
    .optional(),
  minimumGuestSvn: z.int().min(0).optional(),
  requireRevocationList: z.boolean().optional(),
  generations: generations(/^measurement$/, 48).optional(),
});

const nitro = z.strictObject({
  kinds: z
    .array(z.enum(['enclave', 'nitrotpm']))
    .min(1)
    .optional(),
  maxAgeSeconds: z.number().positive().optional(),
  region: region.optional(),
  allowDebug: z.boolean().optional(),
  generations: generations(/^PCR(?:\d|[12]\d|3[01])$/, 48).optional(),
});

const tdx = z.strictObject({
  allowDebug: z.boolean().optional(),
  allowMigratable: z.boolean().optional(),
  requireCollateral: z.boolean().optional(),
  tcbStatuses: z
    .array(z.enum(['UpToDate', 'SWHardeningNeeded']))
    .min(1)
    .optional(),
  serviceTd: digestOf(48).optional(),
  generations: generations(/^(?:MRTD|RTMR[0-3])$/, 48).optional(),
});

const tpm = z.strictObject({
  banks: z
    .array(z.enum(['sha256', 'sha384', 'sha512']))
    .min(1)
    .optional(),
  pcrs: z.array(z.int().min(0).max(23)).min(1).optional(),
  generations: generations(/^PCR(?:\d|1\d|2[0-3])$/, 32, 48, 64).optional(),
});

const identity = z.strictObject({
  region: region.optional(),
  accountId: z
    .string()
    .regex(/^\d{12}$/, 'is no AWS account')
    .optional(),
  instanceId: z
    .string()
    .regex(/^i-[0-9a-f]{8,17}$/, 'is no instance')
    .optional(),
});

/** A policy file: only what differs from the defaults; a name that nobody knows is an error. */
export const policyFileSchema = z.strictObject({
  snp: snp.optional(),
  nitro: nitro.optional(),
  tdx: tdx.optional(),
  tpm: tpm.optional(),
  identity: identity.optional(),
});

/** One line for each thing that is wrong. */
export class PolicyFileError extends Error {
  constructor(problems: readonly string[]) {
    super(problems.join('; '));
    this.name = 'PolicyFileError';
  }
}

/** The policies that a parsed JSON or YAML value describes, over the defaults. Throws PolicyFileError. */
export function parsePolicyFile(value: unknown): EvidencePolicies {
  const parsed = policyFileSchema.safeParse(value);
  if (!parsed.success) {
    throw new PolicyFileError(
      parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`),
    );
  }
  const file = parsed.data;
  return {
    snp: {
      ...over(defaultSnpPolicy, file.snp),
      // A minimum for one product leaves the others' in place.
      minimumTcb: { ...defaultSnpPolicy.minimumTcb, ...minimums(file.snp?.minimumTcb) },
    },
    nitro: over(defaultNitroPolicy, file.nitro),
    tdx: over(defaultTdxPolicy, file.tdx),
    tpm: over(defaultTpmPolicy, file.tpm),
    identity: file.identity ?? {},
  };
}

type Minimums = NonNullable<NonNullable<z.infer<typeof policyFileSchema>['snp']>['minimumTcb']>;

function minimums(file: Minimums | undefined): SnpPolicy['minimumTcb'] {
  return Object.fromEntries(Object.entries(file ?? {}).map(([name, tcb]) => [name, stated(tcb)]));
}

/** The defaults, with what the file states in their place. */
function over<Policy extends object>(defaults: Policy, file: Given<Policy> | undefined): Policy {
  return { ...defaults, ...stated(file ?? {}) };
}

type Given<Policy> = { readonly [Name in keyof Policy]?: unknown };

type Stated<T> = { [Name in keyof T]: Exclude<T[Name], undefined> };

function stated<T extends object>(values: T): Partial<Stated<T>> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<
    Stated<T>
  >;
}
