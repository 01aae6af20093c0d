import { existsSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PutItemCommand } from '@aws-sdk/client-dynamodb';
import {
  CreateSubnetCommand,
  DescribeInstancesCommand,
  DescribeSubnetsCommand,
  RunInstancesCommand,
  TerminateInstancesCommand,
} from '@aws-sdk/client-ec2';
import { PutEventsCommand } from '@aws-sdk/client-eventbridge';
import {
  CreateRoleCommand,
  GetRolePolicyCommand,
  IAMClient,
  NoSuchEntityException,
} from '@aws-sdk/client-iam';
import { DecryptCommand, KMSClient } from '@aws-sdk/client-kms';
import { SendMessageBatchCommand, SendMessageCommand } from '@aws-sdk/client-sqs';
import { marshall } from '@aws-sdk/util-dynamodb';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { readSignedIdentity } from '../../agent/metadata.ts';
import { openTpm } from '../../agent/tpm.ts';
import { OPENS_DISKS, startAgent, startAgents } from '../../bin/local/agents.ts';
import { ACCOUNT, CREDENTIALS, REGION, tpmFolder } from '../../bin/local/emulators.ts';
import { createNetwork, launch, type Network, PLANS, PROTECT_TAG, type VmPlan } from '../../bin/local/vms.ts';
import { waitingFor } from '../../bin/local/waiting.ts';
import { divergences } from '../../lib/domain/convergence.ts';
import { DENIAL_POLICY } from '../../lib/domain/credentials.ts';
import { type DiskItem, encryptionContext } from '../../lib/domain/disk-key.ts';
import { nextOperator } from '../../lib/domain/operator.ts';
import { DEFAULT_LIMITS, QUOTA_PK, QUOTA_SECONDS } from '../../lib/domain/quotas.ts';
import { signedBytes } from '../../lib/domain/transcript.ts';
import { missingTools, startSoftwareTpm } from '../world/software-tpm.ts';
import {
  type Cloud,
  missingPrerequisite,
  processesOf,
  QUEUE_FUNCTIONS,
  type QueueFunction,
  startCloud,
} from './cloud.ts';
import {
  createAgent,
  createLane,
  enrolAtLast,
  fencedIn,
  type Lane,
  letOut,
  settled,
  watchLanes,
} from './lane.ts';
import { type Call, mutates } from './proxy.ts';

const missing = await missingPrerequisite();
const deployed = missing === undefined ? test : test.skip;
const attesting = missing === undefined && missingTools.length === 0 ? test : test.skip;
const skipped = missing === undefined ? '' : `skipped: ${missing}: `;

let cloud: Cloud;
let began = 0;
let stopped = false;

beforeAll(async () => {
  began = Date.now();
  if (missing !== undefined) return;
  cloud = await startCloud({ denyCredentialsOfRoles: 'web' });
  // A sweep of its own time would find a VM before its test has said what is to become of its calls.
  await cloud.endSchedules();
}, 300_000);
afterAll(async () => {
  await cloud?.stop();
}, 60_000);

// A test that fails leaves no rule and no message to the next one.
afterEach(async () => {
  if (!cloud || stopped) return;
  cloud.proxy.clearRules();
  await cloud.queueAttributes({ VisibilityTimeout: '10' });
  for (const name of QUEUE_FUNCTIONS) {
    await cloud.purge(cloud.functions[name].queueUrl);
    await cloud.purge(cloud.functions[name].deadLettersUrl);
  }
});

/** Every queue is empty: nothing waits, nothing is being worked on. */
async function untilQuiet(seconds: number): Promise<void> {
  await cloud.until(seconds, async () => {
    const depths = await Promise.all(
      QUEUE_FUNCTIONS.map((name) => cloud.depth(cloud.functions[name].queueUrl)),
    );
    const busy = depths.reduce((sum, depth) => sum + depth.visible + depth.inFlight, 0);
    return busy === 0 ? undefined : `${busy} messages: ${JSON.stringify(depths)}`;
  });
}

/** Nobody has anything to do any more, though messages whose workers died may never come back. */
async function untilIdle(seconds: number): Promise<void> {
  let calls = -1;
  let since = 0;
  await cloud.until(seconds, async () => {
    const depths = await Promise.all(
      QUEUE_FUNCTIONS.map((name) => cloud.depth(cloud.functions[name].queueUrl)),
    );
    if (depths.some((depth) => depth.visible > 0) || calls !== cloud.proxy.calls.length) {
      calls = cloud.proxy.calls.length;
      since = Date.now();
    }
    return Date.now() - since > 2500 ? undefined : `at work: ${JSON.stringify(depths)}`;
  });
}

/** Has EC2 looked at once more, as the next scheduled sweep would. */
async function sweepAndSettle(): Promise<void> {
  await cloud.sweep();
  await untilIdle(90);
}

async function untilAll(
  lanes: readonly Lane[],
  seconds: number,
  what: string,
  condition: typeof letOut,
): Promise<void> {
  await cloud.until(seconds, async () => {
    const fleet = await cloud.fleet();
    const open = lanes.filter((lane) => !condition(fleet.get(lane.instanceId)));
    return open.length === 0 ? undefined : `not ${what}: ${open.map((l) => l.instanceId).join(', ')}`;
  });
}

/** Launch to open fence: what happens to every VM that can prove itself. */
async function runThrough(lanes: readonly Lane[], seconds: number): Promise<void> {
  await cloud.stateChange(
    lanes.map((lane) => lane.instanceId),
    'running',
  );
  await untilAll(lanes, seconds, 'fenced with a key', fencedIn);
  await Promise.all(lanes.map((lane) => enrolAtLast(lane, seconds)));
  await Promise.all(lanes.map((lane) => lane.agent.report(1)));
  await untilAll(lanes, seconds, 'let out', letOut);
}

// Real processes are killed here while others run: what fails once is said, and tried once more; at once, because
// the last test ends the cloud.
jest.retryTimes(1, { logErrorsBeforeRetry: true, retryImmediately: true });

