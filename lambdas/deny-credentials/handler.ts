import { MetricUnit } from '@aws-lambda-powertools/metrics';
import type { IAMClient } from '@aws-sdk/client-iam';
import {
  type CredentialFacts,
  DENIAL_POLICY,
  DENIALS_PK,
  type Denials,
  type DenialsItem,
  decideDenials,
  denialPolicy,
  denialsItem,
  roomFor,
} from '../../lib/domain/credentials.ts';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { isolationChanged, SOURCE } from '../../lib/domain/events.ts';
import { isolationItem } from '../../lib/domain/isolation.ts';
import { canonicalJson, vmItem } from '../../lib/domain/vm.ts';
import { getItems, putVersioned, type Table } from '../aws/dynamodb.ts';
import { setInlinePolicy } from '../aws/iam.ts';
import { createQueueHandler, oncePerVm, type QueueDeps } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';

export interface Deps extends QueueDeps {
  readonly table: Table;
  readonly iam: IAMClient;
  /** Roles of instance profiles; no other role is ever changed. */
  readonly roleNames: readonly string[];
  /** What the ARN of an instance of this account and Region starts with. */
  readonly instanceArnPrefix: string;
  readonly now: () => Date;
}

/** Makes sure that the credentials of contained VMs are good for nothing, and of no others. */
export function createHandler(deps: Deps) {
  return createQueueHandler<{ readonly instanceId: string }>(deps, {
    name: 'deny-credentials',
    parse,
    async run(work) {
      const ids = [...new Set(work.map((item) => item.value.instanceId))];
      const done = converge(deps, ids);
      return oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        async () => done,
      );
    },
  });
}

/** One list for all VMs: it is brought to where it belongs once a batch, whoever of it asked. */
async function converge(deps: Deps, asked: readonly string[]): Promise<void> {
  const before = (await getItems(deps.table, [DENIALS_PK], denialsItem)).get(DENIALS_PK);
  const listed = [...(before?.denied.map((one) => one.instanceId) ?? []), ...(before?.left ?? [])];
  const looked = await factsOf(deps, [...new Set([...asked, ...listed])]);
  const wanted = decideDenials(before, looked, roomFor(deps.instanceArnPrefix), deps.now());
  // Nobody was ever denied, and nobody is to be: most VMs of most days.
  if (!before && wanted.denied.length === 0 && wanted.left.length === 0) return;
  // Recorded before and after. A worker that was overtaken conflicts on the version after it changed the roles, and
  // its message brings them to what stands then.
  const same = before !== undefined && essence(before) === essence(wanted);
  const planned = same ? before : await store(deps, before, { ...wanted, applied: false, faults: [] });
  const { faults, changed } = await changeRoles(deps, planned);
  for (const fault of faults) deps.logger.error('credentials of contained VMs could not be denied', fault);
  if (planned.left.length > 0) {
    deps.logger.error('credentials of contained VMs have no room in the policy', {
      instanceIds: planned.left,
    });
  }
  if (faults.length + planned.left.length > 0) {
    deps.metrics.addMetric('CredentialsNotDenied', MetricUnit.Count, faults.length + planned.left.length);
  }
  const applied = faults.length === 0;
  const known = planned.applied === applied && canonicalJson(planned.faults) === canonicalJson(faults);
  if (known && !changed) return;
  await store(deps, planned, { denied: planned.denied, left: planned.left, applied, faults });
}

function essence({ denied, left }: Pick<Denials, 'denied' | 'left'>): string {
  return canonicalJson([denied, left]);
}

async function factsOf(deps: Deps, ids: readonly string[]): Promise<Map<string, CredentialFacts>> {
  const keys = (kind: string) => ids.map((id) => `${kind}#${id}`);
  const [vms, isolations] = await Promise.all([
    getItems(deps.table, keys('vm'), vmItem),
    getItems(deps.table, keys('isolation'), isolationItem),
  ]);
  const facts = new Map<string, CredentialFacts>();
  for (const instanceId of ids) {
    try {
      facts.set(instanceId, {
        vm: vms.get(`vm#${instanceId}`),
        isolation: isolations.get(`isolation#${instanceId}`),
      });
    } catch (error) {
      // Corrupt: it stays as it is, and keeps no other from being denied. Each sweep reports it.
      deps.logger.error('an item cannot be read', { instanceId, error: error as Error });
    }
  }
  return facts;
}

function store(
  deps: Deps,
  before: DenialsItem | undefined,
  next: Omit<Denials, 'changedAt'>,
): Promise<DenialsItem> {
  const changedAt = deps.now().toISOString();
  return putVersioned(deps.table, DENIALS_PK, before?.version, { ...next, changedAt });
}

/** Every role is tried: one that cannot be changed must not leave the others as they were. */
async function changeRoles(
  deps: Deps,
  { denied }: DenialsItem,
): Promise<{ readonly faults: Denials['faults']; readonly changed: boolean }> {
  const text = denialPolicy(denied.map(({ instanceId }) => deps.instanceArnPrefix + instanceId));
  const outcomes = await Promise.allSettled(
    deps.roleNames.map(async (role) => ({
      role,
      set: await setInlinePolicy(deps.iam, role, DENIAL_POLICY, text),
    })),
  );
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed) throw failed.reason;
  const results = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  return {
    faults: results.flatMap(({ role, set }): Denials['faults'] => {
      if (set === 'no-room') return [{ role, reason: 'CREDENTIALS_NO_ROOM' }];
      return set === 'no-role' ? [{ role, reason: 'CREDENTIALS_NO_ROLE' }] : [];
    }),
    changed: results.some(({ set }) => set === 'set'),
  };
}

/** A VM was contained or given back, or a sweep found that its credentials are not as they belong. */
function parse(event: Envelope): Parsed<{ readonly instanceId: string }> {
  if (event.source === SOURCE && event['detail-type'] === 'Isolation Changed') {
    return parseDetail(event, isolationChanged);
  }
  return parseVmChanged(event);
}
