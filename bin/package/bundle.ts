import { readdirSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { join } from 'node:path';
import { build, type Plugin } from 'esbuild';
import { run } from './command.ts';

export interface Bundle {
  readonly code: Uint8Array;
  /** Packages with code in it, by folder below the project, sorted. */
  readonly packages: readonly string[];
}

/**
 * Node's own modules by `process.getBuiltinModule`. Importing one as ESM reads all that it exports, and with the getters
 * of node:http comes the client of fetch: 14 MB of memory that nobody uses (measured).
 */
const builtinsAsTheyAre: Plugin = {
  name: 'builtins as they are',
  setup({ onResolve, onLoad }) {
    const namespace = 'builtin';
    onResolve({ filter: /^[a-z:_/]+$/ }, ({ path }) => (isBuiltin(path) ? { path, namespace } : undefined));
    onLoad({ filter: /./, namespace }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
    }));
  },
};

/** The agent as one file. It stays relative to the addon as its source is: agent/probe.ts looks for it there. */
export async function bundleAgent(project: string): Promise<Bundle> {
  const result = await build({
    absWorkingDir: project,
    entryPoints: ['agent/main.ts'],
    bundle: true,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    minify: true,
    mainFields: ['module', 'main'],
    plugins: [builtinsAsTheyAre],
    // CommonJS packages in it still call require.
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
    logLevel: 'error',
    write: false,
    outfile: 'main.mjs',
    metafile: true,
  });
  const [file] = result.outputFiles;
  if (!file) throw new Error('esbuild made no bundle');
  const packages = new Set<string>();
  for (const output of Object.values(result.metafile.outputs)) {
    for (const [input, { bytesInOutput }] of Object.entries(output.inputs)) {
      const folder = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0];
      if (folder && bytesInOutput > 0) packages.add(folder);
    }
  }
  return { code: file.contents, packages: [...packages].sort() };
}

/**
 * The licence of the Node that is packaged. `npm ci` leaves the program alone of the package that it comes in, so
 * that package is taken out of npm's cache, or fetched, once more.
 *
 * @param work a folder for the archive
 * @throws ToolError
 */
export async function nodeLicence(work: string): Promise<string> {
  const name = `node-${process.platform}-${process.arch}@${process.versions.node}`;
  const pack = ['pack', name, '--prefer-offline', '--silent', '--pack-destination', work];
  const packed = await run('npm', pack, process.env); // npm's settings and certificates stand there
  return run('tar', ['-xzOf', join(work, packed.trim()), 'package/LICENSE']);
}

/** The licences of everything that the packages carry: ours, Node's, and those of the bundled packages. */
export function licences(project: string, bundle: Bundle, ofNode: string): string {
  const read = (...path: string[]) => readFileSync(join(project, ...path), 'utf8').trim();
  const parts = [
    ['Casemate', read('LICENSE')],
    ['Node.js (/usr/lib/casemate/bin/node)', ofNode.trim()],
    ...bundle.packages.map((folder) => {
      const about = JSON.parse(read(folder, 'package.json')) as Record<string, string>;
      const files = readdirSync(join(project, folder)).filter((name) => /^(licen[cs]e|notice)/i.test(name));
      const name = `${about['name']} ${about['version']} (${about['license']})`;
      if (files.length > 0)
        return [
          name,
          files
            .sort()
            .map((file) => read(folder, file))
            .join('\n\n'),
        ];
      // Its own text is ours, which stands above.
      if (about['license'] === 'Apache-2.0') return [name, 'As Casemate, above.'];
      throw new Error(`${folder} is in the bundle and has no licence in it`);
    }),
  ];
  const line = '='.repeat(78);
  return `${parts.map(([name, text]) => `${line}\n${name}\n${line}\n\n${text}`).join('\n\n')}\n`;
}
