/**
 * Plays histories of VMs with faults against the functions' own handlers, until one breaks an invariant or all are
 * played: test/histories says which. It goes on where it was interrupted, as long as the sources are the same.
 *
 *   node bench/histories.ts [histories] [processes]
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { holds } from '../test/histories/commands.ts';
import { newTally, type Tally } from '../test/histories/history.ts';
import { withoutWaiting } from '../test/histories/turns.ts';
import { PROJECT } from './deployed.ts';
import { item, print, say } from './measuring.ts';

/** Histories of one seed. */
const CHUNK = 500;

interface Chunk {
  readonly seed: number;
  readonly histories: number;
  readonly cpuMs: number;
  readonly tally: Tally;
  /** How to play it again, and what it broke. */
  readonly violation?: string;
}

interface Progress {
  readonly sources: string;
  readonly chunks: Chunk[];
}

if (process.send) await work();
else await lead();

/** Plays the chunks that it is sent. */
async function work(): Promise<void> {
  withoutWaiting();
  process.on('message', async (seed: number) => {
    const tally = newTally();
    const cpu = process.cpuUsage();
    const details = await fc.check(holds(tally), { seed, numRuns: CHUNK, endOnFailure: true });
    const { user, system } = process.cpuUsage(cpu);
    const chunk: Chunk = {
      seed,
      histories: details.numRuns,
      cpuMs: (user + system) / 1000,
      tally,
      ...(details.failed
        ? { violation: `seed ${seed}, path ${details.counterexamplePath}: ${String(details.errorInstance)}` }
        : {}),
    };
    process.send?.(chunk);
  });
  process.once('disconnect', () => process.exit(0));
}

async function lead(): Promise<void> {
  const wanted = Number(process.argv[2] ?? 100_000);
  const processes = Number(process.argv[3] ?? availableParallelism());
  const folder = join(PROJECT, '.local');
  const file = join(folder, 'histories.json');
  const sources = digest();
  let progress: Progress = { sources, chunks: [] };
  if (existsSync(file)) {
    const kept = JSON.parse(readFileSync(file, 'utf8')) as Progress;
    if (kept.sources === sources) progress = kept;
  }
  const played = () => progress.chunks.reduce((sum, chunk) => sum + chunk.histories, 0);
  const violations = () => progress.chunks.flatMap((chunk) => chunk.violation ?? []);
  if (played() > 0) say(`${played()} histories were played before`);
  const done = new Set(progress.chunks.map((chunk) => chunk.seed));
  const seeds = Array.from({ length: Math.ceil(wanted / CHUNK) }, (_, i) => i + 1).filter(
    (s) => !done.has(s),
  );
  mkdirSync(folder, { recursive: true });
  await Promise.all(
    Array.from({ length: Math.min(processes, seeds.length) }, async () => {
      const child = fork(fileURLToPath(import.meta.url), { execArgv: ['--no-warnings=ExperimentalWarning'] });
      const ended = new Promise<never>((_, reject) => {
        child.once('error', reject);
        child.once('exit', (code) => reject(new Error(`a process of histories ended with ${code}`)));
      });
      ended.catch(() => undefined); // seen where it is raced
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
        if (violations().length > 0) break;
        const answer = new Promise<Chunk>((resolve) => child.once('message', resolve as never));
        child.send(seed);
        progress.chunks.push(await Promise.race([answer, ended]));
        writeFileSync(file, JSON.stringify(progress));
        say(`${played()} of ${wanted}`);
      }
      child.removeAllListeners('exit');
      child.disconnect();
    }),
  );

  const sum = (of: (chunk: Chunk) => number) => progress.chunks.reduce((all, chunk) => all + of(chunk), 0);
  const per = (name: string, of: (chunk: Chunk) => number) =>
    item(`histories.${name}`, sum(of) / played(), 'a history');
  print({
    items: [
      item('histories.played', played(), 'histories'),
      item('histories.violations', violations().length, 'violations', { bar: { of: 'value', max: 0 } }),
      item('histories.cpu', sum((chunk) => chunk.cpuMs) / played(), 'ms CPU a history'),
      per('deliveries', ({ tally }) => tally.deliveries),
      per('calls', ({ tally }) => tally.calls),
      item(
        'histories.deaths',
        sum(({ tally }) => tally.deaths),
        'workers killed',
      ),
      ...(['throttled', 'unavailable', 'lost', 'stale', 'slow'] as const).map((fault) =>
        item(
          `histories.${fault}`,
          sum(({ tally }) => tally.faults[fault]),
          'calls',
        ),
      ),
    ],
    violations: violations(),
  });
}

/** What the histories are about: another version of it begins anew. */
function digest(): string {
  const hash = createHash('sha256');
  for (const folder of ['lambdas', 'lib', 'policies', 'test/histories', 'test/world']) {
    for (const name of readdirSync(join(PROJECT, folder), { recursive: true, encoding: 'utf8' }).sort()) {
      if (/\.(ts|cedar|cedarschema|json)$/.test(name))
        hash.update(name).update(readFileSync(join(PROJECT, folder, name)));
    }
  }
  return hash.digest('hex');
}
