/**
 * Bursts of 1,000 to 10,000 launches through the functions' own handlers: is anything lost, does memory stay
 * flat, does the time stay linear? The cloud that they meet is another process, so that CPU and memory here
 * are the functions' alone.
 *
 *   node bench/burst.ts [largest]
 */
import { synthesize } from './deployed.ts';
import { silenceLogs } from './function-call.ts';
import { type Item, item, median, print, say } from './measuring.ts';
import { type Burst, burst, lost } from './pipeline.ts';

const LARGEST = Number(process.argv[2] ?? 10_000);
const SIZES = [LARGEST / 10, LARGEST / 5, LARGEST / 2, LARGEST];
const SAMPLES = 40;
/** Invocations of a launch, by what was seen: it only spaces the samples. */
const INVOCATIONS_PER_VM = 0.5;
const MB = 2 ** 20;
/** time ~ N^e: 1 is linear. */
const BAR_EXPONENT = 1.1;
const BAR_FLAT = 1.15;

const logs = silenceLogs();
const { functions, remove } = await synthesize();
remove();
await burst(functions, 200, 'states'); // warm: compiled once, as in a function that lives
const results: { readonly count: number; readonly result: Burst }[] = [];
for (const count of SIZES) {
  const result = await burst(functions, count, 'states', {
    memoryEvery: Math.max(1, Math.round((count * INVOCATIONS_PER_VM) / SAMPLES)),
  });
  results.push({ count, result });
  say(
    `${count}: ${(result.wallMs / 1000).toFixed(1)} s, ${(result.cpuMs / count).toFixed(2)} ms CPU a VM, lost: ${lost(result, count).join(', ') || 'nothing'}`,
  );
}
logs.restore();

const items: Item[] = [];
const largest = results.at(-1);
const first = results[0];
if (!largest || !first) throw new Error('no burst');
items.push(
  item('burst.lost', lost(largest.result, largest.count).length, 'kinds', { bar: { of: 'value', max: 0 } }),
);
for (const [name, key] of [
  ['cpu', 'cpuMs'],
  ['wall', 'wallMs'],
] as const) {
  items.push(
    item(
      `burst.${name}-exponent`,
      slope(results.map(({ count, result }) => [count, result[key]])),
      'log ms / log VMs',
      {
        bar: { of: 'value', max: BAR_EXPONENT },
      },
    ),
    item(`burst.${name}-per-vm`, largest.result[key] / largest.count, 'ms', {
      other: { name: `at ${first.count} launches`, value: first.result[key] / first.count },
    }),
  );
}
for (const [name, key] of [
  ['heap', 'heap'],
  ['rss', 'rss'],
] as const) {
  const samples = largest.result.memory.map((m) => m[key] / MB);
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  items.push(
    item(`burst.${name}`, median(samples.slice(-quarter)), 'MB', {
      other: { name: 'second quarter of the same burst', value: median(samples.slice(quarter, 2 * quarter)) },
      bar: { of: 'ratio', max: BAR_FLAT },
    }),
  );
}
print({
  items,
  bursts: results.map(({ count, result }) => ({
    count,
    cpuMs: Math.round(result.cpuMs),
    wallMs: Math.round(result.wallMs),
    invocations: result.invocations,
    returned: result.returned,
    lost: lost(result, count),
    heapMb: result.memory.map((m) => Math.round(m.heap / MB)),
    rssMb: result.memory.map((m) => Math.round(m.rss / MB)),
  })),
});

/** Least squares through the logarithms. */
function slope(points: readonly (readonly [number, number])[]): number {
  const logsOf = points.map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const mean = (of: (p: readonly [number, number]) => number) =>
    logsOf.reduce((sum, p) => sum + of(p), 0) / logsOf.length;
  const [mx, my] = [mean(([x]) => x), mean(([, y]) => y)];
  const top = logsOf.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  const bottom = logsOf.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
  return top / bottom;
}
