/** What was measured: a value, beside what it was measured against in the same run. */
export interface Item {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** The named other, measured in this run; null where a value stands alone. */
  readonly other: { readonly name: string; readonly value: number } | null;
  /** value / other. */
  readonly ratio: number | null;
  readonly bar: Bar | null;
  readonly met: boolean | null;
}

/** The most that the value, or its ratio to the other, may be. */
export interface Bar {
  readonly of: 'ratio' | 'value';
  readonly max: number;
}

/** What a part prints on standard output. */
export type PartResult =
  | { readonly items: readonly Item[]; readonly [more: string]: unknown }
  | { readonly skipped: string };

export function item(
  name: string,
  value: number,
  unit: string,
  against: { readonly other?: { readonly name: string; readonly value: number }; readonly bar?: Bar } = {},
): Item {
  const { other = null, bar = null } = against;
  const ratio = other && other.value > 0 ? value / other.value : null;
  const judged = bar?.of === 'ratio' ? ratio : value;
  const met = bar === null || judged === null ? null : judged <= bar.max;
  return {
    name,
    value: significant(value),
    unit,
    other: other && { name: other.name, value: significant(other.value) },
    ratio: ratio === null ? null : significant(ratio),
    bar,
    met,
  };
}

/** Four significant digits: more is noise on any machine. */
export function significant(value: number): number {
  return Number.isInteger(value) ? value : Number(value.toPrecision(4));
}

/** The value below which `share` of the values lie (nearest rank). */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))] ?? Number.NaN;
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** CPU and wall time of a piece of work in this process, in milliseconds. */
export async function timed<T>(
  run: () => T | Promise<T>,
): Promise<{ readonly cpuMs: number; readonly wallMs: number; readonly result: T }> {
  const cpu = process.cpuUsage();
  const began = performance.now();
  const result = await run();
  const wallMs = performance.now() - began;
  const { user, system } = process.cpuUsage(cpu);
  return { cpuMs: (user + system) / 1000, wallMs, result };
}

/** Progress, on standard error: standard output belongs to the result. */
export function say(text: string): void {
  process.stderr.write(`  ${text}\n`);
}

export function print(result: PartResult): void {
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
}
