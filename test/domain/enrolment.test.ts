import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import {
  CHALLENGE_SECONDS,
  type ChallengeItem,
  challengeKey,
  challengeRefusal,
  challengeRequest,
  decideEnrolment,
  enrolmentRequest,
} from '../../lib/domain/enrolment.ts';
import { createAgent } from '../world/agent.ts';
import { AT, aDisk, aGeneration, anEnrolment, aVm, later, NOW, VM_ID } from '../world/items.ts';

const agent = createAgent(VM_ID);
const publicKey = agent.spki.toString('base64');
const decide = (overrides: Partial<Parameters<typeof decideEnrolment>[0]> = {}) =>
  decideEnrolment({ vm: aVm(), enrolment: undefined, publicKey, disks: [], now: NOW, ...overrides });

describe('a first enrolment', () => {
  test('is granted to a running VM in its window', () => {
    expect(decide()).toEqual({ kind: 'enrol' });
  });

  test('is granted when a key is issued for a disk, and none confirmed', () => {
    expect(decide({ disks: [aDisk()] })).toEqual({ kind: 'enrol' });
  });

  test('is refused for a VM that was not observed, for now', () => {
    expect(decide({ vm: undefined })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_VM_UNKNOWN',
      retryable: true,
    });
  });

  test('is refused for a VM out of scope, for now', () => {
    expect(decide({ vm: aVm({ managed: false }) })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_VM_NOT_MANAGED',
      retryable: true,
    });
  });

  test.each([
    ['pending', true],
    ['stopping', false],
    ['stopped', false],
    ['shutting-down', false],
    ['terminated', false],
  ] as const)('is refused while EC2 shows the VM %s (worth another try: %s)', (state, retryable) => {
    expect(decide({ vm: aVm({ observation: { state } }) })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_VM_NOT_RUNNING',
      retryable,
    });
  });

  test('is refused for a VM that is gone', () => {
    expect(decide({ vm: aVm({ gone: true }) })).toMatchObject({ reason: 'ENROL_VM_NOT_RUNNING' });
  });

  test.each([
    [899, 'enrol'],
    [900, 'enrol'],
    [900.001, 'refuse'],
    [901, 'refuse'],
  ])('%d seconds after launch ends in %s', (seconds, kind) => {
    expect(decide({ now: later(seconds) }).kind).toBe(kind);
  });

  test('after its window is refused for good', () => {
    expect(decide({ now: later(901) })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_WINDOW_CLOSED',
      retryable: false,
    });
  });

  test('is not let in again by stop and start, which renew the launch time', () => {
    const restarted = aVm({ observation: { launchTime: later(7200).toISOString() } });
    expect(decide({ vm: restarted, now: later(7201) })).toMatchObject({ reason: 'ENROL_WINDOW_CLOSED' });
  });

  test('counts from the launch when that is older than the first sight', () => {
    const old = aVm({ observation: { launchTime: later(-901).toISOString() } });
    expect(decide({ vm: old })).toMatchObject({ reason: 'ENROL_WINDOW_CLOSED' });
  });

  test.each(['active', 'retiring', 'retired'] as const)('is refused once a disk of the VM is %s', (state) => {
    const disks = [aDisk(), aDisk({ generations: [aGeneration({ state }), aGeneration({ generation: 2 })] })];
    expect(decide({ disks })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_DISK_CONFIRMED',
      retryable: false,
    });
  });
});

