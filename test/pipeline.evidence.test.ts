import { createHash, X509Certificate } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import type { ReportPayload } from '../lib/domain/report.ts';
import { transcript } from '../lib/domain/transcript.ts';
import { makeDocument, makeNitro, plain, timestamp } from './domain/evidence/forge/nitro.ts';
import { crl, issue, keyPair } from './domain/evidence/forge/pki.ts';
import { asvkSerial, makeAmd, makeLeaf, makeReport, vlekReport } from './domain/evidence/forge/snp.ts';
import { akKeys, makeAttest, makeSignature, pcrJson, spki } from './domain/evidence/forge/tpm.ts';
import {
  createAgent,
  enrolled,
  fact,
  GOOD_FACTS,
  sealReport,
  sendReport,
  type TestAgent,
} from './world/agent.ts';
import { ACCOUNT, REGION } from './world/ec2.ts';
import { launch } from './world/vm.ts';
import { API_ORIGIN, createWorld, type World } from './world/world.ts';

type Evidence = NonNullable<ReportPayload['evidence']>;

const amd = makeAmd();
const nitro = makeNitro();
const vlekChain = [makeLeaf(amd, { kind: 'VLEK' }), amd.asvk.Milan.der, amd.ark.Milan.der].map((c) =>
  Buffer.from(c).toString('base64'),
);
const SNP_FACTS = [
  ...GOOD_FACTS.filter((f) => f.id !== 'mem.sev-snp.guest'),
  fact('mem.sev-snp.guest', 'present'),
];

/** A world at the time of the test hierarchies, with one SEV-SNP VM that demands evidence. */
async function begin(
  tags: Record<string, string> = { 'casemate:evidence': 'required' },
  authorities: readonly X509Certificate[] = [],
) {
  const world = createWorld({ evidenceRoots: { amd: amd.roots, nitro: nitro.roots }, authorities });
  world.advance((timestamp.getTime() - world.now().getTime()) / 1000);
  const vm = launch(world, 1, {
    id: 'i-0123456789abcdef0',
    amdSevSnp: 'enabled',
    tags: { 'casemate:protect': 'true', ...tags },
  });
  world.stateChange(vm);
  await world.drain();
  const agent = createAgent(vm.id);
  enrolled(world, agent);
  return { world, vm, agent };
}

/** Puts a challenge where issue-challenge stores it. @returns the nonce */
function challenge(world: World, instanceId: string, overrides: Record<string, unknown> = {}): Buffer {
  const nonce = createHash('sha256').update(`${Math.random()}`).digest();
  const pk = `nonce#${createHash('sha256').update(nonce).digest('base64url')}`;
  const expiresAtMs = world.now().getTime() + 60_000;
  world.rows.set(pk, {
    pk,
    instanceId,
    purpose: 'report',
    used: false,
    expiresAtMs,
    expiresAt: 0,
    ...overrides,
  });
  return nonce;
}

const t = (agent: TestAgent, nonce: Buffer, overrides: Partial<Parameters<typeof transcript>[0]> = {}) =>
  transcript({
    purpose: 'report',
    apiOrigin: API_ORIGIN,
    accountId: ACCOUNT,
    region: REGION,
    instanceId: agent.instanceId,
    nonce,
    agentPublicKey: agent.spki,
    ...overrides,
  });

const snp = (reportData: Buffer, certificates = vlekChain): Evidence[number] => ({
  format: 'snp',
  report: makeReport({ ...vlekReport, reportData }).toString('base64'),
  certificates,
});

/** SEV Secure Nested Paging Firmware ABI 1.55 table 9: bit 19 lets the host debug the guest. */
const DEBUG_POLICY = 0xb0000n;

async function report(
  world: World,
  agent: TestAgent,
  sequence: number,
  nonce: Buffer,
  evidence: Evidence,
  facts = SNP_FACTS,
) {
  const nonceText = nonce.toString('base64');
  sendReport(world, sealReport(world, agent, sequence, { facts, nonce: nonceText, evidence }));
  await world.drain();
  return world.record(agent.instanceId);
}

