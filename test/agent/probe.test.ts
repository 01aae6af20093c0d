import { beforeAll, expect, test } from '@jest/globals';
import { ProbeError, probe } from '../../agent/probe.ts';
import { probeResult } from '../../lib/domain/fact.ts';
import { machines, make, run } from '../native/native.ts';

beforeAll(() => make('probe', 'addon'));

test('looks at this machine and gives every fact', () => {
  const result = probe();
  expect(result.machine).toMatchObject({ files: 'system' });
  expect(result.facts.length).toBeGreaterThan(100);
});

test('looks at a recorded machine', () => {
  const { machine } = probe({ root: `${machines}/qemu-tcg-epyc` });
  expect(machine).toMatchObject({ cpuid: 'recording', files: 'recording', brand: 'AMD EPYC Processor' });
});

test('a recording does not leak into the next look at this machine', () => {
  const before = probe().machine;
  probe({ cpuidFile: `${machines}/qemu-tcg-icelake-server/cpuid.txt` });
  expect(probe().machine).toEqual(before);
});

test('a recording that cannot be read throws a ProbeError with code, file and line', () => {
  const file = `${machines}/SOURCES.md`;
  expect(() => probe({ cpuidFile: file })).toThrow(ProbeError);
  try {
    probe({ cpuidFile: file });
  } catch (error) {
    expect(error).toMatchObject({
      code: 'CASEMATE_PROBE_RECORDING',
      message: expect.stringMatching(/SOURCES\.md:\d+: /),
    });
  }
});

test.each([[{ root: '' }], [{ root: 7 }], [{ cpuidFile: 'a\0b' }], [{ cpuidFile: 'x'.repeat(5000) }]])(
  'refuses options that are no paths: %j',
  (options) => {
    expect(() => probe(options as never)).toThrow(expect.objectContaining({ code: 'CASEMATE_PROBE_USAGE' }));
  },
);

test('a thousand looks leave no descriptor open', async () => {
  const { readdirSync } = await import('node:fs');
  probe();
  const before = readdirSync('/proc/self/fd').length;
  for (let i = 0; i < 1000; i++) probe({ root: `${machines}/qemu-tcg-epyc` });
  expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
});

test('the schema takes what the program prints and nothing beside it', () => {
  const printed = JSON.parse(run(['--json', '--root', `${machines}/epyc-milan-snp-guest`]).stdout);
  expect(probeResult.safeParse(printed).success).toBe(true);
  expect(probeResult.safeParse({ ...printed, more: 1 }).success).toBe(false);
  expect(probeResult.safeParse({ ...printed, schema: 'casemate-probe/2' }).success).toBe(false);
});
