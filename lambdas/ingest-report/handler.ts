import { MetricUnit } from '@aws-lambda-powertools/metrics';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { AGENT_SOURCE } from '../../lib/domain/events.ts';
import {
  type AskPosturePolicy,
  foldReport,
  INITIAL_POSTURE,
  type PostureItem,
  type PostureState,
  postureItem,
  reassess,
} from '../../lib/domain/posture.ts';
import {
  type CapabilityReportDetail,
  capabilityReportDetail,
  type EnrolItem,
  enrolItem,
  judgeReport,
} from '../../lib/domain/report.ts';
import { type VmItem, vmItem } from '../../lib/domain/vm.ts';
import { cedarFacts, type PolicyEngine } from '../../lib/policy/engine.ts';
import { getItems, putVersioned, type Table } from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { createQueueHandler, oncePerVm, type QueueDeps, type Work } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';

export interface Deps extends QueueDeps {
  readonly table: Table;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
  readonly apiOrigin: string;
  readonly reportMaxAgeSeconds: number;
  readonly now: () => Date;
}

/** A report to judge, or a VM whose posture wants looking at again. */
interface Occasion {
  readonly instanceId: string;
  readonly report?: CapabilityReportDetail;
}

const METRIC_OF = { accept: 'ReportAccepted', late: 'ReportLate', refuse: 'ReportRefused' } as const;

/** Judges reports, and decides by policy what the VM's posture is. */
export function createHandler(deps: Deps) {
  return createQueueHandler<Occasion>(deps, {
    name: 'ingest-report',
    parse,
    async run(work) {
      const ids = work.map((item) => item.value.instanceId);
      const keys = (kind: string) => ids.map((id) => `${kind}#${id}`);
      const [vms, enrolments, postures] = await Promise.all([
        getItems(deps.table, keys('vm'), vmItem),
        getItems(deps.table, keys('enrol'), enrolItem),
        getItems(deps.table, keys('posture'), postureItem),
      ]);
      return oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        (id, items) =>
          converge(deps, id, items, {
            vm: vms.get(`vm#${id}`),
            enrolment: enrolments.get(`enrol#${id}`),
            known: postures.get(`posture#${id}`),
          }),
      );
    },
  });
}

function parse(event: Envelope): Parsed<Occasion> {
  if (event.source === AGENT_SOURCE && event['detail-type'] === 'Capability Report') {
    const parsed = parseDetail(event, capabilityReportDetail);
    return parsed.kind === 'ok'
      ? { kind: 'ok', value: { instanceId: parsed.value.instanceId, report: parsed.value } }
      : { ...parsed, reason: 'REPORT_MALFORMED' };
  }
  const parsed = parseVmChanged(event);
  return parsed.kind === 'ok' ? { kind: 'ok', value: { instanceId: parsed.value.instanceId } } : parsed;
}

async function converge(
  deps: Deps,
  instanceId: string,
  work: readonly Work<Occasion>[],
  state: {
    readonly vm: VmItem | undefined;
    readonly enrolment: EnrolItem | undefined;
    readonly known: PostureItem | undefined;
  },
): Promise<void> {
  const { vm, enrolment, known } = state;
  const now = deps.now();
  let posture: PostureState = known ?? INITIAL_POSTURE(instanceId, now);
  const refused: string[] = [];
  // Oldest first, so that what waited in the same batch is not taken for a gap.
  const reports = work
    .flatMap((item) =>
      item.value.report ? [{ report: item.value.report, receivedAt: item.receivedAt }] : [],
    )
    .sort((a, b) => claimedSequence(a.report) - claimedSequence(b.report));
  for (const { report, receivedAt } of reports) {
    const judgement = judgeReport(report, {
      vm,
      enrolment,
      standing: posture.standing,
      apiOrigin: deps.apiOrigin,
      receivedAt,
    });
    posture = foldReport(posture, judgement, receivedAt);
    deps.metrics.addMetric(METRIC_OF[judgement.kind], MetricUnit.Count, 1);
    if (judgement.kind === 'refuse') refused.push(judgement.reason);
  }
  for (const reason of new Set(refused)) {
    deps.logger.warn('report refused', { instanceId, reason });
    await deps.announce({
      detailType: 'Report Refused',
      detail: { schemaVersion: 1, instanceId, at: now.toISOString(), reason },
    });
  }
  if (!vm?.managed) return;
  const next = reassess(
    { vm, enrolment, posture, maxAgeSeconds: deps.reportMaxAgeSeconds, now },
    askPolicy(deps.policy, vm),
  );
  const verdictChanged = known?.verdict !== next.verdict || known.reasons.join() !== next.reasons.join();
  // Store before announce: an announcement can be repeated.
  if (next !== known) await putVersioned(deps.table, `posture#${instanceId}`, known?.version, next);
  if (!verdictChanged && !work.some((item) => item.redelivered)) return;
  await deps.announce({
    detailType: 'Posture Changed',
    detail: {
      schemaVersion: 1,
      instanceId,
      at: now.toISOString(),
      verdict: next.verdict,
      reasons: next.reasons,
      policies: next.policies,
      validUntil: next.validUntil,
    },
  });
}

function askPolicy(policy: PolicyEngine, vm: VmItem): AskPosturePolicy {
  const { accountId, region } = vm.observation;
  return (action, context) =>
    policy.decide(
      action,
      vm.observation,
      { type: 'Fleet', id: `${accountId}/${region}` },
      { ...context, facts: cedarFacts(context.facts) },
    );
}

/** For ordering alone: the payload is not verified yet. */
function claimedSequence(report: CapabilityReportDetail): number {
  const match = /"sequence":(\d{1,15})/.exec(report.payload);
  return match ? Number(match[1]) : 0;
}