describe('a VM that must show hardware evidence', () => {
  test('leaves probation on a genuine SNP report over its own challenge, and the fact is attested', async () => {
    const { world, agent } = await begin();
    const nonce = challenge(world, agent.instanceId);
    const record = await report(world, agent, 1, nonce, [snp(t(agent, nonce))]);
    expect(record?.posture).toMatchObject({ verdict: 'compliant', evidenceRefusal: null });
    expect(record?.posture?.attestations).toMatchObject([{ format: 'snp' }]);
    expect(record?.isolation).toMatchObject({ profile: 'workload', applied: true });
  });

  test('stays in probation on the guest’s word alone', async () => {
    const { world, agent } = await begin();
    sendReport(world, sealReport(world, agent, 1, { facts: SNP_FACTS }));
    await world.drain();
    const record = await world.record(agent.instanceId);
    expect(record?.posture).toMatchObject({ verdict: 'unproven', reasons: ['EVIDENCE_MISSING'] });
    expect(record?.isolation?.profile).toBe('probation');
  });

  test('is fenced again when its evidence grows old, though its reports go on', async () => {
    const { world, agent } = await begin();
    const nonce = challenge(world, agent.instanceId);
    await report(world, agent, 1, nonce, [snp(t(agent, nonce))]);
    world.advance(7201);
    sendReport(world, sealReport(world, agent, 2, { facts: SNP_FACTS }));
    await world.drain();
    const record = await world.record(agent.instanceId);
    expect(record?.posture).toMatchObject({ verdict: 'unproven', reasons: ['EVIDENCE_MISSING'] });
    expect(record?.isolation?.profile).toBe('probation');
  });

  test('is fenced again at once when newer evidence of its kind is refused', async () => {
    const { world, agent } = await begin();
    const good = challenge(world, agent.instanceId);
    await report(world, agent, 1, good, [snp(t(agent, good))]);
    const changed = challenge(world, agent.instanceId);
    const debug = makeReport({ ...vlekReport, reportData: t(agent, changed), policy: DEBUG_POLICY });
    const evidence = { format: 'snp' as const, report: debug.toString('base64'), certificates: vlekChain };
    const record = await report(world, agent, 2, changed, [evidence]);
    expect(record?.posture).toMatchObject({
      verdict: 'unproven',
      reasons: ['EVIDENCE_MISSING'],
      attestations: [],
      evidenceRefusal: { reasons: ['SNP_DEBUG'] },
    });
    expect(record?.isolation?.profile).toBe('probation');
  });

  test('keeps what it attested when newer evidence came too late to be judged', async () => {
    const { world, agent } = await begin();
    const good = challenge(world, agent.instanceId);
    await report(world, agent, 1, good, [snp(t(agent, good))]);
    const late = challenge(world, agent.instanceId, { expiresAtMs: world.now().getTime() - 1 });
    const record = await report(world, agent, 2, late, [snp(t(agent, late))]);
    expect(record?.posture).toMatchObject({
      verdict: 'compliant',
      attestations: [{ format: 'snp' }],
      evidenceRefusal: { reasons: ['CHALLENGE_EXPIRED'] },
    });
  });

  test('needs new evidence after a reboot', async () => {
    const { world, agent } = await begin();
    const nonce = challenge(world, agent.instanceId);
    await report(world, agent, 1, nonce, [snp(t(agent, nonce))]);
    world.advance(5);
    const bootId = '99999999-2222-4333-8444-555555555555';
    sendReport(world, sealReport(world, agent, 1, { facts: SNP_FACTS, bootId }));
    await world.drain();
    expect((await world.record(agent.instanceId))?.posture).toMatchObject({
      verdict: 'unproven',
      attestations: [],
    });
  });

  test('counts a leaf alone once its chain was seen, and keeps no chain that did not verify', async () => {
    const { world, agent } = await begin();
    const leafOnly = vlekChain.slice(0, 1);
    const first = challenge(world, agent.instanceId);
    const before = await report(world, agent, 1, first, [snp(t(agent, first), leafOnly)]);
    expect(before?.posture?.attestations).toEqual([]);
    expect([...world.rows.keys()].filter((pk) => pk.startsWith('collateral#'))).toEqual([]);
    world.advance(1);
    const second = challenge(world, agent.instanceId);
    await report(world, agent, 2, second, [snp(t(agent, second))]);
    world.advance(1);
    const third = challenge(world, agent.instanceId);
    const after = await report(world, agent, 3, third, [snp(t(agent, third), leafOnly)]);
    expect(after?.posture?.evidenceRefusal).toBeNull();
    expect(after?.posture?.attestations).toMatchObject([{ verifiedAt: world.now().toISOString() }]);
  });
});

test('nobody can have a chain remembered that did not verify', async () => {
  const { world, agent } = await begin();
  const nonce = challenge(world, agent.instanceId);
  const garbage = [Buffer.from('garbage').toString('base64'), Buffer.from('more').toString('base64')];
  const victim = Buffer.from(makeLeaf(amd, { kind: 'VLEK' })).toString('base64');
  await report(world, agent, 1, nonce, [snp(t(agent, nonce), [victim, ...garbage]), snp(t(agent, nonce))]);
  const kept = [...world.rows.entries()].filter(([pk]) => pk.startsWith('collateral#'));
  expect(kept.map(([, row]) => row['certificates'])).toEqual([vlekChain.slice(1)]);
});