describe(`${skipped}the deployed stack on the emulators`, () => {
  const four: string[] = [];
  let network: Network;
  let feed: { stop(): Promise<void> } | undefined;

  deployed(
    'gives four VMs with real agents their keys, fences and postures',
    async () => {
      network = await createNetwork(cloud.ec2);
      feed = cloud.feed();
      const agents = startAgents({ ...cloud });
      try {
        for (const plan of PLANS) four.push(await launch(cloud.ec2, network, plan));
        await cloud.until(150, async () => {
          const waiting = waitingFor(four, await cloud.fleet(), new Date(), OPENS_DISKS);
          return waiting.length === 0 ? undefined : waiting.join(' · ');
        });
      } finally {
        await agents.stop();
      }
      const fleet = await cloud.fleet();
      const records = four.map((id) => fleet.get(id));
      expect(records.map((r) => r && divergences(r, 'enforce', new Date()))).toEqual([[], [], [], []]);
      expect(records.map((r) => r?.vm.managed)).toEqual([true, true, true, false]);
      // Two recorded machines have no plain swap; the first VM is this machine, which may.
      for (const record of records.slice(1, 3)) {
        expect(record?.posture).toMatchObject({ verdict: 'compliant', reasons: ['POSTURE_PROVEN'] });
        expect(record?.isolation).toMatchObject({ profile: 'workload', applied: true });
      }
      expect(records[0]?.posture?.standing?.sequence).toBeGreaterThan(0);
      expect(records[0]?.isolation).toMatchObject({
        profile: records[0]?.posture?.verdict === 'compliant' ? 'workload' : 'probation',
        applied: true,
      });
      expect(records[3]?.isolation).toBeUndefined();
      expect(records[3]?.posture).toBeUndefined();

      const items = await cloud.items();
      const disks = items.filter((item) => item['generations'] !== undefined) as unknown as DiskItem[];
      const covered = records
        .slice(0, 3)
        .flatMap((r) => r?.vm.observation.volumes.filter((v) => !v.root) ?? []);
      expect(covered).toHaveLength(4);
      expect(disks.map((disk) => disk.volumeId).sort()).toEqual(covered.map((v) => v.id).sort());
      // Confirmed by the agents that were given them, where cryptsetup is there to open anything with.
      const compliant = new Set(four.filter((id) => fleet.get(id)?.posture?.verdict === 'compliant'));
      for (const { instanceId, generations } of disks) {
        const state = OPENS_DISKS && compliant.has(instanceId) ? 'active' : 'issued';
        expect(generations.map((g) => g.state)).toEqual([state]);
      }
      const kms = new KMSClient({ endpoint: cloud.emulators.aws, region: REGION, credentials: CREDENTIALS });
      for (const disk of disks) {
        const CiphertextBlob = Buffer.from(disk.generations[0]?.wrappedKey ?? '', 'base64');
        const own = encryptionContext(disk.disk, 1, disk.instanceId);
        const { Plaintext } = await kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext: own }));
        expect(Plaintext).toHaveLength(64);
        const foreign = encryptionContext(disk.disk, 1, 'i-00000000000000000');
        await expect(
          kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext: foreign })),
        ).rejects.toThrow();
      }
      kms.destroy();
    },
    180_000,
  );

  deployed(
    'refuses every wrong enrolment over the API with its own reason, and binds the first key alone',
    async () => {
      const lanes = [await createLane(cloud, {}, network), await createLane(cloud, {}, network)];
      const [own, other] = lanes;
      if (!own || !other) throw new Error('two lanes were made');
      await untilAll(lanes, 60, 'observed', (record) => record?.vm.managed === true);

      const stranger = createAgent(cloud, own.instanceId);
      const nonceFor = async (instanceId: string) =>
        (await post('challenges', { instanceId, purpose: 'enrol' })).body['nonce'] ?? '';
      const document = (instanceId: string) => readSignedIdentity(cloud.metadata.endpointOf(instanceId));
      const signed = async (
        instanceId: string,
        nonce: string,
        key = own.agent.key,
        signer = key,
      ): Promise<Record<string, string>> => {
        const bytes = signedBytes({
          purpose: 'enrol',
          apiOrigin: cloud.emulators.aws,
          accountId: ACCOUNT,
          region: REGION,
          instanceId,
          nonce: Buffer.from(nonce, 'base64'),
          agentPublicKey: key.publicKey,
        });
        return {
          instanceId,
          nonce,
          identityDocument: await document(instanceId),
          agentPublicKey: key.publicKey.toString('base64'),
          signature: (await signer.sign(bytes)).toString('base64'),
        };
      };
      const answers = async (body: object) => {
        const { status, body: answer } = await post('enrolments', body);
        return `${status} ${answer['reason'] ?? answer['status']}`;
      };

      const good = await signed(own.instanceId, await nonceFor(own.instanceId));
      expect(await answers({ ...good, nonce: 'AAAA' })).toBe('400 REQUEST_MALFORMED');
      expect(await answers({ ...good, extra: 1 })).toBe('400 REQUEST_MALFORMED');
      expect(await answers({ ...good, identityDocument: 'bm90IG9uZQ==' })).toBe('403 IDENTITY_REFUSED');
      expect(await answers({ ...good, identityDocument: await document(other.instanceId) })).toBe(
        '403 IDENTITY_FOREIGN',
      );
      const forged = await signed(own.instanceId, good['nonce'] ?? '', own.agent.key, stranger.key);
      expect(await answers(forged)).toBe('403 ENROL_BAD_SIGNATURE');
      const foreign = await signed(own.instanceId, await nonceFor(other.instanceId));
      expect(await answers(foreign)).toBe('403 CHALLENGE_FOREIGN');
      const invented = await signed(own.instanceId, Buffer.alloc(32, 7).toString('base64'));
      expect(await answers(invented)).toBe('403 CHALLENGE_UNKNOWN');
      const outside = four[3] ?? '';
      const unmanaged = await signed(outside, await nonceFor(outside));
      expect(await answers(unmanaged)).toBe('409 ENROL_VM_NOT_MANAGED');

      // None of them spent the challenge of the good one, or enrolled anything.
      expect((await cloud.items()).map((item) => item['pk'])).not.toContain(`enrol#${own.instanceId}`);
      expect(await answers(good)).toBe('201 enrolled');
      expect(await answers(good)).toBe('403 CHALLENGE_USED');
      expect(await answers(await signed(own.instanceId, await nonceFor(own.instanceId)))).toBe(
        '200 already-enrolled',
      );
      const second = await signed(own.instanceId, await nonceFor(own.instanceId), stranger.key);
      expect(await answers(second)).toBe('403 ENROL_OTHER_KEY');
      const enrolment = (await cloud.items()).find((item) => item['pk'] === `enrol#${own.instanceId}`);
      expect(enrolment?.['publicKey']).toBe(own.agent.key.publicKey.toString('base64'));

      const refusals = () =>
        cloud
          .announced()
          .filter(
            (e) => e['detail-type'] === 'Enrolment Refused' && e.detail['instanceId'] === own.instanceId,
          )
          .map((e) => e.detail['reason'])
          .sort();
      const expected = [
        'CHALLENGE_FOREIGN',
        'CHALLENGE_UNKNOWN',
        'CHALLENGE_USED',
        'ENROL_BAD_SIGNATURE',
        'ENROL_OTHER_KEY',
        'IDENTITY_FOREIGN',
        'IDENTITY_REFUSED',
      ];
      await cloud.until(20, () =>
        refusals().length >= expected.length ? undefined : `announced so far: ${refusals()}`,
      );
      expect(refusals()).toEqual(expected);
    },
    120_000,
  );

  deployed(
    'reads the quotas of security groups, and keeps them for a day',
    async () => {
      await expect(cloud.readQuotas()).resolves.toEqual(DEFAULT_LIMITS);
      const kept = (await cloud.items()).find((item) => item['pk'] === QUOTA_PK);
      expect(kept).toMatchObject({ ...DEFAULT_LIMITS, version: 1 });
      expect(kept?.['expiresAt']).toBeGreaterThan(Date.now() / 1000 + QUOTA_SECONDS - 60);
      const calls = cloud.proxy.calls.filter((call) => call.operation === 'GetServiceQuota');
      expect(calls).toHaveLength(2);
    },
    60_000,
  );

  deployed(
    'denies the credentials of a contained VM in the role that is named, and gives them back with it',
    async () => {
      const iam = new IAMClient({ endpoint: cloud.emulators.aws, region: REGION, credentials: CREDENTIALS });
      const denied = async () => {
        try {
          const asked = { RoleName: 'web', PolicyName: DENIAL_POLICY };
          const { PolicyDocument = '' } = await iam.send(new GetRolePolicyCommand(asked));
          return decodeURIComponent(PolicyDocument);
        } catch (error) {
          if (error instanceof NoSuchEntityException) return undefined;
          throw error;
        }
      };
      try {
        await iam.send(new CreateRoleCommand({ RoleName: 'web', AssumeRolePolicyDocument: EC2_ALONE }));
        const { instanceId } = await createLane(cloud, {}, network);
        const observed = async () => (await cloud.fleet()).get(instanceId);
        await cloud.until(60, async () => (fencedIn(await observed()) ? undefined : 'not fenced'));
        expect(await denied()).toBeUndefined();

        await operatorSays(instanceId, 'quarantine');
        await cloud.until(60, async () => {
          const { profile, applied } = (await observed())?.isolation ?? {};
          return profile === 'quarantine' && applied ? undefined : `in ${profile}`;
        });
        await cloud.until(60, async () => ((await denied()) === undefined ? 'not denied' : undefined));
        expect(JSON.parse((await denied()) ?? '')).toMatchObject({
          Statement: [
            {
              Effect: 'Deny',
              Action: '*',
              Condition: {
                ArnEquals: {
                  'ec2:SourceInstanceARN': [`arn:aws:ec2:${REGION}:${ACCOUNT}:instance/${instanceId}`],
                },
              },
            },
          ],
        });

        await operatorSays(instanceId, 'restore');
        await cloud.until(60, async () => ((await denied()) === undefined ? undefined : 'denied yet'));
        expect((await observed())?.isolation?.profile).toBe('probation');
      } finally {
        iam.destroy();
      }
    },
    180_000,
  );

  attesting(
    'counts quotes of the TPM that EC2 reports for a VM, and none of a second one',
    async () => {
      const own = await startSoftwareTpm();
      const second = await startSoftwareTpm();
      const agents: { stop(): Promise<void> }[] = [];
      try {
        // EC2 reports the first TPM for both: the second VM's agent has one that somebody made himself.
        const reported = await (await openTpm(own.folder, own.tcti)).endorsementKey();
        const ids: string[] = [];
        for (const tpm of [own, second]) {
          const id = await launch(cloud.ec2, network, { ...PLANS[1], name: `tpm-${ids.length}` } as VmPlan);
          ids.push(id);
          // TPM2B_PUBLIC without its length is TPMT_PUBLIC.
          writeFileSync(join(tpmFolder(cloud.folder), `${id}.rsa-2048`), reported.subarray(2));
          const described = await cloud.ec2.send(new DescribeInstancesCommand({ InstanceIds: [id] }));
          const instance = described.Reservations?.[0]?.Instances?.[0] ?? {};
          agents.push(startAgent(cloud, id, instance, { tcti: tpm.tcti }));
        }
        const [genuine = '', posing = ''] = ids;
        const refusals = () =>
          cloud
            .announced()
            .filter((e) => e['detail-type'] === 'Enrolment Refused' && e.detail['instanceId'] === posing)
            .map((e) => e.detail['reason']);
        await cloud.until(150, async () => {
          const posture = (await cloud.fleet()).get(genuine)?.posture;
          if (!posture?.attestations.some(({ format }) => format === 'tpm')) return 'no quote counts yet';
          return refusals().length > 0 ? undefined : 'the second TPM is not refused yet';
        });
        expect(new Set(refusals())).toEqual(new Set(['TPM_NOT_OF_INSTANCE']));
        const fleet = await cloud.fleet();
        expect(fleet.get(posing)?.posture?.attestations).toEqual([]);
        const kept = (await cloud.items()).map((item) => item['pk']);
        expect(kept).toContain(`tpm#${genuine}`);
        expect(kept).not.toContain(`tpm#${posing}`);
      } finally {
        for (const agent of agents) await agent.stop();
        await own.stop();
        await second.stop();
      }
    },
    240_000,
  );

  deployed(
    'takes a VM for gone when it is terminated, or missed by sweeps 15 minutes apart, and keeps its keys',
    async () => {
      const [, terminated = '', vanished = ''] = four;
      const disksOf = async (id: string) =>
        (await cloud.items()).filter((item) => item['generations'] && item['instanceId'] === id);
      const kept = [await disksOf(terminated), await disksOf(vanished)];
      expect(kept.map((disks) => disks.length)).toEqual([2, 1]);
      const vm = async (id: string) => (await cloud.fleet()).get(id)?.vm;

      await cloud.ec2.send(new TerminateInstancesCommand({ InstanceIds: [terminated] }));
      await cloud.until(60, async () => ((await vm(terminated))?.gone ? undefined : 'not gone'));

      const show = cloud.proxy.rule((call) =>
        call.operation === 'DescribeInstances'
          ? { kind: 'edit', edit: (answer) => withoutInstance(answer, vanished) }
          : undefined,
      );
      try {
        // An event about a VM that EC2 does not show says nothing about the VM.
        await cloud.stateChange([vanished], 'running');
        await untilQuiet(60);
        expect(await vm(vanished)).toMatchObject({ missingSince: null, gone: false });
        await cloud.sweep();
        await cloud.until(60, async () => ((await vm(vanished))?.missingSince ? undefined : 'not missed'));
        await cloud.sweep();
        await untilQuiet(60);
        expect(await vm(vanished)).toMatchObject({ gone: false });
        // A quarter of an hour passes.
        const missed = await vm(vanished);
        if (!missed) throw new Error('the VM is in the table');
        await cloud.dynamodb.send(
          new PutItemCommand({
            TableName: cloud.outputs['TableName'],
            Item: marshall(
              {
                ...missed,
                version: missed.version + 1,
                missingSince: new Date(Date.now() - 15 * 60_000).toISOString(),
              },
              { removeUndefinedValues: true },
            ),
          }),
        );
        await cloud.sweep();
        await cloud.until(60, async () => ((await vm(vanished))?.gone ? undefined : 'not gone'));
      } finally {
        show();
      }
      expect([await disksOf(terminated), await disksOf(vanished)]).toEqual(kept);
      // Nothing was final: EC2 shows it again.
      await cloud.sweep();
      await cloud.until(60, async () => ((await vm(vanished))?.gone ? 'still gone' : undefined));
      expect((await vm(terminated))?.gone).toBe(true);
    },
    180_000,
  );

  deployed(
    'sends bad input of every queue to the rejected queue with its reason, and nothing of its batch waits',
    async () => {
      await feed?.stop(); // from here on events come from the tests alone
      await untilQuiet(60);
      await cloud.take(cloud.rejectedUrl);
      // What was returned to its queue instead would be seen in flight for all of the test.
      await cloud.queueAttributes({ VisibilityTimeout: '600' });
      const { instanceId } = await createLane(cloud, { inScope: false });
      const event = (source: string, type: string, detail: object) =>
        JSON.stringify({ version: '0', id: 'x', source, 'detail-type': type, detail });
      const state = 'EC2 Instance State-change Notification';
      const good: Record<QueueFunction, string> = {
        'observe-vm': event('aws.ec2', state, { 'instance-id': instanceId, state: 'running' }),
        'issue-disk-keys': changed(instanceId),
        'ingest-report': changed(instanceId),
        'apply-isolation': changed(instanceId),
      };
      // Its cut-off falls into the middle of a character of two code units, which SQS would not take.
      const large = `x${'😀'.repeat(80_000)}`;
      const bad: Record<QueueFunction, Record<string, string>> = {
        'observe-vm': {
          EVENT_MALFORMED: event('aws.ec2', state, { 'instance-id': 'nobody', state: 'running' }),
        },
        'issue-disk-keys': { EVENT_MALFORMED: event('casemate', 'VM Changed', { instanceId }) },
        'ingest-report': {
          EVENT_MALFORMED: event('casemate', 'VM Changed', { instanceId }),
          // Its key is told in the reason, and SQS takes no control characters.
          REPORT_MALFORMED: event('casemate.agent', 'Capability Report', { '\u0001': 1, instanceId }),
        },
        'apply-isolation': { EVENT_MALFORMED: event('casemate', 'Posture Changed', { instanceId }) },
      };
      const expected: string[] = [];
      await cloud.mapping({ Enabled: false });
      for (const name of QUEUE_FUNCTIONS) {
        const inputs = {
          EVENT_NOT_JSON: 'this is no event',
          EVENT_UNKNOWN: event('somebody.else', 'Something', { instanceId }),
          EVENT_TOO_LARGE: large,
          ...bad[name],
        };
        expected.push(...Object.keys(inputs).map((reason) => `${name} ${reason}`));
        const bodies = [...Object.values(inputs), '{"source":"casemate"}', good[name]];
        expected.push(`${name} EVENT_MALFORMED`);
        await cloud.sqs.send(
          new SendMessageBatchCommand({
            QueueUrl: cloud.functions[name].queueUrl,
            Entries: bodies.map((MessageBody, i) => ({ Id: String(i), MessageBody })),
          }),
        );
      }
      await cloud.mapping({ Enabled: true });

      await cloud.until(60, async () => ((await cloud.fleet()).has(instanceId) ? undefined : 'not observed'));
      await untilQuiet(60);
      const rejected = await cloud.take(cloud.rejectedUrl);
      const told = rejected.map((m) => {
        const attribute = (name: string) => m.MessageAttributes?.[name]?.StringValue;
        return `${attribute('function')} ${attribute('reason')}`;
      });
      expect(told.sort()).toEqual(expected.sort());
      for (const message of rejected) {
        expect(Object.keys(message.MessageAttributes ?? {}).sort()).toEqual([
          'detail',
          'function',
          'messageId',
          'reason',
        ]);
        const reason = message.MessageAttributes?.['reason']?.StringValue;
        expect(message.MessageAttributes?.['detail']?.StringValue).toMatch(/^[\P{Cc}\n]+$/u);
        if (reason === 'EVENT_NOT_JSON') expect(message.Body).toBe('this is no event');
        if (reason === 'EVENT_TOO_LARGE') expect(message.Body?.startsWith('x😀')).toBe(true);
      }
      for (const name of QUEUE_FUNCTIONS) {
        expect(await cloud.depth(cloud.functions[name].deadLettersUrl)).toEqual({ visible: 0, inFlight: 0 });
      }
    },
    180_000,
  );

  // What follows counts effects, so each message is worked on alone.
  const ALONE = { BatchSize: 1, MaximumBatchingWindowInSeconds: 0, ScalingConfig: { MaximumConcurrency: 2 } };
  let reference:
    | { readonly effects: readonly string[]; readonly kinds: readonly string[]; readonly settled: unknown }
    | undefined;

  /** The way of a VM that nothing disturbs. */
  const undisturbed = async () => {
    if (reference) return reference;
    await feed?.stop();
    const lane = await createLane(cloud);
    const unwatch = watchLanes(cloud, [lane]);
    await runThrough([lane], 60);
    await untilQuiet(60);
    unwatch();
    await sweepAndSettle();
    reference = {
      effects: [...lane.effects],
      kinds: [...new Set([...lane.effects, ...lane.reads].map((label) => label.split(' ', 2).join(' ')))],
      settled: await settled(cloud, lane, await cloud.items()),
    };
    return reference;
  };

  deployed(
    'ends in the same state when a worker dies right after any one of its effects, and announces no less',
    async () => {
      await cloud.mapping(ALONE);
      await cloud.queueAttributes({ VisibilityTimeout: '5' });
      const calm = await undisturbed();
      const points = calm.effects;
      const died: string[] = [];
      const lanes = await Promise.all(points.map(() => createLane(cloud)));
      lanes.forEach((lane, i) => {
        lane.fate = (label) => {
          if (label !== points[i] || died.includes(label)) return undefined;
          died.push(label);
          return { kind: 'kill' };
        };
      });
      const unwatch = watchLanes(cloud, lanes);
      const kills = cloud.proxy.kills.length;
      await runThrough(lanes, 150);
      await untilQuiet(60);
      unwatch();
      await sweepAndSettle();
      // Which effects come a second time hangs on which of two messages of a VM is first.
      const unreached = points.filter((point) => !died.includes(point));
      expect(unreached.filter((point) => point.endsWith('#1'))).toEqual([]);
      expect(unreached.length).toBeLessThan(points.length / 5);
      expect(cloud.proxy.kills).toHaveLength(kills + died.length);
      const items = await cloud.items();
      for (const [i, lane] of lanes.entries()) {
        expect({ after: points[i], ...(await settledOf(lane, items)) }).toEqual({
          after: points[i],
          settled: calm.settled,
        });
      }
      const told = () => {
        const announced = cloud.announced().map((e) => [e.detail['instanceId'], e['detail-type']].join(' '));
        const of = (lane: Lane) => TOLD.filter((type) => announced.includes(`${lane.instanceId} ${type}`));
        return lanes.map((lane, i) => `${points[i]}: ${of(lane).join()}`);
      };
      const all = points.map((point) => `${point}: ${TOLD.join()}`);
      await cloud.until(30, () => (told().join() === all.join() ? undefined : 'not all was announced'));
      console.log(`killed after ${died.length} effects:\n  ${died.join('\n  ')}\nnot reached: ${unreached}`);
    },
    300_000,
  );

  deployed(
    'ends in the same state after one sweep when a worker dies and its message is lost with it',
    async () => {
      await cloud.mapping(ALONE);
      await untilIdle(60);
      await cloud.queueAttributes({ VisibilityTimeout: '600' });
      const calm = await undisturbed();
      const first = calm.effects.findIndex((effect) => effect.startsWith('issue-challenge'));
      const points = calm.effects.slice(0, first).filter((effect) => effect.endsWith('#1'));
      expect(points.length).toBeGreaterThan(10);
      const lanes = await Promise.all(points.map(() => createLane(cloud)));
      const died = new Set<string>();
      lanes.forEach((lane, i) => {
        lane.fate = (label) => {
          if (label !== points[i] || died.has(label)) return undefined;
          died.add(label);
          return { kind: 'kill' };
        };
      });
      const unwatch = watchLanes(cloud, lanes);
      await cloud.stateChange(
        lanes.map((lane) => lane.instanceId),
        'running',
      );
      await cloud.until(90, () => (died.size === points.length ? undefined : `${died.size} died`));
      // Nobody brings back the messages of the workers that died.
      await untilIdle(60);
      const before = await cloud.fleet();
      expect(lanes.filter((lane) => !fencedIn(before.get(lane.instanceId))).length).toBeGreaterThan(0);
      await sweepAndSettle();
      const swept = await cloud.fleet();
      expect(lanes.filter((lane) => !fencedIn(swept.get(lane.instanceId))).map((l) => l.instanceId)).toEqual(
        [],
      );
      await Promise.all(lanes.map((lane) => enrolAtLast(lane, 60)));
      await Promise.all(lanes.map((lane) => lane.agent.report(1)));
      await untilIdle(90);
      unwatch();
      await sweepAndSettle();
      const items = await cloud.items();
      for (const [i, lane] of lanes.entries()) {
        expect({ after: points[i], ...(await settledOf(lane, items)) }).toEqual({
          after: points[i],
          settled: calm.settled,
        });
      }
    },
    300_000,
  );

  deployed(
    'gets over throttling, 5xx answers, lost answers, half successes, stale reads, doubled events and a slow network',
    async () => {
      await cloud.mapping(ALONE);
      await cloud.queueAttributes({ VisibilityTimeout: '5' });
      const calm = await undisturbed();
      const occurrence = (label: string) => Number(label.slice(label.lastIndexOf('#') + 1));
      const api = (call: Call) => call.by === 'issue-challenge' || call.by === 'enrol-agent';
      const troubles: Record<string, NonNullable<Lane['fate']>> = {
        'throttled twice': (label, call) =>
          occurrence(label) <= 2 ? { kind: 'answer', ...throttled(call) } : undefined,
        'answered 500 once': (label, call) =>
          occurrence(label) <= 1
            ? { kind: 'answer', status: 500, body: fault(call, 'InternalFailure') }
            : undefined,
        'answered 503 in HTML once': (label) =>
          occurrence(label) <= 1
            ? { kind: 'answer', status: 503, body: '<html><head><title>503</title></head></html>' }
            : undefined,
        'done, and the answer lost as a 500': (label, call) =>
          occurrence(label) <= 1 && !api(call)
            ? { kind: 'lose', status: 500, body: fault(call, 'InternalFailure') }
            : undefined,
        'done, and the connection closed': (label, call) =>
          occurrence(label) <= 1 && !api(call) ? { kind: 'lose' } : undefined,
        'events refused one by one': (label, call) =>
          call.operation === 'PutEvents' && occurrence(label) <= 1
            ? { kind: 'answer', status: 200, body: refusedEntries(call) }
            : undefined,
        // The read after a change shows what the read before it did, once.
        'EC2 shows what was before': (label, call) =>
          call.operation === 'DescribeNetworkInterfaces' && occurrence(label) === 2
            ? { kind: 'stale' }
            : undefined,
        'every event comes twice': (_label, call) =>
          call.operation === 'PutEvents' ? { kind: 'twice' } : undefined,
        'the network is slow': () => ({ kind: 'slow', milliseconds: 250 }),
        'keys of a read left unprocessed': (label, call) =>
          call.operation === 'BatchGetItem' && occurrence(label) <= 1
            ? {
                kind: 'answer',
                status: 200,
                body: JSON.stringify({
                  Responses: {},
                  UnprocessedKeys: (JSON.parse(call.body) as { RequestItems: object }).RequestItems,
                }),
              }
            : undefined,
      };
      const names = Object.keys(troubles);
      const lanes = await Promise.all(names.map(() => createLane(cloud)));
      const met = names.map(() => new Set<string>());
      lanes.forEach((lane, i) => {
        lane.fate = (label, call) => {
          const fate = troubles[names[i] ?? '']?.(label, call);
          if (fate) met[i]?.add(`${call.by} ${call.operation}`);
          return fate;
        };
      });
      const unwatch = watchLanes(cloud, lanes);
      await runThrough(lanes, 150);
      await untilQuiet(60);
      unwatch();
      await sweepAndSettle();
      const items = await cloud.items();
      for (const [i, lane] of lanes.entries()) {
        expect({ trouble: names[i], ...(await settledOf(lane, items)) }).toEqual({
          trouble: names[i],
          settled: calm.settled,
        });
      }
      // The trouble came to every kind of call that there is.
      for (const i of [0, 1, 2]) expect([...(met[i] ?? [])].sort()).toEqual([...calm.kinds].sort());
      // One function alone reads interfaces; the rest of the trouble is everybody's.
      const least = (name: string) => (name === 'EC2 shows what was before' ? 1 : 3);
      expect(names.filter((name, i) => (met[i]?.size ?? 0) < least(name))).toEqual([]);
    },
    300_000,
  );

  deployed(
    'ends in the same state after one sweep for each event that got lost',
    async () => {
      await cloud.mapping(ALONE);
      await cloud.queueAttributes({ VisibilityTimeout: '5' });
      const calm = await undisturbed();
      const lane = await createLane(cloud);
      const lost: string[] = [];
      lane.fate = (label, call) => {
        if (call.operation !== 'PutEvents' || !label.endsWith('#1')) return undefined;
        lost.push(label);
        return { kind: 'answer', status: 200, body: takenEntries(call) };
      };
      const unwatch = watchLanes(cloud, [lane]);
      // The state change of EC2 itself is lost: only the sweep finds the VM.
      await sweepAndSettle();
      expect(lost).toContain('observe-vm PutEvents VM Changed #1');
      await sweepAndSettle();
      await untilAll([lane], 30, 'fenced with a key', fencedIn);
      await enrolAtLast(lane, 60);
      await lane.agent.report(1);
      await untilIdle(90);
      await sweepAndSettle();
      await untilAll([lane], 30, 'let out', letOut);
      unwatch();
      await sweepAndSettle();
      expect(lost.length).toBeGreaterThan(2);
      expect(await settledOf(lane, await cloud.items())).toEqual({ settled: calm.settled });
    },
    300_000,
  );

  deployed(
    'parks what keeps failing in the dead-letter queue of its function, and converges when it is sent back',
    async () => {
      await cloud.mapping(ALONE);
      const calm = await undisturbed();
      // Longer than the five tries of a call: a message that came back sooner would be parked while the try before it
      // goes on.
      await cloud.queueAttributes({ VisibilityTimeout: '4' });
      const lanes = [await createLane(cloud), await createLane(cloud), await createLane(cloud)];
      const [unseen, unfenced, lucky] = lanes;
      if (!unseen || !unfenced || !lucky) throw new Error('three lanes were made');
      let broken = true;
      let tries = 0;
      unseen.fate = (_label, call) => {
        if (!broken || call.by !== 'observe-vm' || !call.operation.startsWith('Describe')) return undefined;
        tries++;
        return { kind: 'answer', status: 500, body: fault(call, 'InternalError') };
      };
      unfenced.fate = (_label, call) =>
        broken && call.operation === 'ModifyNetworkInterfaceAttribute'
          ? { kind: 'answer', status: 403, body: fault(call, 'UnauthorizedOperation') }
          : undefined;
      const unwatch = watchLanes(cloud, lanes);
      await cloud.stateChange(
        lanes.map((lane) => lane.instanceId),
        'running',
      );
      await cloud.until(120, async () => {
        const counts = [await dead('observe-vm'), await dead('apply-isolation')];
        return counts[0] === 1 && (counts[1] ?? 0) >= 1 ? undefined : `dead letters: ${counts}`;
      });
      await untilQuiet(60);
      await untilAll([lucky], 10, 'fenced with a key', fencedIn);
      const stuck = await cloud.fleet();
      expect(stuck.get(unseen.instanceId)).toBeUndefined();
      expect(stuck.get(unfenced.instanceId)?.isolation).toMatchObject({ applied: false });
      // Five receives, and in each of them the call was tried five times.
      expect(tries).toBeGreaterThanOrEqual(25);

      broken = false;
      for (const name of QUEUE_FUNCTIONS) {
        for (const message of await cloud.take(cloud.functions[name].deadLettersUrl)) {
          const back = { QueueUrl: cloud.functions[name].queueUrl, MessageBody: message.Body };
          await cloud.sqs.send(new SendMessageCommand(back));
        }
      }
      await untilAll(lanes, 60, 'fenced with a key', fencedIn);
      await Promise.all(lanes.map((lane) => enrolAtLast(lane, 60)));
      await Promise.all(lanes.map((lane) => lane.agent.report(1)));
      await untilAll(lanes, 60, 'let out', letOut);
      await untilQuiet(60);
      unwatch();
      await sweepAndSettle();
      const items = await cloud.items();
      for (const lane of lanes) expect(await settledOf(lane, items)).toEqual({ settled: calm.settled });
    },
    240_000,
  );

  deployed(
    'gets 12 VMs through whose workers die in the middle of their batches, over and over',
    async () => {
      await cloud.mapping({ BatchSize: 10, ScalingConfig: { MaximumConcurrency: 2 } });
      await cloud.queueAttributes({ VisibilityTimeout: '5' });
      const calm = await undisturbed();
      const lanes = await Promise.all(Array.from({ length: 12 }, () => createLane(cloud)));
      const unwatch = watchLanes(cloud, lanes);
      const kills = cloud.proxy.kills.length;
      let effects = 0;
      const unrule = cloud.proxy.rule((call) => {
        if (!mutates(call)) return undefined;
        effects++;
        return effects % 6 === 0 && cloud.proxy.kills.length < kills + 8 ? { kind: 'kill' } : undefined;
      });
      await cloud.stateChange(
        lanes.map((lane) => lane.instanceId),
        'running',
      );
      await cloud.until(120, () =>
        cloud.proxy.kills.length === kills + 8 ? undefined : `${cloud.proxy.kills.length - kills} died`,
      );
      unrule();
      await untilQuiet(90);
      await cloud.sweep();
      await untilAll(lanes, 90, 'fenced with a key', fencedIn);
      await Promise.all(lanes.map((lane) => enrolAtLast(lane, 60)));
      await Promise.all(lanes.map((lane) => lane.agent.report(1)));
      await untilAll(lanes, 90, 'let out', letOut);
      await untilQuiet(60);
      unwatch();
      await sweepAndSettle();
      const items = await cloud.items();
      for (const lane of lanes) expect(await settledOf(lane, items)).toEqual({ settled: calm.settled });
      for (const name of QUEUE_FUNCTIONS) await cloud.purge(cloud.functions[name].deadLettersUrl);
    },
    300_000,
  );

  deployed(
    'loses nothing of 500 VMs launched at once: one key each, and every fence closed',
    async () => {
      const COUNT = 500;
      await cloud.stopListening();
      await cloud.queueAttributes({ VisibilityTimeout: '60' });
      await cloud.mapping({ BatchSize: 10, ScalingConfig: { MaximumConcurrency: 3 } });
      await cloud.mapping(
        { BatchSize: 200, MaximumBatchingWindowInSeconds: 5, ScalingConfig: { MaximumConcurrency: 2 } },
        ['observe-vm'],
      );
      const vms = await launchMany(network, COUNT);
      cloud.proxy.forget();
      const started = Date.now();
      const ids = vms.map((vm) => vm.id);
      await cloud.stateChange(ids, 'pending');
      await cloud.stateChange(ids, 'running');
      let observedAfter = 0;
      const look = async () => {
        const fleet = await cloud.fleet();
        const records = ids.map((id) => fleet.get(id));
        const observed = records.filter((record) => record !== undefined).length;
        if (observed === COUNT) observedAfter ||= Date.now() - started;
        const done = records.filter((record) => fencedIn(record)).length;
        return done === COUNT ? undefined : `${observed} observed, ${done} fenced of ${COUNT}`;
      };
      await cloud.until(240, look, 4000);
      const fencedAfter = Date.now() - started;
      await untilQuiet(120);
      const calls = [...cloud.proxy.calls];
      await cloud.sweep();
      await untilQuiet(120);

      const fleet = await cloud.fleet();
      const now = new Date();
      const open = ids.filter((id) => {
        const record = fleet.get(id);
        return !record || divergences(record, 'enforce', now).length > 0;
      });
      expect(open).toEqual([]);
      const of = new Set(ids);
      const disks = (await cloud.items()).filter(
        (item) => item['generations'] !== undefined && of.has(String(item['instanceId'])),
      ) as unknown as DiskItem[];
      expect(disks.map((disk) => disk.volumeId).sort()).toEqual(vms.map((vm) => vm.dataVolume).sort());
      expect(disks.filter((disk) => disk.generations.length !== 1)).toEqual([]);
      for (const id of ids) {
        expect(fleet.get(id)?.isolation).toMatchObject({ profile: 'probation', applied: true });
      }
      for (const name of QUEUE_FUNCTIONS) {
        expect(await dead(name)).toBe(0);
      }
      const count = (by: string, operation: RegExp) =>
        calls.filter((call) => call.by === by && operation.test(call.operation)).length;
      console.log(
        [
          `500 VMs: launched in ${vms.seconds.toFixed(1)} s, all observed ${(observedAfter / 1000).toFixed(1)} s and all fenced with a key ${(fencedAfter / 1000).toFixed(1)} s after their events`,
          `Describe calls of observe-vm: ${count('observe-vm', /^Describe/)} (bar: N/50 + 2 = ${COUNT / 50 + 2})`,
          `Describe calls of apply-isolation: ${count('apply-isolation', /^Describe/)}`,
          `data keys generated: ${count('issue-disk-keys', /^GenerateDataKey/)}`,
          `AWS calls in all: ${calls.length}`,
        ].join('\n'),
      );
    },
    420_000,
  );

  deployed(
    'leaves no process, port or file behind',
    async () => {
      const { folder, emulators, proxy } = cloud;
      expect(processesOf(folder).length).toBeGreaterThan(2);
      stopped = true;
      await cloud.stop();
      await expect(until(() => processesOf(folder).length === 0)).resolves.toBe(true);
      expect(existsSync(folder)).toBe(false);
      for (const url of [emulators.aws, emulators.ec2, proxy.aws, proxy.ec2]) {
        expect(`${url} ${await listens(url)}`).toBe(`${url} false`);
      }
      console.log(
        `the whole suite: ${((Date.now() - began) / 1000).toFixed(0)} s; ${JSON.stringify(cloud.seconds)}`,
      );
    },
    60_000,
  );
});

