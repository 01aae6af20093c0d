import { type Item, item } from './measuring.ts';

/** What bench/evidence.ts prints. */
interface EvidenceReport {
  readonly bar?: { readonly cachedCpuMsP99?: number };
  readonly bareP384?: { readonly cpuMsP50: number };
  readonly formats?: Readonly<Record<string, Readonly<Record<'cold' | 'cached', EvidenceTimes>>>>;
}

interface EvidenceTimes {
  readonly cpuMsP50: number;
  readonly cpuMsP99: number;
  readonly perSecond: number;
}

/** What bench/evidence.ts prints, as items beside those of the other parts. */
export function itemsOfEvidence(result: object): readonly Item[] {
  const { bar, bareP384, formats = {} } = result as EvidenceReport;
  const max = bar?.cachedCpuMsP99 ?? 10;
  const other = bareP384 && { name: 'one bare OpenSSL P-384 verification', value: bareP384.cpuMsP50 };
  return Object.entries(formats).flatMap(([format, { cold, cached }]) => [
    item(`evidence.${format}.cached.p99`, cached.cpuMsP99, 'ms CPU', { bar: { of: 'value', max } }),
    item(`evidence.${format}.cached.p50`, cached.cpuMsP50, 'ms CPU', other ? { other } : {}),
    item(`evidence.${format}.cold.p99`, cold.cpuMsP99, 'ms CPU'),
    item(`evidence.${format}.cached.rate`, cached.perSecond, 'verifications/s'),
  ]);
}

/** What bench/probe.ts prints. */
interface ProbeReport {
  readonly wholeProcess?: Readonly<
    Record<string, { readonly millisecondsMedian?: number; readonly timesOurs?: number }>
  >;
  readonly addon?: {
    readonly microseconds: { readonly p50: number };
    readonly residentGrowthKilobytesIn10000Calls: number;
  };
  readonly peakResident?: { readonly kilobytes?: number };
  readonly bytes?: Readonly<Record<string, number>>;
}

const PROBE = 'casemate-probe --json';
/** As a part of the other tool's time; the design's words are "not slower" and "10× faster". */
const PROBE_BARS: Readonly<Record<string, number>> = { 'cpuid -1': 1, 'virt-host-validate qemu': 0.1 };

/** What bench/probe.ts prints, as items. Its ratios are medians of ratios a round, so they are kept as they are. */
export function itemsOfProbe(result: object): readonly Item[] {
  const { wholeProcess = {}, addon, peakResident, bytes = {} } = result as ProbeReport;
  const own = wholeProcess[PROBE]?.millisecondsMedian;
  const items: Item[] = [];
  for (const [name, { millisecondsMedian, timesOurs }] of Object.entries(wholeProcess)) {
    if (name === PROBE || own === undefined || !millisecondsMedian || !timesOurs) continue;
    const max = PROBE_BARS[name];
    const ratio = Number((1 / timesOurs).toPrecision(4));
    items.push({
      ...item(`probe.process.over-${name.split(' ')[0]}`, own, 'ms', {
        other: { name, value: millisecondsMedian },
      }),
      ratio,
      bar: max === undefined ? null : { of: 'ratio', max },
      met: max === undefined ? null : ratio <= max,
    });
  }
  if (addon) {
    const { microseconds, residentGrowthKilobytesIn10000Calls: growth } = addon;
    items.push(
      item('probe.addon.p50', microseconds.p50, 'µs', { bar: { of: 'value', max: 200 } }),
      item('probe.addon.growth', growth, 'kB in 10,000 calls', { bar: { of: 'value', max: 0 } }),
    );
  }
  if (peakResident?.kilobytes) items.push(item('probe.peak-rss', peakResident.kilobytes, 'kB'));
  for (const [name, size] of Object.entries(bytes)) items.push(item(`probe.size.${name}`, size, 'bytes'));
  return items;
}
