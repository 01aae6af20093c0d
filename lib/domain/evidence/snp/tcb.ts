/** Names of AMD's server products that have a public chain of certificates. */
export type Product = 'Milan' | 'Genoa' | 'Turin';

/** Security patch levels; `fmc` exists from Turin on. */
export interface Tcb {
  readonly fmc?: number;
  readonly bootloader: number;
  readonly tee: number;
  readonly snp: number;
  readonly microcode: number;
}

/**
 * TCB_VERSION, whose layout depends on the product (56860, "TCB_VERSION Structure"): Turin put FMC first and moved the
 * rest.
 */
export function readTcb(bytes: Uint8Array, product: Product): Tcb {
  const [b0 = 0, b1 = 0, b2 = 0, b3 = 0, , , b6 = 0, b7 = 0] = bytes;
  return product === 'Turin'
    ? { fmc: b0, bootloader: b1, tee: b2, snp: b3, microcode: b7 }
    : { bootloader: b0, tee: b1, snp: b6, microcode: b7 };
}

const components = ['fmc', 'bootloader', 'tee', 'snp', 'microcode'] as const;

/**
 * The components of `tcb` that are below `minimum`. Each is compared on its own: as one number, a high
 * microcode would hide an old boot loader.
 */
export function componentsBelow(tcb: Tcb, minimum: Partial<Tcb>): readonly string[] {
  return components.flatMap((name) => {
    const least = minimum[name];
    const actual = tcb[name];
    if (least === undefined || (actual !== undefined && actual >= least)) return [];
    return [`${name} ${actual ?? 'missing'} < ${least}`];
  });
}

/** Product of a combined CPUID family and model (57230, table of products; AMD KDS names). */
export function productOf({ family, model }: { family: number; model: number }): Product | undefined {
  if (family === 0x19 && model <= 0x0f) return 'Milan';
  if (family === 0x19 && ((model >= 0x10 && model <= 0x1f) || (model >= 0xa0 && model <= 0xaf)))
    return 'Genoa';
  if (family === 0x1a && model <= 0x11) return 'Turin';
  return undefined;
}
