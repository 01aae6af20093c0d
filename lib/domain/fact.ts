import * as z from 'zod';

/** Stable, dotted fact id: `mem.sev-snp.guest`, `virt.vmx.advertised`. */
export const factId = z
  .string()
  .max(64)
  .regex(/^[a-z0-9]+([.-][a-z0-9]+)*$/);

/** Text that the table and Cedar can hold: no half of a surrogate pair, which JSON can spell out. */
const text = z
  .string()
  .max(1024)
  .refine((s) => s.isWellFormed(), { error: 'half of a surrogate pair' });

export const factState = z.enum(['present', 'absent', 'unknown']);
export type FactState = z.infer<typeof factState>;

/**
 * One fact as the probe reports it. `unknown` always says why (`reason`) and is never read as `absent`.
 * `evidence` names the leaf, register and bit, the MSR, or the file that the state was read from.
 */
export const factSchema = z.strictObject({
  id: factId,
  state: factState,
  value: z.union([text, z.number().int(), z.boolean()]).optional(),
  reason: text.optional(),
  evidence: text,
  hint: text.optional(),
});
export type Fact = z.infer<typeof factSchema>;

/**
 * Who says so: the guest's own CPUID and files (`claimed`), EC2's API (`asserted`), or signed evidence
 * (`attested`). The order is the order of trust.
 */
export type FactSource = 'claimed' | 'asserted' | 'attested';

/** A fact as policy sees it: always there, with its state and its source. */
export interface SourcedFact {
  readonly state: FactState;
  readonly source: FactSource;
  readonly value?: string | number | boolean | undefined;
}

/** The machine in short; null where it could not be told. */
export const probeMachine = z.strictObject({
  architecture: z.string(),
  /** Where the CPUID leaves come from: `none` on a processor that has no CPUID. */
  cpuid: z.enum(['processor', 'recording', 'none']),
  /** Where files come from: `none` when only a recorded CPUID was given. */
  files: z.enum(['system', 'recording', 'none']),
  vendor: z.string().nullable(),
  brand: z.string().nullable(),
  signature: z.string().nullable(),
  family: z.number().int().nullable(),
  model: z.number().int().nullable(),
  stepping: z.number().int().nullable(),
  maxLeaf: z.string().nullable(),
  maxExtendedLeaf: z.string().nullable(),
  hypervisor: z.string().nullable(),
  kernel: z.string().nullable(),
});

/** What `casemate-probe --json` prints and the addon returns. */
export const probeResult = z.strictObject({
  schema: z.literal('casemate-probe/1'),
  machine: probeMachine,
  facts: z.array(factSchema).max(512),
});
export type ProbeResult = z.infer<typeof probeResult>;