/** What the bus tells of every VM that comes through. */
const TOLD = ['VM Changed', 'Disk Key Issued', 'Posture Changed', 'Isolation Changed'];

async function settledOf(
  lane: Lane,
  items: readonly Record<string, unknown>[],
): Promise<{ readonly settled: unknown }> {
  return { settled: await settled(cloud, lane, items) };
}

async function dead(name: QueueFunction): Promise<number> {
  return (await cloud.depth(cloud.functions[name].deadLettersUrl)).visible;
}

/** What a role of instance profiles trusts. */
const EC2_ALONE = JSON.stringify({
  Version: '2012-10-17',
  Statement: [{ Effect: 'Allow', Principal: { Service: 'ec2.amazonaws.com' }, Action: 'sts:AssumeRole' }],
});

/** Writes what an operator decided of a VM, and announces it, as the command does. */
async function operatorSays(instanceId: string, what: 'quarantine' | 'restore'): Promise<void> {
  const decision = { at: new Date().toISOString(), by: `arn:aws:iam::${ACCOUNT}:user/ada`, reason: 'a test' };
  const before = (await cloud.fleet()).get(instanceId)?.operator;
  const set = { quarantine: what === 'quarantine' ? decision : undefined };
  const next = nextOperator(before, { instanceId, what, decision, set });
  const Item = marshall(
    { pk: `operator#${instanceId}`, version: (before?.version ?? 0) + 1, ...next },
    { removeUndefinedValues: true },
  );
  await cloud.dynamodb.send(new PutItemCommand({ TableName: cloud.outputs['TableName'], Item }));
  const answer = await cloud.events.send(
    new PutEventsCommand({
      Entries: [
        {
          EventBusName: cloud.outputs['BusName'],
          Source: 'casemate',
          DetailType: 'Operator Decided',
          Detail: JSON.stringify({ schemaVersion: 1, instanceId, what, ...decision }),
        },
      ],
    }),
  );
  expect(answer.FailedEntryCount ?? 0).toBe(0);
}

