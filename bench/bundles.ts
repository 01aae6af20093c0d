/**
 * Size of each function's bundle, exactly as deployed, beside a bare bundle of the same libraries with no
 * code of ours, and beside the SDK clients alone. Cedar's wasm lies beside the bundle and is told apart.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { bareBundle, importsOf, ownBundle } from './bare.ts';
import { synthesize } from './deployed.ts';
import { type Item, item, print, say } from './measuring.ts';

const BAR = { of: 'ratio', max: 1.3 } as const;

const items: Item[] = [];
const { functions, remove } = await synthesize();
try {
  for (const fn of functions) {
    const deployed = readFileSync(fn.bundle);
    const own = await ownBundle(fn.name);
    if (!deployed.equals(own.code)) throw new Error(`${fn.name}: what is deployed is bundled in another way`);
    const imports = await importsOf(own);
    const bare = await bareBundle(imports);
    const clients = await bareBundle(imports, { packages: (name) => name.startsWith('@aws-sdk/client-') });
    const libraries = [...imports.keys()].sort().join(', ');
    items.push(
      item(`bundles.${fn.name}`, deployed.length, 'bytes', {
        other: { name: `bare: ${libraries}`, value: bare.code.length },
        bar: BAR,
      }),
      item(`bundles.${fn.name}.over-clients`, deployed.length, 'bytes', {
        other: { name: 'bare: its SDK clients alone', value: clients.code.length },
      }),
      item(`bundles.${fn.name}.gzip`, gzipSync(deployed).length, 'bytes', {
        other: { name: 'bare, gzip', value: gzipSync(bare.code).length },
      }),
    );
    say(`${fn.name}: ${deployed.length} bytes, bare ${bare.code.length}, clients ${clients.code.length}`);
  }
  const deciding = functions.find((fn) => fn.decidesByPolicy);
  if (deciding) {
    const wasm = join(deciding.folder, 'cedar_wasm_bg.wasm');
    items.push(
      item('bundles.cedar-wasm', statSync(wasm).size, 'bytes'),
      item('bundles.cedar-wasm.gzip', gzipSync(readFileSync(wasm)).length, 'bytes'),
    );
  }
} finally {
  remove();
}
print({ items });
