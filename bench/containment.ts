/**
 * On the embedded cloud with the deployed functions and queues: how long after an operator's word a VM is contained
 * and read back, with 1, 10 and 1,000 VMs at once, and how many AWS calls that takes. The VMs are in probation, so
 * that containing them is a change of each interface.
 *
 *   node bench/containment.ts [most VMs at once]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PutEventsCommand } from '@aws-sdk/client-eventbridge';
import { type Cloud, missingPrerequisite, startCloud } from '../test/integration/cloud.ts';
import { type Item, item, median, type PartResult, quantile, say } from './measuring.ts';
import { decideQuarantine, vmsToContain } from './vms-to-contain.ts';

const MOST = Number(process.argv[2] ?? 1_000);
const COUNTS = [1, 10, MOST];
const GIVE_UP_SECONDS = 900;
const EVENTS_MAX = 10;

const missing = await missingPrerequisite();
const result = missing === undefined ? await measure() : { skipped: missing };
// Sockets that are kept alive for nobody would hold the process.
process.stdout.write(`${JSON.stringify(result, null, 2)}\n`, () => process.exit(0));

async function measure(): Promise<PartResult> {
  say('emulators, cdk bootstrap, cdk deploy');
  const cloud = await startCloud();
  try {
    await cloud.queueAttributes({ VisibilityTimeout: '300' });
    const { launch } = await vmsToContain(cloud.ec2);
    const ids = await launch(COUNTS.reduce((sum, count) => sum + count));
    say(`${ids.length} VMs launched`);
    await cloud.stateChange(ids, 'running');
    const standing = async (profile: string, of: readonly string[]) => {
      const fleet = await cloud.fleet();
      const there = of.filter((id) => {
        const isolation = fleet.get(id)?.isolation;
        return isolation?.profile === profile && isolation.applied;
      });
      return there.length === of.length ? undefined : `${there.length} of ${of.length} in ${profile}`;
    };
    await cloud.until(GIVE_UP_SECONDS, () => standing('probation', ids), 4_000);
    await sleep(3_000);
    const items: Item[] = [];
    for (const count of COUNTS) {
      const chosen = ids.splice(0, count);
      cloud.proxy.forget();
      const { delays } = await contain(cloud, chosen);
      await cloud.until(60, () => standing('quarantine', chosen));
      await sleep(2_000);
      const calls = cloud.proxy.calls.filter((call) => call.by === 'apply-isolation').length;
      items.push(
        item(`containment.${count}.p50`, median(delays), 'ms'),
        item(`containment.${count}.p99`, quantile(delays, 0.99), 'ms', {
          ...(count === MOST ? {} : { bar: { of: 'value', max: 10_000 } as const }),
        }),
        item(`containment.${count}.calls`, calls / count, 'calls of apply-isolation a VM'),
      );
      say(`${count} at once: p50 ${median(delays)} ms, p99 ${quantile(delays, 0.99)} ms, ${calls} calls`);
    }
    return { items };
  } finally {
    await cloud.stop();
  }
}

/** What the operator's command does, for many VMs at once; until the last one is announced as contained. */
async function contain(
  cloud: Cloud,
  ids: readonly string[],
): Promise<{ readonly delays: readonly number[] }> {
  const decision = await decideQuarantine(cloud.dynamodb, cloud.outputs['TableName'], ids);
  const told = new Map<string, number>();
  for (let i = 0; i < ids.length; i += EVENTS_MAX) {
    const Entries = ids.slice(i, i + EVENTS_MAX).map((instanceId) => ({
      EventBusName: cloud.outputs['BusName'],
      Source: 'casemate',
      DetailType: 'Operator Decided',
      Detail: JSON.stringify({ schemaVersion: 1, instanceId, what: 'quarantine', ...decision }),
    }));
    for (const id of ids.slice(i, i + EVENTS_MAX)) told.set(id, Date.now());
    const answer = await cloud.events.send(new PutEventsCommand({ Entries }));
    if (answer.FailedEntryCount) throw new Error('the bus did not take an event');
  }
  const contained = () =>
    new Map(
      cloud
        .announced()
        .flatMap(({ 'detail-type': type, detail }) =>
          type === 'Isolation Changed' && detail['profile'] === 'quarantine' && detail['applied'] === true
            ? [[String(detail['instanceId']), Date.parse(String(detail['at']))] as const]
            : [],
        ),
    );
  await cloud.until(
    GIVE_UP_SECONDS,
    () => {
      const done = contained();
      const open = ids.filter((id) => !done.has(id)).length;
      return open === 0 ? undefined : `${open} of ${ids.length} not contained`;
    },
    1_000,
  );
  const at = contained();
  return { delays: ids.map((id) => (at.get(id) ?? Number.NaN) - (told.get(id) ?? Number.NaN)) };
}
