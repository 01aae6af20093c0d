/**
 * `npm run package`: the agent as .deb and .rpm, with its own Node, the native probe and the systemd units, in
 * dist/. The same sources give the same bytes; SOURCE_DATE_EPOCH is the time that the files get, that of the
 * last commit when it is not set.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import type { About } from './package/about.ts';
import { bundleAgent, nodeLicence } from './package/bundle.ts';
import { run, ToolMissingError } from './package/command.ts';
import { contents, neededGlibc, strip } from './package/contents.ts';
import { buildDeb } from './package/deb.ts';
import { buildRpm } from './package/rpm.ts';

const PROJECT = fileURLToPath(new URL('..', import.meta.url));
const FORMATS = ['deb', 'rpm'] as const;
type Format = (typeof FORMATS)[number];

const options = new Command('npm run package --')
  .description('Builds the agent’s packages for the architecture of this machine')
  .option('--out <folder>', 'where they go', join(PROJECT, 'dist'))
  .addOption(new Option('--only <format>', 'one format alone').choices(FORMATS))
  .addHelpText(
    'after',
    '\nExit codes: 0 built, 1 failed, 2 wrong usage. Without --only, a format whose tool\n' +
      '(dpkg-deb, rpmbuild) this machine lacks is left out, with a word on it; none at all is a failure.',
  )
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .parse()
  .opts<{ out: string; only?: Format }>();

/** The time of the last commit, so that nothing of when and where it was built is in it. */
async function sourceDate(): Promise<number> {
  const given = process.env['SOURCE_DATE_EPOCH'];
  const text = given ?? (await run('git', ['-C', PROJECT, 'log', '-1', '--format=%ct']));
  const seconds = Number(text.trim());
  if (!Number.isSafeInteger(seconds) || seconds < 0)
    throw new Error(`not a SOURCE_DATE_EPOCH: ${text.trim()}`);
  return seconds;
}

function thisArchitecture(): About['architecture'] {
  if (process.arch === 'x64' || process.arch === 'arm64') return process.arch;
  throw new Error(`there are no packages for ${process.arch}`);
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

async function step<T>(what: string, work: () => Promise<T>, tell: (result: T) => string): Promise<T> {
  const began = performance.now();
  const result = await work();
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stderr.write(`${what.padEnd(8)} ${tell(result)}, ${seconds} s\n`);
  return result;
}

async function main(): Promise<void> {
  const out = resolve(options.out);
  mkdirSync(out, { recursive: true });
  const work = mkdtempSync(join(tmpdir(), 'casemate-package-'));
  try {
    const bundle = await step(
      'bundle',
      () => bundleAgent(PROJECT),
      ({ code, packages }) => `${megabytes(code.length)} from the agent and ${packages.length} packages`,
    );
    const native = join(PROJECT, 'native/build');
    const programs = {
      node: process.execPath,
      'casemate.node': join(native, 'casemate.node'),
      'casemate-probe': join(native, 'casemate-probe'),
    };
    const glibc = await step(
      'strip',
      async () => {
        await strip(work, programs);
        return neededGlibc([join(work, 'node'), join(work, 'casemate.node')]);
      },
      (version) =>
        `node ${process.version} is ${megabytes(statSync(join(work, 'node')).size)}, needs glibc ${version}`,
    );
    const { version, description } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as {
      version: string;
      description: string;
    };
    const about: About = {
      name: 'casemate-agent',
      version,
      architecture: thisArchitecture(),
      vendor: 'Casemate <casemate@localhost>',
      summary: 'Agent of Casemate: measures this VM and opens its disks',
      description: [
        `Casemate is ${description.replace(/^An/, 'an')}.`,
        '',
        'The agent measures what this machine really is, signs and reports it, and',
        'receives the keys of the LUKS and BitLocker volumes that the pipeline',
        'releases to it.',
      ],
      licence: 'Apache-2.0',
      glibc,
      epochSeconds: await sourceDate(),
    };
    const files = contents(PROJECT, work, bundle, await nodeLicence(work));
    const built: string[] = [];
    const builders = { deb: buildDeb, rpm: buildRpm };
    for (const format of options.only ? [options.only] : FORMATS) {
      try {
        const scripts = join(PROJECT, 'packaging', format);
        built.push(
          await step(
            format,
            () => builders[format]({ about, files, scripts, work, out }),
            (file) => `${relative(process.cwd(), file)} is ${megabytes(statSync(file).size)}`,
          ),
        );
      } catch (error) {
        if (!(error instanceof ToolMissingError) || options.only) throw error;
        process.stderr.write(`${format.padEnd(8)} left out: ${error.message}\n`);
      }
    }
    if (built.length === 0) throw new Error('this machine has neither dpkg-deb nor rpmbuild');
    const sums = built.map((file) => {
      return `${createHash('sha256').update(readFileSync(file)).digest('hex')}  ${basename(file)}\n`;
    });
    writeFileSync(join(out, 'SHA256SUMS'), sums.join(''));
    for (const file of built) process.stdout.write(`${file}\n`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`npm run package: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
