import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { configSchema } from '../../agent/config.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const MACHINE = join(PROJECT, 'test/fixtures/machines/epyc-milan-snp-guest');
const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')) as { version: string };

const MISSING = ['dpkg-deb', 'rpmbuild', 'rpm', 'strip', 'readelf'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);
const suite = MISSING.length === 0 ? describe : describe.skip;
const reason = MISSING.length === 0 ? '' : ` (skipped: ${MISSING.join(', ')} not on this machine)`;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-package-test-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function packaging(...args: string[]) {
  return spawnSync(process.execPath, ['--no-warnings', join(PROJECT, 'bin/package.ts'), ...args], {
    encoding: 'utf8',
    // npm finds its cache, registry and certificates in the environment.
    env: { ...process.env, HOME: folder, SOURCE_DATE_EPOCH: '1700000000' },
  });
}

function output(tool: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(tool, args, {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], TZ: 'UTC', LC_ALL: 'C.UTF-8' },
  });
  if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

const sha256 = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');

/** Why no Debian is made here to install on; an empty text when one is. */
function whyNoDebian(): string {
  if (spawnSync('mmdebstrap', ['--version']).error) return ' (skipped: mmdebstrap is not on this machine)';
  if (process.getuid?.() !== 0) return ' (skipped: not root)';
  return '';
}

/** Makes a Debian, plays on-debian.sh in it, and gives what that wrote down. */
function onDebian(deb: string, rpm: string): (name: string) => string {
  const outcome = join(folder, 'debian');
  mkdirSync(outcome);
  const made = spawnSync(
    'mmdebstrap',
    [
      ...['--quiet', '--variant=apt', '--include=systemd', '--dpkgopt=force-unsafe-io'],
      `--customize-hook=${join(PROJECT, 'test/bin/on-debian.sh')}`,
      ...['--skip=cleanup', 'bookworm', '/dev/null'],
    ],
    {
      encoding: 'utf8',
      // Of the machine's own mirror, whatever that is.
      env: {
        ...process.env,
        DEB: deb,
        RPM: rpm,
        INSTALL: join(PROJECT, 'packaging/install-agent.sh'),
        CONFIG: JSON.stringify({
          region: 'eu-west-1',
          apiUrl: 'http://127.0.0.1:9/v1',
          busName: 'casemate',
          metadataEndpoint: 'http://127.0.0.1:9',
        }),
        OUTCOME: outcome,
        TMPDIR: '/var/tmp',
      },
    },
  );
  if (made.status !== 0) throw new Error(made.stderr);
  return (name) => readFileSync(join(outcome, name), 'utf8');
}

