import type { DiskItem, KeyGeneration } from '../../lib/domain/disk-key.ts';
import type { IsolationItem } from '../../lib/domain/isolation.ts';
import { nextOperator, type OperatorChange, type OperatorItem } from '../../lib/domain/operator.ts';
import type { PostureItem } from '../../lib/domain/posture.ts';
import type { EnrolItem, ReportStanding } from '../../lib/domain/report.ts';
import type { Observation, ObservedInterface, ObservedVolume, VmItem } from '../../lib/domain/vm.ts';
import { BOOT, type TestAgent } from './agent.ts';
import { ACCOUNT, REGION } from './ec2.ts';

/** Items of the table as the functions write them; every factory takes what a test wants different. */

export const VM_ID = 'i-0a1b2c3d4e5f60718';
export const DISK = '3f0f6c0e-9a55-4f5e-8f44-0d2b1c7a9e11';
export const AT = '2026-11-24T08:00:00.000Z';
export const NOW = new Date(AT);

/** `NOW` and so many seconds. */
export const later = (seconds: number): Date => new Date(NOW.getTime() + seconds * 1000);

export const anInterface = (overrides: Partial<ObservedInterface> = {}): ObservedInterface => ({
  id: 'eni-0a1b2c3d4e5f60718',
  vpcId: 'vpc-0a1b2c3d4e5f60718',
  groups: ['sg-0000aaaa', 'sg-0000bbbb'],
  managedBy: 'customer',
  publicAddress: false,
  ...overrides,
});

export const aVolume = (overrides: Partial<ObservedVolume> = {}): ObservedVolume => ({
  id: 'vol-0a1b2c3d4e5f60718',
  device: '/dev/sdf',
  root: false,
  sizeGiB: 8,
  multiAttach: false,
  ...overrides,
});

export const anObservation = (overrides: Partial<Observation> = {}): Observation => ({
  instanceId: VM_ID,
  accountId: ACCOUNT,
  region: REGION,
  state: 'running',
  launchTime: AT,
  instanceType: 'm6a.large',
  imageId: 'ami-0123456789abcdef0',
  vpcId: 'vpc-0a1b2c3d4e5f60718',
  autoScalingGroup: null,
  tags: { 'casemate:protect': 'true' },
  amdSevSnp: null,
  nestedVirtualization: null,
  hibernation: 'absent',
  interfaces: [anInterface()],
  volumes: [aVolume()],
  ...overrides,
});

export const aVm = (
  overrides: Partial<Omit<VmItem, 'observation'>> & { readonly observation?: Partial<Observation> } = {},
): VmItem => {
  const { observation, ...rest } = overrides;
  const seen = anObservation(observation);
  return {
    pk: `vm#${seen.instanceId}`,
    version: 1,
    observation: seen,
    firstSeenAt: AT,
    managed: true,
    leavingScope: false,
    decision: { at: AT, reasons: ['IN_SCOPE'], policies: ['scope.tagged'] },
    missingSince: null,
    gone: false,
    ...rest,
  };
};

export const aGeneration = (overrides: Partial<KeyGeneration> = {}): KeyGeneration => ({
  generation: 1,
  state: 'issued',
  wrappedKey: Buffer.from('wrapped').toString('base64'),
  wrappedFor: VM_ID,
  issuedAt: AT,
  ...overrides,
});

export const aDisk = (overrides: Partial<DiskItem> = {}): DiskItem => ({
  pk: `disk#${DISK}`,
  version: 1,
  disk: DISK,
  volumeId: aVolume().id,
  instanceId: VM_ID,
  generations: [aGeneration()],
  decision: { at: AT, reasons: ['KEY_ISSUED'], policies: ['disk-keys.managed'] },
  ...overrides,
});

export const aStanding = (overrides: Partial<ReportStanding> = {}): ReportStanding => ({
  bootId: BOOT,
  sequence: 1,
  sentAt: AT,
  observedAt: AT,
  missing: 0,
  late: 0,
  ...overrides,
});

export const aPosture = (overrides: Partial<PostureItem> = {}): PostureItem => ({
  pk: `posture#${VM_ID}`,
  version: 1,
  instanceId: VM_ID,
  standing: aStanding(),
  facts: [],
  attestations: [],
  evidenceRefusal: null,
  contradicted: false,
  refusals: { count: 0, last: null },
  verdict: 'compliant',
  reasons: ['POSTURE_PROVEN'],
  policies: ['posture.reported'],
  validUntil: later(900).toISOString(),
  decidedAt: AT,
  decisions: [],
  ...overrides,
});

export const anIsolation = (overrides: Partial<IsolationItem> = {}): IsolationItem => ({
  pk: `isolation#${VM_ID}`,
  version: 1,
  instanceId: VM_ID,
  profile: 'workload',
  applied: true,
  mode: 'enforce',
  interfaces: [{ id: anInterface().id, originals: null, groups: [...anInterface().groups] }],
  reasons: ['POSTURE_PROVEN'],
  drift: [],
  steps: [],
  definition: 'workload',
  tenant: null,
  changedAt: AT,
  decisions: [],
  ...overrides,
});

export const DECISION = { at: AT, by: 'arn:aws:iam::123456789012:user/ada', reason: 'seen scanning' };

/** An operator contained the VM, unless told otherwise; `undefined` takes a member away. */
export const anOperator = (overrides: OperatorChange['set'] = {}): OperatorItem => ({
  pk: `operator#${VM_ID}`,
  version: 1,
  ...nextOperator(undefined, {
    instanceId: VM_ID,
    what: 'quarantine',
    decision: DECISION,
    set: { quarantine: DECISION, ...overrides },
  }),
});

export const anEnrolment = (agent: TestAgent): EnrolItem => ({
  pk: `enrol#${agent.instanceId}`,
  version: 1,
  instanceId: agent.instanceId,
  publicKey: agent.spki.toString('base64'),
  enrolledAt: AT,
});
