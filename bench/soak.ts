/**
 * A soak of VMs from launch to termination with faults all along: calls that are throttled, fail, lose their answer,
 * show what was before or take long, workers that die, messages that get lost or come twice. After each wave one
 * sweep must have put everything right; after all of them memory must be what it was.
 *
 * Functions, cloud and table are one process, and what is over is taken out of cloud and table: what grows here
 * grows in the functions, or in the fakes, which is as bad.
 *
 *   node bench/soak.ts [launches]
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as fc from 'fast-check';
import { luck, pick } from '../test/histories/commands.ts';
import { History, newTally } from '../test/histories/history.ts';
import { profileOf } from '../test/histories/oracle.ts';
import { withoutWaiting } from '../test/histories/turns.ts';
import { QUEUES } from '../test/world/world.ts';
import { silenceLogs } from './function-call.ts';
import { item, median, print, say } from './measuring.ts';

const LAUNCHES = Number(process.argv[2] ?? 10_000);
const WAVE = 50;
const MB = 2 ** 20;
const BAR_FLAT = 1.15;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const logs = silenceLogs();
withoutWaiting();

const tally = newTally();
const history = new History('enforce', true, tally);
const memory: { readonly heap: number; readonly rss: number }[] = [];
const ended = { workload: 0, quarantine: 0, probation: 0 };
const cpu = process.cpuUsage();
let lostMessages = 0;
let doubled = 0;
for (let wave = 0; wave < LAUNCHES / WAVE; wave++) {
  await soak(wave);
  collect();
  const { heapUsed, rss } = process.memoryUsage();
  memory.push({ heap: heapUsed, rss });
  if ((wave + 1) % 20 === 0) say(`${(wave + 1) * WAVE} of ${LAUNCHES}, heap ${Math.round(heapUsed / MB)} MB`);
}
const { user, system } = process.cpuUsage(cpu);
logs.restore();

const quarter = Math.max(1, Math.floor(memory.length / 4));
const flat = (name: 'heap' | 'rss') => {
  const values = memory.map((m) => m[name] / MB);
  return item(`soak.${name}`, median(values.slice(-quarter)), 'MB', {
    other: { name: 'second quarter of the same soak', value: median(values.slice(quarter, 2 * quarter)) },
    bar: { of: 'ratio', max: BAR_FLAT },
  });
};
print({
  items: [
    item('soak.launches', LAUNCHES, 'VMs'),
    item('soak.cpu', (user + system) / 1000 / LAUNCHES, 'ms CPU a VM, with the cloud'),
    flat('heap'),
    flat('rss'),
    item(
      'soak.faults',
      Object.values(tally.faults).reduce((a, b) => a + b, 0),
      'calls',
    ),
    item('soak.deaths', tally.deaths, 'workers killed'),
    item('soak.lost-messages', lostMessages, 'messages'),
    item('soak.doubled-messages', doubled, 'messages'),
  ],
  ended,
  tally,
});

/** VMs from launch to termination. Throws the first violation of an invariant. */
async function soak(seed: number): Promise<void> {
  let draws = 0;
  const sample = <T>(arbitrary: fc.Arbitrary<T>): T =>
    fc.sample(arbitrary, { seed: seed * 1_000_003 + draws++, numRuns: 1 })[0] as T;
  const chance = (share: number) => sample(fc.noBias(fc.nat({ max: 999 }))) < share * 1000;
  const { world } = history;
  const busy = () => QUEUES.some((name) => (world.queues.get(name) ?? []).length > 0);
  const disturbed = async () => {
    for (let turns = 0; busy() && turns < 400; turns++) {
      const at = sample(fc.nat({ max: 7 }));
      const what = sample(fc.noBias(fc.nat({ max: 99 })));
      if (what < 2) {
        history.lose(at, at);
        lostMessages++;
      } else if (what < 4) {
        history.duplicate(at, at);
        doubled++;
      }
      await history.deliver({ ...sample(pick), count: 10 }, sample(luck));
      world.advance(1);
    }
  };

  const vms = Array.from({ length: WAVE }, () => history.launch());
  for (const vm of vms) history.tell(chance(0.05) ? 0 : 1, () => world.stateChange(vm));
  await disturbed();
  await history.settle();
  for (const vm of vms) history.report(vm, 'good');
  await disturbed();
  for (const vm of vms) if (chance(0.2)) history.report(vm, 'contradicting');
  await disturbed();
  await history.sweep(sample(luck));
  await disturbed();
  await history.settle();
  for (const vm of vms) ended[profileOf(world.rows, vm.id, world.now())]++;
  for (const vm of vms) {
    vm.state = 'terminated';
    vm.interfaces = [];
    vm.volumes = [];
    history.tell(chance(0.05) ? 0 : 1, () => world.stateChange(vm));
  }
  await disturbed();
  await history.settle();
  history.forgetTerminated();
}
