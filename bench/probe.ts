/**
 * The probe beside the tools that people use today, in one run on this machine, alternating. Prints one JSON object:
 * medians, ratios, and the bars of the design. A tool that is not here is skipped, with the reason.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { nativeAddon, probe } from '../agent/probe.ts';

const native = fileURLToPath(new URL('../native', import.meta.url));
const program = `${native}/build/casemate-probe`;
const rounds = Number(process.env['BENCH_ROUNDS'] ?? 15);

const commands: Record<string, { command: string[]; runs: number }> = {
  'casemate-probe --json': { command: [program, '--json'], runs: 40 },
  'cpuid -1': { command: ['cpuid', '-1'], runs: 40 },
  'lscpu -J': { command: ['lscpu', '-J'], runs: 10 },
  'virt-host-validate qemu': { command: ['virt-host-validate', 'qemu'], runs: 10 },
  'systemd-detect-virt': { command: ['systemd-detect-virt'], runs: 40 },
};

const median = (values: number[]) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
const round = (value: number, digits = 2) => Number(value.toFixed(digits));
const isHere = (name: string) =>
  spawnSync('sh', ['-c', 'command -v "$0"', name], { stdio: 'ignore' }).status === 0;

/** Milliseconds a run, from a loop in one shell: starting a child from Node takes longer than the program does. */
function timeLoop(command: string[], runs: number): number {
  const script = 'n=$1; shift; while [ "$n" -gt 0 ]; do "$@" > /dev/null 2>&1; n=$((n-1)); done';
  const start = process.hrtime.bigint();
  spawnSync('sh', ['-c', script, 'sh', String(runs), ...command], { stdio: 'ignore' });
  return Number(process.hrtime.bigint() - start) / 1e6 / runs;
}

function wholeProcess() {
  const present = Object.entries(commands).filter(([, { command }]) => isHere(command[0] ?? ''));
  const times = new Map<string, number[]>(present.map(([name]) => [name, []]));
  for (const [, { command }] of present) timeLoop(command, 2);
  for (let i = 0; i < rounds; i++) {
    for (const [name, { command, runs }] of present) times.get(name)?.push(timeLoop(command, runs));
  }
  const ours = times.get('casemate-probe --json') ?? [];
  return Object.fromEntries(
    Object.keys(commands).map((name) => {
      const theirs = times.get(name);
      if (theirs === undefined) return [name, { skipped: `${name.split(' ')[0]} is not installed` }];
      // A ratio for each round, so that what else the machine did in it weighs on both sides.
      const ratios = theirs.map((time, index) => time / (ours[index] ?? Number.NaN));
      return [name, { millisecondsMedian: round(median(theirs), 3), timesOurs: round(median(ratios)) }];
    }),
  );
}

function addonCall() {
  const { probe: call } = nativeAddon();
  const sample = (body: () => void, count: number) => {
    for (let i = 0; i < 200; i++) body();
    const times: number[] = [];
    for (let i = 0; i < count; i++) {
      const start = process.hrtime.bigint();
      body();
      times.push(Number(process.hrtime.bigint() - start) / 1e3);
    }
    return times.toSorted((a, b) => a - b);
  };
  const times = sample(() => void call({}), 2000);
  const parsed = sample(() => void probe(), 1000);
  // Growth: the resident set after ten thousand more calls, a collection before each look.
  const collect = globalThis.gc ?? (() => {});
  collect();
  const before = process.memoryUsage.rss();
  for (let i = 0; i < 10_000; i++) call({});
  collect();
  return {
    microseconds: {
      p50: round(median(times), 1),
      min: round(times[0] ?? Number.NaN, 1),
      p90: round(times[Math.floor(times.length * 0.9)] ?? Number.NaN, 1),
    },
    withSchemaMicroseconds: { p50: round(median(parsed), 1) },
    residentGrowthKilobytesIn10000Calls: Math.round((process.memoryUsage.rss() - before) / 1024),
  };
}

function peakResident() {
  if (!isHere('/usr/bin/time')) return { skipped: '/usr/bin/time (GNU time) is not installed' };
  const { stderr } = spawnSync('/usr/bin/time', ['-f', '%M', program, '--json'], { encoding: 'utf8' });
  return { kilobytes: Number(stderr.trim()) };
}

function binarySizes() {
  const names = ['casemate-probe', 'casemate.node'];
  execFileSync('make', ['-s', '-C', native, ...names.map((name) => `build/${name}.stripped`)]);
  return Object.fromEntries(
    names.map((name) => [`${name} (stripped)`, statSync(`${native}/build/${name}.stripped`).size]),
  );
}

execFileSync('make', ['-s', '-C', native, 'probe', 'addon'], { stdio: ['ignore', 'ignore', 'inherit'] });
const processes = wholeProcess();
const addon = addonCall();
const ratio = (name: string) => {
  const entry = processes[name];
  return entry !== undefined && 'timesOurs' in entry ? entry.timesOurs : undefined;
};
const held = (name: string, least: number) => {
  const value = ratio(name);
  return value === undefined
    ? { bar: `>= ${least}`, skipped: `${name} did not run` }
    : { bar: `>= ${least}`, value, holds: value >= least };
};
console.log(
  JSON.stringify(
    {
      benchmark: 'probe',
      processor: probe().machine.brand,
      load: readFileSync('/proc/loadavg', 'utf8').split(' ')[0],
      rounds,
      wholeProcess: processes,
      addon,
      peakResident: peakResident(),
      bytes: binarySizes(),
      bars: {
        'cpuid -1, times ours': held('cpuid -1', 1),
        'virt-host-validate qemu, times ours': held('virt-host-validate qemu', 10),
        'addon call, microseconds': {
          bar: '<= 200',
          value: addon.microseconds.p50,
          holds: addon.microseconds.p50 <= 200,
        },
      },
    },
    null,
    2,
  ),
);
