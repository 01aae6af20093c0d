import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import type { Fact } from '../../lib/domain/fact.ts';
import type { CapabilityReportDetail, ReportPayload } from '../../lib/domain/report.ts';
import { signAsAgent } from '../../lib/domain/signature.ts';
import { signedBytes } from '../../lib/domain/transcript.ts';
import { ACCOUNT, REGION } from './ec2.ts';
import { API_ORIGIN, type World } from './world.ts';

export interface TestAgent {
  readonly instanceId: string;
  readonly privateKey: KeyObject;
  readonly spki: Buffer;
}

/** A key of its own for each agent; making one is slow enough to share in property tests. */
export function createAgent(instanceId: string): TestAgent {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { instanceId, privateKey, spki: publicKey.export({ type: 'spki', format: 'der' }) };
}

/** Puts the agent's key where enrol-agent stores it. */
export function enrolled(world: World, agent: TestAgent): void {
  world.rows.set(`enrol#${agent.instanceId}`, {
    pk: `enrol#${agent.instanceId}`,
    version: 1,
    instanceId: agent.instanceId,
    publicKey: agent.spki.toString('base64'),
    enrolledAt: world.now().toISOString(),
  });
}

export const fact = (id: string, state: Fact['state'], value?: Fact['value']): Fact => ({
  id,
  state,
  evidence: 'test',
  ...(state === 'unknown' ? { reason: 'test' } : {}),
  ...(value === undefined ? {} : { value }),
});

/** What a VM that has nothing to hide reports. */
export const GOOD_FACTS: readonly Fact[] = [
  fact('virt.hypervisor', 'present', 'KVMKVMKVM'),
  fact('mem.swap', 'absent'),
  fact('mem.sev-snp.guest', 'absent'),
];

export const BOOT = '11111111-2222-4333-8444-555555555555';

/** A signed report; `overrides` change its payload before it is signed. */
export function sealReport(
  world: Pick<World, 'now'>,
  agent: TestAgent,
  sequence: number,
  overrides: Partial<ReportPayload> & { readonly apiOrigin?: string } = {},
): CapabilityReportDetail {
  const { apiOrigin = API_ORIGIN, ...changed } = overrides;
  const payload = JSON.stringify({
    schema: 'casemate.report/1',
    accountId: ACCOUNT,
    region: REGION,
    instanceId: agent.instanceId,
    bootId: BOOT,
    sequence,
    observedAt: world.now().toISOString(),
    sentAt: world.now().toISOString(),
    agentVersion: '0.1.0',
    facts: [...GOOD_FACTS],
    ...changed,
  } satisfies ReportPayload);
  const bytes = signedBytes(
    {
      purpose: 'report',
      apiOrigin,
      accountId: ACCOUNT,
      region: REGION,
      instanceId: agent.instanceId,
      agentPublicKey: agent.spki,
    },
    payload,
  );
  return {
    schemaVersion: 1,
    instanceId: agent.instanceId,
    payload,
    signature: signAsAgent(agent.privateKey, bytes).toString('base64'),
  };
}

export function sendReport(world: World, detail: CapabilityReportDetail): void {
  world.emit('casemate.agent', 'Capability Report', detail);
}
