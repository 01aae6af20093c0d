/**
 * Time from an empty Node process to a function that can be called, in fresh processes that take turns.
 *
 * Three comparisons: the function as deployed beside a bare one that has the same libraries, makes the same
 * clients and instantiates Cedar's wasm; both without Cedar ("wasm apart"); and Cedar's own share.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { bareBundle, importsOf, ownBundle, withoutCedar } from './bare.ts';
import { type DeployedFunction, ENVIRONMENT, synthesize } from './deployed.ts';
import { type Item, item, median, print, say } from './measuring.ts';

const ROUNDS = 15;
const BAR = { of: 'ratio', max: 1.5 } as const;

/** Runs in the fresh process. */
const IMPORT = `
const cpu = process.cpuUsage();
const began = performance.now();
const { handler } = await import(process.argv[1]);
const wallMs = performance.now() - began;
const { user, system } = process.cpuUsage(cpu);
if (typeof handler !== 'function') throw new Error('no handler');
process.stdout.write(JSON.stringify({ wallMs, cpuMs: (user + system) / 1000 }), () => process.exit(0));
`;

interface Import {
  readonly wallMs: number;
  readonly cpuMs: number;
}

async function importOnce(bundle: URL): Promise<Import> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '-e', IMPORT, bundle.href],
    { env: { PATH: process.env['PATH'], ...ENVIRONMENT } },
  );
  return JSON.parse(stdout) as Import;
}

type Variant = 'own' | 'bare' | 'own-without-cedar' | 'bare-without-cedar';

async function variantsOf(fn: DeployedFunction): Promise<ReadonlyMap<Variant, URL>> {
  const imports = await importsOf(await ownBundle(fn.name));
  const isCedar = (name: string) => name.startsWith('@cedar-policy/');
  const put = (variant: Variant, code: Uint8Array) => {
    const folder = join(fn.folder, variant);
    mkdirSync(folder);
    writeFileSync(join(folder, 'index.mjs'), code);
    return pathToFileURL(join(folder, 'index.mjs'));
  };
  const variants = new Map<Variant, URL>([['own', fn.bundle]]);
  const bare = await bareBundle(imports, { wasm: true });
  variants.set('bare', put('bare', bare.code));
  if (fn.decidesByPolicy) {
    copyFileSync(join(fn.folder, 'cedar_wasm_bg.wasm'), join(fn.folder, 'bare', 'cedar_wasm_bg.wasm'));
    variants.set('own-without-cedar', put('own-without-cedar', (await withoutCedar(fn.name)).code));
    copyFileSync(join(fn.folder, 'policies.json'), join(fn.folder, 'own-without-cedar', 'policies.json'));
    // What else lies beside the bundle is read as ever; of the wasm nothing.
    cpSync(join(fn.folder, 'policies'), join(fn.folder, 'own-without-cedar', 'policies'), {
      recursive: true,
    });
    writeFileSync(join(fn.folder, 'own-without-cedar', 'cedar_wasm_bg.wasm'), '');
    const apart = await bareBundle(imports, { packages: (name) => !isCedar(name) });
    variants.set('bare-without-cedar', put('bare-without-cedar', apart.code));
  }
  return variants;
}

const items: Item[] = [];
const { functions, remove } = await synthesize();
try {
  for (const fn of functions) {
    const variants = await variantsOf(fn);
    const runs = new Map<Variant, Import[]>([...variants.keys()].map((variant) => [variant, []]));
    for (const bundle of variants.values()) await importOnce(bundle); // into the page cache
    for (let round = 0; round < ROUNDS; round++) {
      for (const [variant, bundle] of variants) runs.get(variant)?.push(await importOnce(bundle));
    }
    const of = (variant: Variant, what: keyof Import) =>
      median((runs.get(variant) ?? []).map((run) => run[what]));
    const compare = (name: string, own: Variant, bare: Variant, what: string) => {
      for (const [unit, key] of [
        ['ms', 'wallMs'],
        ['ms CPU', 'cpuMs'],
      ] as const) {
        items.push(
          item(key === 'wallMs' ? name : `${name}.cpu`, of(own, key), unit, {
            other: { name: what, value: of(bare, key) },
            ...(key === 'wallMs' ? { bar: BAR } : {}),
          }),
        );
      }
    };
    if (fn.decidesByPolicy) {
      compare(`init.${fn.name}`, 'own-without-cedar', 'bare-without-cedar', 'bare, both without Cedar');
      compare(`init.${fn.name}.with-cedar`, 'own', 'bare', 'bare, with Cedar’s wasm instantiated');
    } else compare(`init.${fn.name}`, 'own', 'bare', 'bare');
    say(`${fn.name}: ${[...runs.keys()].map((v) => `${v} ${of(v, 'wallMs').toFixed(0)} ms`).join(', ')}`);
  }
} finally {
  remove();
}
print({ items, rounds: ROUNDS });
