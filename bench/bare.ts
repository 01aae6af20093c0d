import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type BuildOptions, build, type Plugin, transform } from 'esbuild';
import { PROJECT } from './deployed.ts';

/** As lib/constructs/pipeline-function.ts has NodejsFunction bundle. */
const BUNDLING = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'esm',
  minify: true,
  mainFields: ['module', 'main'],
  logLevel: 'error',
  write: false,
  metafile: true,
  absWorkingDir: PROJECT,
} as const satisfies BuildOptions;

export interface Bundle {
  readonly code: Uint8Array;
  /** Source files in it, relative to the package. */
  readonly inputs: readonly string[];
}

/** The function's bundle, made here: the same bytes as deployed, and what is in it. */
export function ownBundle(name: string, plugins: Plugin[] = []): Promise<Bundle> {
  return bundle({ entryPoints: [`lambdas/${name}/index.ts`], plugins });
}

/** The function without Cedar: what lib/policy/engine.ts exports does nothing. */
export function withoutCedar(name: string): Promise<Bundle> {
  return ownBundle(name, [
    {
      name: 'without-cedar',
      setup: ({ onLoad }) =>
        onLoad({ filter: /lib\/policy\/engine\.ts$/ }, ({ path }) => {
          const exported = readFileSync(path, 'utf8').matchAll(
            /^export (?:async )?(?:function|const|class) (\w+)/gm,
          );
          const contents = [...exported].map(([, what]) => `export function ${what}() { return {}; }`);
          return { contents: contents.join('\n'), loader: 'js' };
        }),
    },
  ]);
}

/** Names that a function's own sources import, by package. */
export type Imports = ReadonlyMap<string, ReadonlySet<string>>;

/**
 * What our own sources in the bundle import from packages, by name. Of a namespace (`import * as z`), the
 * members that the sources use: a bare bundle with the whole namespace would flatter ours.
 */
export async function importsOf(own: Bundle): Promise<Imports> {
  const imports = new Map<string, Set<string>>();
  for (const file of own.inputs) {
    if (file.includes('node_modules/')) continue;
    // esbuild prints every import on one line and leaves out those of types alone.
    const { code } = await transform(readFileSync(join(PROJECT, file), 'utf8'), { loader: 'ts' });
    for (const [, names = '', from = ''] of code.matchAll(/^import (.+) from "([^"]+)";$/gm)) {
      if (from.startsWith('.') || from.startsWith('node:')) continue;
      const used = imports.get(from) ?? new Set<string>();
      imports.set(from, used);
      const [, namespace] = /\* as (\w+)/.exec(names) ?? [];
      if (namespace) {
        // Not the name of a file, ./cedar.ts.
        for (const [, member = ''] of code.matchAll(new RegExp(`(?<![\\w./])${namespace}\\.(\\w+)`, 'g')))
          used.add(member);
      } else if (names.startsWith('{')) {
        for (const name of names.slice(1, -1).split(',')) used.add(name.trim().split(' as ')[0] ?? '');
      } else used.add('default');
    }
  }
  return imports;
}

export interface BareOptions {
  /** Which packages; all when left out. */
  readonly packages?: (name: string) => boolean;
  /** Instantiate Cedar's wasm, as any function has to that decides by it. */
  readonly wasm?: boolean;
}

/** A function that has the same libraries, makes the same clients and does nothing. */
export function bareBundle(
  imports: Imports,
  { packages = () => true, wasm = false }: BareOptions = {},
): Promise<Bundle> {
  const lines: string[] = [];
  const used: string[] = [];
  let count = 0;
  for (const [from, names] of imports) {
    if (!packages(from)) continue;
    for (const name of names) {
      const local = `_${count++}`;
      lines.push(`import { ${name} as ${local} } from ${JSON.stringify(from)};`);
      const isMade =
        (from.startsWith('@aws-sdk/client-') && name.endsWith('Client')) || /^(Logger|Metrics)$/.test(name);
      used.push(isMade ? `new ${local}({})` : local);
      if (wasm && name === 'initSync') {
        lines.push(
          `import { readFileSync } from 'node:fs';`,
          `${local}({ module: readFileSync(new URL('./cedar_wasm_bg.wasm', import.meta.url)) });`,
        );
      }
    }
  }
  lines.push(`const used = [${used.join(', ')}];`, 'export const handler = async () => used.length;');
  return bundle({ stdin: { contents: lines.join('\n'), resolveDir: PROJECT, loader: 'js' } });
}

async function bundle(options: BuildOptions): Promise<Bundle> {
  const { outputFiles, metafile } = await build({ ...BUNDLING, ...options, write: false, metafile: true });
  return { code: outputFiles[0]?.contents ?? new Uint8Array(), inputs: Object.keys(metafile.inputs) };
}
