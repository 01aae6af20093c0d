import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { enrolItem, judgeReport } from '../../lib/domain/report.ts';
import { REGION } from '../world/ec2.ts';
import { VM_ID } from '../world/items.ts';
import { launch } from '../world/vm.ts';
import { createWorld, type World } from '../world/world.ts';
import { temporaryFolder } from './harness.ts';
import { surroundings } from './surroundings.ts';

const MAIN = fileURLToPath(new URL('../../agent/main.ts', import.meta.url));
const BIN = fileURLToPath(new URL('../../bin/casemate-agent.js', import.meta.url));
const MACHINE = fileURLToPath(new URL('../fixtures/machines/epyc-milan-snp-guest', import.meta.url));

let world: World;
let around: Awaited<ReturnType<typeof surroundings>>;
let folder: ReturnType<typeof temporaryFolder>;
const running = new Set<ChildProcess>();
beforeEach(async () => {
  world = createWorld();
  world.advance((Date.now() - world.now().getTime()) / 1000);
  const vm = launch(world, 1, { id: VM_ID, amdSevSnp: 'enabled' });
  world.stateChange(vm);
  await world.drain();
  around = await surroundings(() => world);
  folder = temporaryFolder();
});
afterEach(async () => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
  await around.close();
  folder.remove();
});

function configure(overrides: object = {}): string {
  const file = join(folder.path, 'agent.json');
  writeFileSync(
    file,
    JSON.stringify({
      region: REGION,
      apiUrl: `${around.url}/v1`,
      busName: 'casemate',
      stateDir: join(folder.path, 'state'),
      metadataEndpoint: around.url,
      reportIntervalSeconds: 1,
      tpm: false,
      machine: { root: MACHINE },
      ...overrides,
    }),
  );
  return file;
}
const environment = () => ({
  PATH: process.env['PATH'],
  AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
  AWS_SECRET_ACCESS_KEY: 'a-secret-that-stays-here',
  AWS_ENDPOINT_URL_EVENTBRIDGE: around.url,
  AWS_MAX_ATTEMPTS: '1',
});
/** The agent as it runs on a VM. */
function start(...args: string[]) {
  const child = spawn(process.execPath, ['--no-warnings', MAIN, ...args], { env: environment() });
  running.add(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk));
  const ended = once(child, 'exit').then(([code, signal]) => code ?? signal) as Promise<number | string>;
  return { child, ended, text: () => text };
}
async function until(what: () => boolean, seconds = 15): Promise<void> {
  for (let i = 0; i < seconds * 50; i++) {
    if (what()) return;
    await sleep(20);
  }
  throw new Error(`it did not come to it: ${what}`);
}
const sequences = () =>
  around.reports.map((r) => (JSON.parse(r.detail.payload) as { sequence: number }).sequence);

describe('casemate-agent run', () => {
  test('enrols once, reports in order, and ends cleanly at SIGTERM; the next one goes on where it was', async () => {
    const file = configure();
    const first = start('run', '--config', file);
    await until(() => around.reports.length >= 2);
    first.child.kill('SIGTERM');
    const asked = Date.now();
    await expect(first.ended).resolves.toBe(0);
    expect(Date.now() - asked).toBeLessThan(2000);
    expect(around.state.enrolments).toBe(1);
    expect(first.text()).toContain(`${VM_ID}: enrolled`);

    const before = sequences().length;
    const second = start('run', '--config', file);
    await until(() => around.reports.length > before);
    second.child.kill('SIGINT');
    await expect(second.ended).resolves.toBe(0);
    expect(around.state.enrolments).toBe(1);
    expect(sequences()).toEqual(sequences().map((_, i) => i + 1));

    // What came over the bus is what the pipeline accepts, and nothing on the way told a secret.
    const enrolment = enrolItem.parse(world.rows.get(`enrol#${VM_ID}`));
    const { vm } = (await world.record(VM_ID)) ?? {};
    const { detail, receivedAt } = around.reports[0] as (typeof around.reports)[number];
    const context = { vm, enrolment, standing: null, apiOrigin: around.url, receivedAt };
    expect(judgeReport(detail, context)).toMatchObject({ kind: 'accept' });
    const key = readFileSync(join(folder.path, 'state/agent-key.json'), 'utf8');
    for (const line of key.split('\\n').slice(1, -2))
      expect(first.text() + second.text()).not.toContain(line);
    expect(first.text()).not.toContain('a-secret-that-stays-here');
  }, 30_000);

  test('loses nothing while the bus is away, and brings it in order when it is back', async () => {
    around.state.busUp = false;
    const agent = start('run', '--config', configure());
    await until(() => agent.text().includes('report waits in the spool'));
    await sleep(1000);
    expect(around.reports).toEqual([]);
    around.state.busUp = true;
    await until(() => around.reports.length >= 3);
    agent.child.kill('SIGTERM');
    await expect(agent.ended).resolves.toBe(0);
    expect(sequences()).toEqual(sequences().map((_, i) => i + 1));
    expect(agent.text()).toMatch(/bus is back: \d+ reports? sent/);
    for (const { detail, receivedAt } of around.reports) {
      const { sentAt } = JSON.parse(detail.payload) as { sentAt: string };
      expect(Math.abs(Date.parse(sentAt) - receivedAt.getTime())).toBeLessThan(1000);
    }
  }, 30_000);

  test('killed in the middle, uses no number twice', async () => {
    const file = configure();
    for (const least of [1, 2, 3]) {
      const agent = start('run', '--config', file);
      await until(() => around.reports.length >= least);
      agent.child.kill('SIGKILL');
      await expect(agent.ended).resolves.toBe('SIGKILL');
    }
    const payloads = new Set(
      around.reports.map((r) => (JSON.parse(r.detail.payload) as { observedAt: string }).observedAt),
    );
    expect(new Set(sequences()).size).toBe(payloads.size);
    expect(around.state.enrolments).toBe(1);
  }, 30_000);

  test('tries again and again while the API is away', async () => {
    around.state.apiDown = true;
    const agent = start('run', '--config', configure());
    await until(() => agent.text().includes('not enrolled yet'));
    around.state.apiDown = false;
    await until(() => around.reports.length >= 1);
    agent.child.kill('SIGTERM');
    await expect(agent.ended).resolves.toBe(0);
  }, 30_000);

  test('does not hammer an API that refused it, and says why', async () => {
    world.advance(901);
    const agent = start('run', '--config', configure());
    await until(() => agent.text().includes('ENROL_WINDOW_CLOSED'));
    await sleep(1500);
    expect(around.state.enrolments).toBe(1);
    agent.child.kill('SIGTERM');
    await expect(agent.ended).resolves.toBe(0);
  }, 30_000);

  test.each([
    ['API', { apiHangs: true }],
    ['bus', { busHangs: true }],
  ])(
    'ends at once at SIGTERM, also while the %s does not answer',
    async (_, fault) => {
      Object.assign(around.state, fault);
      const agent = start('run', '--config', configure());
      await until(() => around.state.hanging > 0);
      const asked = Date.now();
      agent.child.kill('SIGTERM');
      await expect(agent.ended).resolves.toBe(0);
      expect(Date.now() - asked).toBeLessThan(2000);
    },
    30_000,
  );
});

