import { type Item, item } from './measuring.ts';

interface EvidenceReport {
  readonly bar?: { readonly cachedCpuMsP99?: number };
  readonly bareP384?: { readonly cpuMsP50: number };
  readonly formats?: Record<
    string,
    Record<'cold' | 'cached', { readonly cpuMsP50: number; readonly cpuMsP99: number; readonly perSecond: number }>
  >;
}

/** What bench/evidence.ts prints, as items beside those of the other parts. */
export function itemsOfEvidence(result: Record<string, unknown>): readonly Item[] {
  const { bar, bareP384, formats = {} } = result as EvidenceReport;
  const max = bar?.cachedCpuMsP99 ?? 10;
  return Object.entries(formats).flatMap(([format, { cold, cached }]) => [
    item(`evidence.${format}.cached.p99`, cached.cpuMsP99, 'ms CPU', { bar: { of: 'value', max } }),
    item(`evidence.${format}.cached.p50`, cached.cpuMsP50, 'ms CPU', {
      ...(bareP384 ? { other: { name: 'one bare OpenSSL P-384 verification', value: bareP384.cpuMsP50 } } : {}),
    }),
    item(`evidence.${format}.cold.p99`, cold.cpuMsP99, 'ms CPU'),
    item(`evidence.${format}.cached.rate`, cached.perSecond, 'verifications/s'),
  ]);
}
