import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { backoffMs } from '../../agent/backoff.ts';
import { BusError } from '../../agent/bus.ts';
import { type AgentKey, loadOrCreateKey } from '../../agent/key.ts';
import { drain, measure, readBootId, seal } from '../../agent/report.ts';
import { openSpool, type Spool } from '../../agent/spool.ts';
import { capabilityReportDetail, judgeReport, reportPayload } from '../../lib/domain/report.ts';
import { BOOT } from '../world/agent.ts';
import { aVm, later, NOW, VM_ID } from '../world/items.ts';
import { aConfig, aReport, fakeBus, IDENTITY, temporaryFolder } from './harness.ts';

let folder: ReturnType<typeof temporaryFolder>;
let spool: Spool;
let key: AgentKey;
beforeEach(() => {
  folder = temporaryFolder();
  spool = openSpool(folder.path, 2000);
  key = loadOrCreateKey(folder.path, VM_ID);
});
afterEach(() => folder.remove());
const config = () => aConfig(folder.path);
const sendAll = (bus: ReturnType<typeof fakeBus>) => drain(bus.bus, config(), IDENTITY, key, spool);
const judge = (
  detail: Parameters<typeof judgeReport>[0],
  receivedAt: Date,
  apiOrigin = 'https://api.casemate.example',
) =>
  judgeReport(detail, {
    vm: aVm(),
    enrolment: {
      pk: `enrol#${VM_ID}`,
      version: 1,
      instanceId: VM_ID,
      publicKey: key.publicKey.toString('base64'),
      enrolledAt: NOW.toISOString(),
    },
    standing: null,
    apiOrigin,
    receivedAt,
  });

describe('a measurement', () => {
  test('is a report of this machine, with the next number of its boot', () => {
    const root = new URL('../fixtures/machines/epyc-milan-snp-guest', import.meta.url).pathname;
    const machine = aConfig(folder.path, { machine: { root } });
    const reports = [1, 2].map(() => measure(machine, IDENTITY, BOOT, NOW));
    expect(reports.map((r) => r.sequence)).toEqual([1, 2]);
    const { facts } = reports[0] as (typeof reports)[number];
    expect(facts.find((f) => f.id === 'mem.sev-snp.guest')?.state).toBe('present');
    expect(reportPayload.safeParse({ ...reports[0], sentAt: NOW.toISOString() }).success).toBe(true);
  });

  test('belongs to the boot that the kernel names', () => {
    expect(readBootId()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  });
});

describe('a sealed report', () => {
  test('is accepted by the pipeline', async () => {
    const detail = await seal(config(), IDENTITY, key, aReport(1), later(60));
    expect(capabilityReportDetail.safeParse(detail).success).toBe(true);
    expect(judge(detail, later(61))).toMatchObject({ kind: 'accept', payload: { sequence: 1 } });
  });

  test('is bound to the origin of the configured API, not to its path', async () => {
    const detail = await seal(config(), IDENTITY, key, aReport(1), later(60));
    expect(judge(detail, later(60), 'https://api.casemate.example')).toMatchObject({ kind: 'accept' });
    expect(judge(detail, later(60), 'https://other.example')).toMatchObject({
      reason: 'REPORT_BAD_SIGNATURE',
    });
  });

  test('that waited hours is signed anew when it is sent, and keeps the time of its measurement', async () => {
    const report = aReport(1);
    const sent = later(7200);
    const detail = await seal(config(), IDENTITY, key, report, sent);
    expect(JSON.parse(detail.payload)).toMatchObject({
      observedAt: report.observedAt,
      sentAt: sent.toISOString(),
    });
    expect(judge(detail, later(7201)).kind).toBe('accept');
    // What had been signed then would be refused now.
    const then = await seal(config(), IDENTITY, key, report, later(1));
    expect(judge(then, later(7201))).toMatchObject({ reason: 'REPORT_TIME_SKEW' });
  });
});

describe('draining the spool', () => {
  test('sends everything once, oldest first, and leaves nothing', async () => {
    for (const n of [2, 3, 1]) spool.add(aReport(n));
    const bus = fakeBus();
    await expect(sendAll(bus)).resolves.toBe(3);
    expect(bus.taken.map((t) => t.payload.sequence)).toEqual([1, 2, 3]);
    expect(spool.list()).toEqual([]);
    await expect(sendAll(bus)).resolves.toBe(0);
  });

  test('keeps what the bus did not take', async () => {
    for (const n of [1, 2, 3]) spool.add(aReport(n));
    const bus = fakeBus((call) => call !== 1);
    await expect(sendAll(bus)).rejects.toThrow(BusError);
    expect(spool.list().map((name) => spool.read(name)?.sequence)).toEqual([2, 3]);
    await expect(sendAll(bus)).resolves.toBe(2);
    expect(bus.taken.map((t) => t.payload.sequence)).toEqual([1, 2, 3]);
  });

  test('loses nothing and keeps the order, however often the bus is away', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.boolean(), { minLength: 1, maxLength: 30 }), async (up) => {
        const own = temporaryFolder();
        try {
          const waiting = openSpool(own.path, 2000);
          for (let n = 1; n <= 6; n++) waiting.add(aReport(n));
          const bus = fakeBus((call) => up[call] ?? true);
          for (let tries = 0; waiting.list().length > 0 && tries < 40; tries++) {
            await drain(bus.bus, config(), IDENTITY, key, waiting).catch((error: unknown) => {
              if (!(error instanceof BusError)) throw error;
            });
          }
          expect(bus.taken.map((t) => t.payload.sequence)).toEqual([1, 2, 3, 4, 5, 6]);
        } finally {
          own.remove();
        }
      }),
      { numRuns: 15 },
    );
  });

  test('drops reports of the image that this VM was cloned from, unsent', async () => {
    spool.add(aReport(1, { instanceId: 'i-00000002' }));
    spool.add(aReport(2));
    const bus = fakeBus();
    await expect(sendAll(bus)).resolves.toBe(1);
    expect(bus.taken.map((t) => t.payload.instanceId)).toEqual([VM_ID]);
    expect(spool.list()).toEqual([]);
  });
});

describe('backing off', () => {
  test('waits a random part of what doubles from half a second up to a minute', () => {
    void fc.assert(
      fc.property(fc.nat(5000), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, random) => {
        const wait = backoffMs(attempt, () => random);
        expect(wait).toBeGreaterThanOrEqual(0);
        expect(wait).toBeLessThanOrEqual(Math.min(60_000, 500 * 2 ** attempt));
      }),
    );
    expect([0, 1, 2, 7, 8, 1e9].map((n) => backoffMs(n, () => 1))).toEqual([
      500, 1000, 2000, 60_000, 60_000, 60_000,
    ]);
    expect(backoffMs(5, () => 0)).toBe(0);
  });
});