async function post(
  path: string,
  body: object,
): Promise<{ readonly status: number; readonly body: Record<string, string> }> {
  const answer = await fetch(`${cloud.apiUrl}/${path}`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      // The emulator wants a signature to be there, and looks no further.
      authorization: `AWS4-HMAC-SHA256 Credential=test/20260101/${REGION}/execute-api/aws4_request, SignedHeaders=host, Signature=0`,
    },
    body: JSON.stringify(body),
  });
  return { status: answer.status, body: (await answer.json()) as Record<string, string> };
}

function changed(instanceId: string): string {
  return JSON.stringify({
    version: '0',
    id: 'x',
    source: 'casemate',
    'detail-type': 'VM Changed',
    detail: {
      schemaVersion: 1,
      instanceId,
      at: new Date().toISOString(),
      state: 'running',
      managed: true,
      leavingScope: false,
      gone: false,
    },
  });
}

/** A DescribeInstances answer in which one VM is not shown; each of ours has a reservation of its own. */
function withoutInstance(answer: string, id: string): string {
  const [head = '', ...reservations] = answer.split(/(?=<item>\s*<reservationId>)/);
  const end = '</reservationSet>';
  return (
    head +
    reservations
      .map((text) => {
        if (!text.includes(`<instanceId>${id}</instanceId>`)) return text;
        return text.includes(end) ? text.slice(text.indexOf(end)) : '';
      })
      .join('')
  );
}