suite(`the packages${reason}`, () => {
  let deb: string;
  let rpm: string;
  let tree: string;
  let said: string;
  beforeAll(() => {
    const { status, stdout, stderr } = packaging('--out', join(folder, 'dist'));
    if (status !== 0) throw new Error(stderr);
    [deb, rpm] = stdout.trim().split('\n') as [string, string];
    said = stderr;
    tree = join(folder, 'tree');
    output('dpkg-deb', '-x', deb, tree);
  }, 120_000);

  const installed = (path: string) => readFileSync(join(tree, path), 'utf8');

  test('are named by version and architecture, and summed', () => {
    const [debian, red] = process.arch === 'x64' ? ['amd64', 'x86_64'] : ['arm64', 'aarch64'];
    expect(deb.endsWith(`/casemate-agent_${version}_${debian}.deb`)).toBe(true);
    expect(rpm.endsWith(`/casemate-agent-${version}-1.${red}.rpm`)).toBe(true);
    const sums = readFileSync(join(folder, 'dist/SHA256SUMS'), 'utf8');
    for (const file of [deb, rpm]) expect(sums).toContain(`${sha256(file)}  `);
    expect(said).toMatch(/^deb .* MB, [\d.]+ s$/m);
  });

  test('belong to root and hold the same files in both formats', () => {
    const lines = output('dpkg-deb', '-c', deb).trim().split('\n');
    for (const line of lines) {
      expect(line).toMatch(/^[-d]rw(-r--r--|xr-xr-x) root\/root /);
      expect(line).toContain(' 2023-11-14 22:13 ');
    }
    const files = lines.filter((line) => line.startsWith('-')).map((line) => line.split(' ./')[1]);
    const format = '[%{FILEMODES:perms} %{FILENAMES} %{FILEUSERNAME} %{FILEMTIMES}\n]';
    const inRpm = output('rpm', '-qp', '--qf', format, rpm).trim().split('\n');
    const [folders, rest] = ['d', '-'].map((kind) =>
      inRpm.filter((line) => line.startsWith(kind)).map((line) => line.replace(/^\S+ /, '')),
    );
    expect(rest?.sort()).toEqual(files.map((file) => `/${file} root 1700000000`).sort());
    expect(folders?.map((line) => line.split(' ')[0]).sort()).toEqual([
      '/etc/casemate',
      '/usr/lib/casemate',
      '/usr/lib/casemate/agent',
      '/usr/lib/casemate/bin',
      '/usr/lib/casemate/native',
      '/usr/lib/casemate/native/build',
      '/usr/share/doc/casemate-agent',
    ]);
    expect(files).toEqual(
      expect.arrayContaining([
        'usr/bin/casemate-agent',
        'usr/bin/casemate-probe',
        'usr/lib/casemate/bin/node',
        'usr/lib/systemd/system/casemate-agent.service',
        'usr/share/doc/casemate-agent/copyright',
      ]),
    );
  });

  test('ask for what the agent runs, and name nobody', () => {
    const control = output('dpkg-deb', '-f', deb);
    expect(control).toMatch(/^Depends: libc6 \(>= 2\.\d+\),.* cryptsetup-bin, .*kmod/m);
    expect(control).toMatch(/^Maintainer: Casemate <casemate@localhost>$/m);
    const needs = output('rpm', '-qp', '--requires', rpm);
    expect(needs).toMatch(/^libc\.so\.6\(GLIBC_2\.\d+\)\(64bit\)$/m);
    for (const name of ['cryptsetup', 'kmod']) expect(needs).toMatch(new RegExp(`^${name}$`, 'm'));
    expect(output('rpm', '-qp', '--qf', '%{BUILDHOST} %{LICENSE}', rpm)).toBe('reproducible Apache-2.0');
  });

  test('leave what the administrator changed in /etc', () => {
    expect(output('dpkg-deb', '-I', deb, 'conffiles')).toBe('/etc/casemate/agent.json.example\n');
    expect(output('rpm', '-qpc', rpm)).toBe('/etc/casemate/agent.json.example\n');
    expect(configSchema.safeParse(JSON.parse(installed('etc/casemate/agent.json.example'))).success).toBe(
      true,
    );
  });

  test('carry the licences of everything in them', () => {
    const copyright = installed('usr/share/doc/casemate-agent/copyright');
    expect(copyright).toContain('Apache License');
    expect(copyright).toContain('Node.js is licensed for use as follows');
    for (const name of ['commander', 'zod'])
      expect(copyright).toMatch(new RegExp(`^${name} [\\d.]+ \\(MIT\\)$`, 'm'));
    // Every part has a text below its line.
    expect(copyright).not.toMatch(/^={78}\n\n+={78}$/m);
  });

  test('run the agent on its own Node, with its own probe', () => {
    const launcher = installed('usr/bin/casemate-agent');
    const [, node, main] = /^exec (\/\S+) .*?(\/\S+\.mjs) "\$@"$/m.exec(launcher) ?? [];
    const agent = (...args: string[]) =>
      spawnSync(join(tree, node ?? ''), [join(tree, main ?? ''), ...args], { encoding: 'utf8', env: {} });
    expect(agent('--version')).toMatchObject({ status: 0, stdout: `${version}\n`, stderr: '' });
    expect(agent('--help').stdout).toContain('Usage: casemate-agent');
    const probed = agent('probe', '--root', MACHINE);
    expect(probed.stderr).toBe('');
    expect(JSON.parse(probed.stdout)).toMatchObject({ schema: 'casemate-probe/1' });
    const probe = output(join(tree, 'usr/bin/casemate-probe'), '--root', MACHINE, '--json');
    expect(JSON.parse(probe)).toEqual(JSON.parse(probed.stdout));
  });

  test('have scripts that a shell reads, and that enable only units which are there', () => {
    for (const format of ['deb', 'rpm']) {
      for (const name of format === 'deb' ? ['postinst', 'prerm', 'postrm'] : ['post', 'preun', 'postun']) {
        const file = join(PROJECT, 'packaging', format, name);
        output('sh', '-n', file);
        for (const [unit] of readFileSync(file, 'utf8').matchAll(/casemate-\w+\.service/g)) {
          expect(existsSync(join(tree, 'usr/lib/systemd/system', unit))).toBe(true);
        }
      }
    }
  });

  const systemd = existsSync('/usr/bin/systemd-analyze');
  (systemd ? test : test.skip)(
    `have units that systemd finds nothing wrong with${systemd ? '' : ' (skipped: systemd is not on this machine)'}`,
    () => {
      const units = readdirSync(join(tree, 'usr/lib/systemd/system'));
      expect(units).toEqual(expect.arrayContaining(['casemate-agent.service', 'casemate-disks.service']));
      const copies = units.map((name) => {
        const copy = join(folder, name);
        // The command that they start is not installed here.
        writeFileSync(
          copy,
          installed(`usr/lib/systemd/system/${name}`).replaceAll(
            /=(?=\/usr\/(bin|lib\/casemate)\/)/g,
            `=${tree}`,
          ),
        );
        return copy;
      });
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...copies], {
        encoding: 'utf8',
      });
      expect([status, stderr]).toEqual([0, '']);
    },
  );

  test('have units that keep keys out of core files and ask for no new privileges', () => {
    for (const name of readdirSync(join(tree, 'usr/lib/systemd/system'))) {
      const unit = installed(`usr/lib/systemd/system/${name}`);
      for (const line of ['LimitCORE=0', 'NoNewPrivileges=yes', 'ProtectSystem=full', 'UMask=0077']) {
        expect([name, unit]).toEqual([name, expect.stringContaining(`\n${line}\n`)]);
      }
      // Nothing that a boot passes through may wait for a pipeline: emergency access stays.
      expect(unit).not.toMatch(
        /^(Before|RequiredBy|WantedBy)=.*(sysinit|local-fs|remote-fs|basic|rescue|emergency)/m,
      );
    }
  });

  const noDebian = whyNoDebian();
  (noDebian ? test.skip : test)(
    `install by apt on a Debian, run, and go again but for the VM’s key${noDebian}`,
    () => {
      const outcome = onDebian(deb, rpm);
      expect([outcome('wrong-sum'), outcome('refused')]).toEqual(['', '']);
      // Once with the wrong sum, once with the right one, and not when it is there already.
      expect(outcome('fetched')).toBe('2\n');
      expect(outcome('version')).toBe(`${version}\n`);
      // What dpkg finds changed since it was unpacked.
      expect(outcome('verify')).toBe('');
      expect(outcome('enabled')).toBe('enabled\n'.repeat(3));
      expect(JSON.parse(outcome('probe'))).toMatchObject({ schema: 'casemate-probe/1' });
      expect(outcome('unconfigured')).toMatch(/^casemate-agent: .*agent\.json: ENOENT.*\nexit code 2\n$/s);
      expect(outcome('status')).toMatch(/127\.0\.0\.1.*\nexit code 75\n$/s);
      expect(outcome('generated')).toBe('srv-data.mount\n');
      expect(outcome('removed')).toBe('/etc/casemate\n/var/lib/casemate\n');
      expect(outcome('purged')).toBe('/var/lib/casemate\n');
      expect(outcome('units-left')).toBe('');
      expect(outcome('rpm-version')).toBe(`${version}\n`);
      expect(outcome('rpm-verify')).toBe('');
      expect(outcome('rpm-enabled')).toBe('enabled\n'.repeat(3));
      expect(outcome('rpm-erased')).toMatch(/^casemate-agent: .var.lib.casemate stays/);
      expect(outcome('rpm-left')).toBe('/var/lib/casemate\n');
    },
    600_000,
  );

  test('are the same bytes when built again', () => {
    const again = join(folder, 'again');
    expect(packaging('--out', again)).toMatchObject({ status: 0 });
    for (const file of [deb, rpm]) expect(sha256(file.replace('/dist/', '/again/'))).toBe(sha256(file));
  }, 120_000);
});

test('an unknown format is wrong usage', () => {
  const { status, stderr } = packaging('--only', 'msi');
  expect(status).toBe(2);
  expect(stderr).toContain("'msi' is invalid");
});