test('a leaf alone counts with the CA certificates that the operator configured, as on EC2', async () => {
  const authorities = [amd.ark.Milan.der, amd.asvk.Milan.der].map((der) => new X509Certificate(der));
  const { world, agent } = await begin(undefined, authorities);
  const nonce = challenge(world, agent.instanceId);
  const record = await report(world, agent, 1, nonce, [snp(t(agent, nonce), vlekChain.slice(0, 1))]);
  expect(record?.posture).toMatchObject({ verdict: 'compliant', attestations: [{ format: 'snp' }] });
});

describe('what was fetched of AMD’s server', () => {
  const chain = {
    pk: 'collateral#VLEK/Milan',
    certificates: vlekChain.slice(1),
    expiresAt: timestamp.getTime() / 1000 + 86_400,
    version: 1,
  };
  const list = (serials: number[], expiresAt = chain.expiresAt) => ({
    pk: 'collateral#VLEK/Milan/crl',
    crl: crl(amd.ark.Milan, serials, {
      signature: 'pssSha384',
      from: '20200101000000Z',
      until: '20480101000000Z',
    }).toString('base64'),
    thisUpdate: '2020-01-01T00:00:00.000Z',
    expiresAt,
    version: 1,
  });

  async function reportLeafAlone(...rows: { readonly pk: string }[]) {
    const { world, agent } = await begin();
    for (const row of rows) world.rows.set(row.pk, { ...row });
    const nonce = challenge(world, agent.instanceId);
    const record = await report(world, agent, 1, nonce, [snp(t(agent, nonce), vlekChain.slice(0, 1))]);
    return {
      accepted: record?.posture?.attestations.length,
      refusal: record?.posture?.evidenceRefusal?.reasons,
    };
  }

  test('completes a leaf alone, as EC2 gives it, though nobody configured or sent a chain', async () => {
    expect(await reportLeafAlone(chain, list([]))).toEqual({ accepted: 1, refusal: undefined });
  });

  test('refuses a VLEK whose authority AMD revoked', async () => {
    const outcome = await reportLeafAlone(chain, list([asvkSerial]));
    expect(outcome).toEqual({ accepted: 0, refusal: ['CERTIFICATE_REVOKED'] });
  });

  test('counts no longer when it has expired, whether or not the table has removed it', async () => {
    const past = timestamp.getTime() / 1000 - 1;
    expect(await reportLeafAlone({ ...chain, expiresAt: past } as typeof chain)).toEqual({
      accepted: 0,
      refusal: ['CHAIN_INCOMPLETE'],
    });
    // An expired list says nothing; whether one is demanded is the policy's to say.
    expect(await reportLeafAlone(chain, list([asvkSerial], past))).toEqual({
      accepted: 1,
      refusal: undefined,
    });
  });
});

test('the document of a NitroTPM counts, with what was booted; an enclave’s says nothing of the VM', async () => {
  const document = (agent: TestAgent, nonce: Buffer, kind: 'enclave' | 'nitrotpm'): Evidence => [
    {
      format: 'nitro',
      document: makeDocument(nitro, { kind, fields: { user_data: plain(t(agent, nonce)) } }).toString(
        'base64',
      ),
    },
  ];
  const { world, agent } = await begin();
  const first = challenge(world, agent.instanceId);
  const refused = await report(world, agent, 1, first, document(agent, first, 'enclave'));
  expect(refused?.posture).toMatchObject({ attestations: [], evidenceRefusal: { reasons: ['NITRO_KIND'] } });
  world.advance(1);
  const second = challenge(world, agent.instanceId);
  const counted = await report(world, agent, 2, second, document(agent, second, 'nitrotpm'));
  expect(counted?.posture?.attestations).toMatchObject([{ format: 'nitro', value: '05'.repeat(48) }]);
});

test('a certificate without a name is refused with its report, and holds up nothing', async () => {
  const { world, agent } = await begin();
  const nonce = challenge(world, agent.instanceId);
  const nameless = issue('none', keyPair('P-384'), undefined, {
    ca: false,
    subjectName: Buffer.from('3000', 'hex'),
  });
  const record = await report(world, agent, 1, nonce, [
    snp(t(agent, nonce), [nameless.der.toString('base64')]),
  ]);
  expect(record?.posture?.evidenceRefusal?.reasons).toEqual(['SNP_KEY_CERTIFICATE_MALFORMED']);
});

