/**
 * AWS calls of each VM, by function and API, for 1, 100 and 1,000 launches, through clients in this process,
 * with the batch sizes and concurrency of the deployed stack; and the calls of a burst against the bars.
 */
import type { Telling } from './cloud.ts';
import { synthesize } from './deployed.ts';
import { silenceLogs } from './function-call.ts';
import { type Item, item, print, say, significant } from './measuring.ts';
import { type Burst, burst, lost } from './pipeline.ts';

const LAUNCHES = [1, 100, 1_000] as const;
const ISSUE_KMS_CALLS = 1;

const describes = ({ calls }: Burst, of: (name: string) => boolean = () => true) =>
  [...calls]
    .filter(([name]) => / Describe/.test(name) && of(name))
    .reduce((sum, [, count]) => sum + count, 0);
const kmsCalls = ({ calls }: Burst) =>
  [...calls].filter(([name]) => / GenerateDataKey/.test(name)).reduce((sum, [, count]) => sum + count, 0);

const logs = silenceLogs();
const items: Item[] = [];
const byApi: Record<string, Record<string, number>> = {};
const { functions, remove } = await synthesize();
remove();
for (const telling of ['states', 'everything'] as const satisfies readonly Telling[]) {
  for (const count of LAUNCHES) {
    const result = await burst(functions, count, telling);
    const missing = lost(result, count);
    if (missing.length > 0) throw new Error(`${count} launches: ${missing.join(', ')}`);
    const total = [...result.calls.values()].reduce((sum, n) => sum + n, 0);
    const name = `calls.${telling}.${count}`;
    items.push(item(`${name}.per-vm`, total / count, 'calls'));
    byApi[name] = Object.fromEntries(
      [...result.calls].sort().map(([api, n]) => [api, significant(n / count)]),
    );
    const allowed = count / 50 + 2;
    const against = {
      other: { name: 'N/50 + 2', value: allowed },
      ...(count > 1 ? { bar: { of: 'ratio', max: 1 } as const } : {}),
    };
    items.push(
      item(
        `${name}.describe.observe-vm`,
        describes(result, (api) => api.startsWith('observe-vm')),
        'calls',
        against,
      ),
      item(`${name}.describe.all`, describes(result), 'calls', against),
      item(`${name}.kms-per-disk`, kmsCalls(result) / count, 'calls', {
        bar: { of: 'value', max: ISSUE_KMS_CALLS },
      }),
    );
    say(`${name}: ${(total / count).toFixed(2)} calls a VM, ${describes(result)} Describe calls in all`);
  }
}
logs.restore();
print({
  items,
  callsPerVm: byApi,
  batches: Object.fromEntries(
    functions
      .filter((fn) => fn.batchSize)
      .map((fn) => [fn.name, { batchSize: fn.batchSize, maxConcurrency: fn.maxConcurrency }]),
  ),
});