/** An error answer in the protocol of the call's service. */
function fault(call: Call, code: string): string {
  return call.body.startsWith('{')
    ? JSON.stringify({ __type: code, message: 'made by a test' })
    : `<Response><Errors><Error><Code>${code}</Code><Message>made by a test</Message></Error></Errors><RequestID>0</RequestID></Response>`;
}

function throttled(call: Call): { status: number; body: string } {
  return call.body.startsWith('{')
    ? { status: 400, body: fault(call, 'ThrottlingException') }
    : { status: 503, body: fault(call, 'RequestLimitExceeded') };
}

function takenEntries(call: Call): string {
  const { Entries } = JSON.parse(call.body) as { Entries: object[] };
  return JSON.stringify({ FailedEntryCount: 0, Entries: Entries.map(() => ({ EventId: 'lost' })) });
}

function refusedEntries(call: Call): string {
  const { Entries } = JSON.parse(call.body) as { Entries: object[] };
  return JSON.stringify({
    FailedEntryCount: Entries.length,
    Entries: Entries.map(() => ({ ErrorCode: 'InternalFailure', ErrorMessage: 'made by a test' })),
  });
}

/** VMs with a root and a data volume, in one call. */
async function launchMany(
  network: Network,
  count: number,
): Promise<{ id: string; dataVolume: string }[] & { seconds: number }> {
  const started = Date.now();
  const subnets = await cloud.ec2.send(new DescribeSubnetsCommand({ SubnetIds: [network.subnetId] }));
  const { Subnet } = await cloud.ec2.send(
    new CreateSubnetCommand({ VpcId: subnets.Subnets?.[0]?.VpcId, CidrBlock: '10.20.16.0/20' }),
  );
  const { Instances = [] } = await cloud.ec2.send(
    new RunInstancesCommand({
      MinCount: count,
      MaxCount: count,
      ImageId: network.imageId,
      InstanceType: 'm7i.large',
      NetworkInterfaces: [{ DeviceIndex: 0, SubnetId: Subnet?.SubnetId, Groups: [network.web] }],
      BlockDeviceMappings: [
        { DeviceName: '/dev/sda1', Ebs: { VolumeSize: 8, Encrypted: true } },
        { DeviceName: '/dev/sdf', Ebs: { VolumeSize: 20, Encrypted: true } },
      ],
      TagSpecifications: [{ ResourceType: 'instance', Tags: [{ Key: PROTECT_TAG, Value: 'true' }] }],
    }),
  );
  const vms = Instances.map((instance) => ({
    id: instance.InstanceId ?? '',
    dataVolume: instance.BlockDeviceMappings?.find((m) => m.DeviceName === '/dev/sdf')?.Ebs?.VolumeId ?? '',
  }));
  return Object.assign(vms, { seconds: (Date.now() - started) / 1000 });
}

async function until(condition: () => boolean): Promise<boolean> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(100)) {
    if (condition()) return true;
  }
  return condition();
}

function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = createConnection({ host: hostname, port: Number(port) });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