describe('a second enrolment', () => {
  test('with the same key changes nothing, at any time', () => {
    const enrolment = anEnrolment(agent);
    for (const now of [NOW, later(901), later(1e7)]) {
      expect(decide({ enrolment, now })).toEqual({ kind: 'already-enrolled' });
    }
  });

  test('with another key is refused, also in the window', () => {
    expect(decide({ enrolment: anEnrolment(createAgent(VM_ID)) })).toEqual({
      kind: 'refuse',
      reason: 'ENROL_OTHER_KEY',
      retryable: false,
    });
  });

  test('never replaces a key, whatever else is true', () => {
    void fc.assert(
      fc.property(
        fc.boolean(),
        fc.record({ managed: fc.boolean(), gone: fc.boolean() }),
        fc.constantFrom('pending', 'running', 'stopped', 'terminated'),
        fc.integer({ min: -1000, max: 10_000 }),
        fc.boolean(),
        (same, flags, state, seconds, confirmed) => {
          const { kind } = decide({
            vm: aVm({ ...flags, observation: { state } }),
            enrolment: anEnrolment(same ? agent : createAgent(VM_ID)),
            now: later(seconds),
            disks: confirmed ? [aDisk({ generations: [aGeneration({ state: 'active' })] })] : [],
          });
          expect(kind).toBe(same ? 'already-enrolled' : 'refuse');
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('a challenge', () => {
  const challenge = (overrides: Partial<ChallengeItem> = {}): ChallengeItem => ({
    pk: 'nonce#x',
    instanceId: VM_ID,
    purpose: 'enrol',
    used: false,
    expiresAtMs: later(CHALLENGE_SECONDS).getTime(),
    expiresAt: later(CHALLENGE_SECONDS + 3600).getTime() / 1000,
    ...overrides,
  });
  const want = { instanceId: VM_ID, purpose: 'enrol', now: NOW };

  test('that is unused, fresh and the VM’s own is good', () => {
    expect(challengeRefusal(challenge(), want)).toBeUndefined();
  });

  test.each<[string, ChallengeItem | undefined, Date]>([
    ['CHALLENGE_UNKNOWN', undefined, NOW],
    ['CHALLENGE_USED', challenge({ used: true }), NOW],
    ['CHALLENGE_FOREIGN', challenge({ instanceId: 'i-00000002' }), NOW],
    ['CHALLENGE_FOREIGN', challenge({ purpose: 'release' }), NOW],
    ['CHALLENGE_FOREIGN', challenge({ instanceId: 'i-00000002', used: true }), later(9999)],
    ['CHALLENGE_EXPIRED', challenge(), later(60)],
    ['CHALLENGE_EXPIRED', challenge(), later(61)],
  ])('is refused as %s', (reason, item, now) => {
    expect(challengeRefusal(item, { ...want, now })).toBe(reason);
  });

  test('is good to its last millisecond', () => {
    expect(challengeRefusal(challenge(), { ...want, now: later(59.999) })).toBeUndefined();
  });

  test('is stored under its hash, so that who reads the table cannot answer', () => {
    const nonce = randomBytes(32);
    expect(challengeKey(nonce)).toBe(`nonce#${createHash('sha256').update(nonce).digest('base64url')}`);
    expect(challengeKey(nonce)).not.toContain(nonce.toString('base64url'));
  });
});

describe('the body of a request', () => {
  const request = {
    instanceId: VM_ID,
    nonce: randomBytes(32).toString('base64'),
    identityDocument: 'AAAA',
    agentPublicKey: publicKey,
    signature: Buffer.alloc(64).toString('base64'),
  };

  test('fits', () => {
    expect(enrolmentRequest.safeParse(request).success).toBe(true);
  });

  test.each([
    ['a nonce of 31 bytes', { nonce: randomBytes(31).toString('base64') }],
    ['a nonce of 33 bytes', { nonce: randomBytes(33).toString('base64') }],
    ['a nonce in another alphabet', { nonce: '-'.repeat(44) }],
    ['an empty identity document', { identityDocument: '' }],
    ['a large identity document', { identityDocument: 'A'.repeat(16_385) }],
    ['a large key', { agentPublicKey: 'A'.repeat(260) }],
    ['a large signature', { signature: 'A'.repeat(132) }],
    ['another kind of instance', { instanceId: 'mi-0a1b2c3d4e5f60718' }],
    ['a part of its own', { admin: true }],
  ])('does not fit with %s', (_, overrides) => {
    expect(enrolmentRequest.safeParse({ ...request, ...overrides }).success).toBe(false);
  });

  test('asks for a challenge for a purpose that there is', () => {
    expect(challengeRequest.safeParse({ instanceId: VM_ID, purpose: 'enrol' }).success).toBe(true);
    expect(challengeRequest.safeParse({ instanceId: VM_ID, purpose: 'admin' }).success).toBe(false);
  });
});

test('the window is PROTOCOL’s: fifteen minutes, to the moment it was first seen', () => {
  const vm = aVm({ firstSeenAt: AT, observation: { launchTime: later(600).toISOString() } });
  expect(decide({ vm, now: later(900) }).kind).toBe('enrol');
  expect(decide({ vm, now: later(901) }).kind).toBe('refuse');
});