describe('evidence that does not count', () => {
  const refused = async (
    make: (agent: TestAgent, nonce: Buffer, world: World) => Evidence,
    overrides: Record<string, unknown> = {},
  ) => {
    const { world, agent } = await begin();
    const nonce = challenge(world, agent.instanceId, overrides);
    const record = await report(world, agent, 1, nonce, make(agent, nonce, world));
    expect(record?.posture?.verdict).toBe('unproven');
    expect(record?.posture?.attestations).toEqual([]);
    const reasons = record?.posture?.evidenceRefusal?.reasons ?? [];
    const announced = world.announced
      .filter((e) => e.detailType === 'Report Refused')
      .map((e) => e.detail['reason']);
    expect(announced).toEqual(reasons);
    return reasons;
  };

  test('a genuine SNP report borrowed from another VM', async () => {
    const other = createAgent('i-0fffffffffffffff0');
    expect(await refused((_agent, nonce) => [snp(t(other, nonce))])).toEqual(['REPORT_DATA_MISMATCH']);
  });

  test('a genuine SNP report over a challenge for another purpose', async () => {
    expect(await refused((agent, nonce) => [snp(t(agent, nonce, { purpose: 'enrol' }))])).toEqual([
      'REPORT_DATA_MISMATCH',
    ]);
  });

  test('a genuine SNP report of a VM that EC2 did not launch with SEV-SNP', async () => {
    const { world, agent, vm } = await begin();
    world.vms.set(vm.id, { ...vm, amdSevSnp: undefined });
    world.stateChange(vm);
    await world.drain();
    const nonce = challenge(world, agent.instanceId);
    const record = await report(world, agent, 1, nonce, [snp(t(agent, nonce))], [...GOOD_FACTS]);
    expect(record?.posture?.evidenceRefusal?.reasons).toEqual(['SNP_NOT_ASSERTED']);
    expect(record?.posture?.attestations).toEqual([]);
  });

  test('a second, self-made TPM that quotes for this VM', async () => {
    const reasons = await refused((agent, nonce) => {
      const attest = makeAttest({ nonce: createHash('sha256').update(t(agent, nonce)).digest() });
      return [tpm(attest)];
    });
    expect(reasons).toEqual(['TPM_KEY_NOT_BOUND']);
  });

  test('a quote over another transcript', async () => {
    const reasons = await refused((agent, nonce) => {
      const other = t(agent, nonce, { purpose: 'enrol' });
      return [tpm(makeAttest({ nonce: createHash('sha256').update(other).digest() }))];
    });
    expect(reasons).toContain('NONCE_MISMATCH');
  });

  test('a NitroTPM document of another instance', async () => {
    const reasons = await refused((agent, nonce) => [
      {
        format: 'nitro',
        document: makeDocument(nitro, {
          instanceId: 'i-0fffffffffffffff0',
          fields: { user_data: plain(t(agent, nonce)) },
        }).toString('base64'),
      },
    ]);
    expect(reasons).toContain('NITRO_INSTANCE_MISMATCH');
  });

  test.each([
    ['that was never issued', 'CHALLENGE_UNKNOWN', undefined],
    ['that was used before', 'CHALLENGE_USED', { used: true, usedBy: 'another report' }],
    ['that is older than a minute', 'CHALLENGE_EXPIRED', { expiresAtMs: 0 }],
    ['that was issued to another VM', 'CHALLENGE_FOREIGN', { instanceId: 'i-0fffffffffffffff0' }],
    ['for another purpose', 'CHALLENGE_FOREIGN', { purpose: 'enrol' }],
  ])('evidence over a challenge %s', async (_name, code, overrides) => {
    const reasons =
      overrides === undefined
        ? await refused((agent, nonce, world) => {
            world.rows.delete(`nonce#${createHash('sha256').update(nonce).digest('base64url')}`);
            return [snp(t(agent, nonce))];
          })
        : await refused((agent, nonce) => [snp(t(agent, nonce))], overrides);
    expect(reasons).toEqual([code]);
  });

  const tpm = (attest: Uint8Array): Evidence[number] => ({
    format: 'tpm',
    attest: Buffer.from(attest).toString('base64'),
    signature: Buffer.from(makeSignature(attest)).toString('base64'),
    ak: Buffer.from(spki(akKeys.publicKey)).toString('base64'),
    pcrs: Buffer.from(pcrJson()).toString('base64'),
  });
});

test('evidence holds when the worker dies right after it consumed the challenge', async () => {
  const { world, agent } = await begin();
  const nonce = challenge(world, agent.instanceId);
  const evidence = [snp(t(agent, nonce))];
  sendReport(
    world,
    sealReport(world, agent, 1, { facts: SNP_FACTS, nonce: nonce.toString('base64'), evidence }),
  );
  world.effects.killAfter(1);
  await world.deliver('ingest-report', world.queues.get('ingest-report') ?? []);
  expect(world.effects.names.at(-1)).toMatch(/^update nonce#/);
  world.effects.revive();
  await world.drain();
  expect((await world.record(agent.instanceId))?.posture).toMatchObject({
    verdict: 'compliant',
    attestations: [{ format: 'snp' }],
  });
});