describe('casemate-agent enrol and report', () => {
  test('do one thing each and say so', async () => {
    const file = configure();
    const enrol = start('enrol', '--config', file);
    await expect(enrol.ended).resolves.toBe(0);
    expect(enrol.text()).toBe(`${VM_ID}: enrolled\n`);
    const report = start('report', '--config', file);
    await expect(report.ended).resolves.toBe(0);
    expect(report.text()).toBe(`${VM_ID}: 1 sent\n`);
    const again = start('enrol', '--config', file);
    await expect(again.ended).resolves.toBe(0);
    expect(again.text()).toBe(`${VM_ID}: already-enrolled\n`);
  }, 30_000);

  test('refused, exits 1 with the reason and where to look', async () => {
    world.advance(901);
    const enrol = start('enrol', '--config', configure());
    await expect(enrol.ended).resolves.toBe(1);
    expect(enrol.text()).toMatch(/^casemate-agent: ENROL_WINDOW_CLOSED: .*\n.*casemate explain/);
  }, 30_000);

  test('keeps a report that the bus did not take, exits 1, and sends it with the next', async () => {
    around.state.busUp = false;
    const file = configure();
    const failed = start('report', '--config', file);
    await expect(failed.ended).resolves.toBe(1);
    expect(failed.text()).toContain('bus casemate: AccessDeniedException');
    around.state.busUp = true;
    const next = start('report', '--config', file);
    await expect(next.ended).resolves.toBe(0);
    expect(next.text()).toBe(`${VM_ID}: 2 sent\n`);
    expect(sequences()).toEqual([1, 2]);
  }, 30_000);
});

describe('the words of the command line', () => {
  const agent = (...args: string[]) =>
    spawnSync(process.execPath, ['--no-warnings', BIN, ...args], { encoding: 'utf8', env: environment() });

  test.each<[string, string[], number, RegExp]>([
    ['help is no fault', ['--help'], 0, /Usage: casemate-agent/],
    ['the version is no fault', ['--version'], 0, /^\d+\.\d+\.\d+$/m],
    ['nothing to do', [], 2, /Usage: casemate-agent/],
    ['an unknown command', ['reprot'], 2, /unknown command|too many arguments/],
    ['an unknown option', ['probe', '--cpu'], 2, /unknown option '--cpu'/],
    ['an option without its value', ['run', '--config'], 2, /argument missing/],
    ['no configuration', ['run', '--config', '/nonexistent.json'], 2, /nonexistent\.json.*ENOENT/],
    ['a recording that is not there', ['probe', '--cpuid', '/nonexistent'], 1, /nonexistent/],
  ])('%s', (_, args, code, says) => {
    const { status, stdout, stderr } = agent(...args);
    expect([status, stdout + stderr]).toEqual([code, expect.stringMatching(says)]);
    expect(stdout + stderr).not.toMatch(/\n\s+at /);
  });

  test('a wrong configuration is named, whole', () => {
    const file = configure({ apiUrl: 'http://api.example', spoolMax: -1, tpyo: true });
    const { status, stderr } = agent('run', '--config', file);
    expect(status).toBe(2);
    for (const name of ['apiUrl', 'spoolMax', 'tpyo']) expect(stderr).toContain(name);
  });

  test('probe prints one JSON document of a recorded machine', () => {
    const { status, stdout, stderr } = agent('probe', '--root', MACHINE);
    expect([status, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({ schema: 'casemate-probe/1' });
  });
});
