import type { X509Certificate } from 'node:crypto';
import { MetricUnit } from '@aws-lambda-powertools/metrics';
import {
  authorityKey,
  COLLATERAL_SECONDS,
  type CollateralItem,
  collateralItem,
  collateralKey,
  revocationListItem,
  revocationListKey,
  unexpired,
} from '../../lib/domain/collateral.ts';
import { challengeItem, challengeKey, challengeRefusal } from '../../lib/domain/enrolment.ts';
import { type Envelope, type Parsed, parseDetail } from '../../lib/domain/envelope.ts';
import { AGENT_SOURCE } from '../../lib/domain/events.ts';
import type { EvidencePolicies } from '../../lib/domain/evidence/policy-file.ts';
import { amdAuthorityOf } from '../../lib/domain/evidence/snp/collateral.ts';
import { chainAbove, type EvidenceRoots, judgeEvidence } from '../../lib/domain/evidence-judgement.ts';
import {
  type Assessment,
  assessPosture,
  foldEvidence,
  foldReport,
  INITIAL_POSTURE,
  noteShadow,
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
  MAX_PAYLOAD_CHARS,
  type ReportPayload,
} from '../../lib/domain/report.ts';
import { tpmItem } from '../../lib/domain/tpm-activation.ts';
import { type VmItem, vmItem } from '../../lib/domain/vm.ts';
import { askPosture } from '../../lib/policy/ask.ts';
import type { PolicyEngine } from '../../lib/policy/engine.ts';
import {
  consumeChallenge,
  create,
  getItems,
  getKinds,
  type Items,
  putVersioned,
  type Table,
  VersionConflictError,
} from '../aws/dynamodb.ts';
import type { Announce } from '../aws/eventbridge.ts';
import { createQueueHandler, oncePerVm, type QueueDeps, type Work } from '../queue-function.ts';
import { parseVmChanged } from '../vm-changed.ts';

export interface Deps extends QueueDeps {
  readonly table: Table;
  readonly announce: Announce;
  readonly policy: PolicyEngine;
  /** Policies that are asked beside, and decide nothing. */
  readonly shadowPolicy?: PolicyEngine | undefined;
  readonly apiOrigin: string;
  readonly reportMaxAgeSeconds: number;
  readonly evidenceMaxAgeSeconds: number;
  readonly evidencePolicies: EvidencePolicies;
  /** Configured CA certificates, for evidence that brings its leaf alone. */
  readonly authorities: readonly X509Certificate[];
  /** A test hierarchy in place of the vendors' roots. */
  readonly evidenceRoots?: EvidenceRoots;
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
      const stored = await getKinds(deps.table, ids, { vm: vmItem, enrol: enrolItem, posture: postureItem });
      return oncePerVm(
        work,
        (occasion) => [occasion.instanceId],
        (id, items) =>
          converge(deps, id, items, {
            vm: stored.vm.get(`vm#${id}`),
            enrolment: stored.enrol.get(`enrol#${id}`),
            known: stored.posture.get(`posture#${id}`),
          }),
      );
    },
  });
}

function parse(event: Envelope): Parsed<Occasion> {
  if (event.source === AGENT_SOURCE && event['detail-type'] === 'Capability Report') {
    const { payload } = event.detail;
    if (typeof payload === 'string' && payload.length > MAX_PAYLOAD_CHARS) {
      return { kind: 'reject', reason: 'REPORT_TOO_LARGE', detail: `${payload.length} characters` };
    }
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
      item.value.report
        ? [{ report: item.value.report, receivedAt: item.receivedAt, redelivered: item.redelivered }]
        : [],
    )
    .sort((a, b) => claimedSequence(a.report) - claimedSequence(b.report));
  for (const { report, receivedAt, redelivered } of reports) {
    const judgement = judgeReport(report, {
      vm,
      enrolment,
      standing: posture.standing,
      apiOrigin: deps.apiOrigin,
      receivedAt,
    });
    // Delivered again after a crash, a report finds itself accepted already: that is not the agent being late.
    if (judgement.kind === 'late' && redelivered) continue;
    posture = foldReport(posture, judgement, receivedAt);
    if (judgement.kind === 'accept' && judgement.payload.evidence && vm && enrolment) {
      const outcome = await verifyEvidence(deps, vm, enrolment, judgement.payload, receivedAt);
      posture = foldEvidence(posture, outcome, receivedAt);
      refused.push(...outcome.refusals);
    }
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
  const input = {
    vm,
    enrolment,
    posture,
    maxAgeSeconds: deps.reportMaxAgeSeconds,
    evidenceMaxAgeSeconds: deps.evidenceMaxAgeSeconds,
    now,
  };
  const decided = reassess(input, askPosture(deps.policy, vm.observation));
  const next = noteShadow(decided, assessInShadow(deps, input), now);
  if (next.shadow) {
    deps.metrics.addMetric('ShadowDiffered', MetricUnit.Count, 1);
    if (next.shadow !== known?.shadow) {
      const { verdict, reasons, policies } = next;
      deps.logger.warn('shadow policies say otherwise', {
        instanceId,
        live: { verdict, reasons, policies },
        shadow: next.shadow,
      });
    }
  }
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

/** Consumes the challenge that the evidence answers, verifies the evidence, and remembers its chain. */
async function verifyEvidence(
  deps: Deps,
  vm: VmItem,
  enrolment: EnrolItem,
  payload: ReportPayload,
  receivedAt: Date,
): Promise<Parameters<typeof foldEvidence>[1]> {
  const { instanceId } = vm.observation;
  const nonce = Buffer.from(payload.nonce ?? '', 'base64');
  const want = { instanceId, purpose: 'report', now: receivedAt };
  const pk = challengeKey(nonce);
  // Bound to this report, so that a redelivery after a crash finds its own challenge consumed by itself.
  const usedBy = `${payload.bootId}/${payload.sequence}`;
  if (!(await consumeChallenge(deps.table, pk, { ...want, usedBy }))) {
    const challenge = (await getItems(deps.table, [pk], challengeItem)).get(pk);
    return {
      attestations: [],
      refusals: [challengeRefusal(challenge, want) ?? 'CHALLENGE_USED'],
      refuted: [],
    };
  }
  const leaves = (payload.evidence ?? []).flatMap((item) =>
    item.format === 'snp' ? item.certificates.slice(0, 1) : [],
  );
  const tpmKey = `tpm#${instanceId}`;
  const hasQuote = payload.evidence?.some(({ format }) => format === 'tpm');
  const authorities = leaves.flatMap((leaf) => amdAuthorityOf(Buffer.from(leaf, 'base64')) ?? []);
  const [known, lists, tpms] = await Promise.all([
    getItems(deps.table, [...leaves.map(collateralKey), ...authorities.map(authorityKey)], collateralItem),
    getItems(deps.table, authorities.map(revocationListKey), revocationListItem),
    getItems(deps.table, hasQuote ? [tpmKey] : [], tpmItem),
  ]);
  const activated = tpms.get(tpmKey);
  const outcome = judgeEvidence(payload, {
    vm,
    agentPublicKey: Buffer.from(enrolment.publicKey, 'base64'),
    attestationKey: activated && Buffer.from(activated.attestationKey, 'base64'),
    apiOrigin: deps.apiOrigin,
    receivedAt,
    policies: deps.evidencePolicies,
    roots: deps.evidenceRoots,
    // What the operator configured goes before what verified this very leaf, and that before what AMD's server said.
    knownChain: (leaf) => {
      const configured = chainAbove(leaf, deps.authorities);
      if (configured.length > 0) return configured;
      const authority = amdAuthorityOf(leaf);
      const kept =
        unexpired(known.get(collateralKey(Buffer.from(leaf).toString('base64'))), receivedAt) ??
        unexpired(authority && known.get(authorityKey(authority)), receivedAt);
      return kept?.certificates.map((c) => Buffer.from(c, 'base64')) ?? [];
    },
    revocationList: (leaf) => {
      const authority = amdAuthorityOf(leaf);
      const kept = unexpired(authority && lists.get(revocationListKey(authority)), receivedAt);
      return kept && Buffer.from(kept.crl, 'base64');
    },
  });
  await rememberChains(deps.table, outcome.verifiedChains, known, receivedAt);
  return {
    attestations: outcome.attestations,
    refusals: outcome.refusals.flatMap((refusal) => refusal.reasons),
    refuted: outcome.refusals.map((refusal) => refusal.format),
  };
}

/** Keeps the CA certificates that verified a leaf, so that other agents need to send the leaf alone. */
async function rememberChains(
  table: Table,
  chains: readonly (readonly string[])[],
  known: Items<CollateralItem>,
  now: Date,
): Promise<void> {
  for (const [leaf = '', ...certificates] of chains) {
    if (certificates.length < 2) continue;
    if (known.get(collateralKey(leaf))) continue;
    const expiresAt = Math.floor(now.getTime() / 1000) + COLLATERAL_SECONDS;
    try {
      await create(table, { pk: collateralKey(leaf), certificates, expiresAt });
    } catch (error) {
      if (!(error instanceof VersionConflictError)) throw error; // another worker kept the same chain
    }
  }
}

/** What the shadow policies say. Whatever goes wrong with them is told, and hurts nothing else. */
function assessInShadow(deps: Deps, input: Parameters<typeof reassess>[0]): Assessment | undefined {
  if (!deps.shadowPolicy) return undefined;
  const { vm, posture } = input;
  try {
    const ask = askPosture(deps.shadowPolicy, vm.observation);
    return assessPosture({ ...input, previous: posture.verdict }, ask);
  } catch (error) {
    deps.metrics.addMetric('ShadowFailed', MetricUnit.Count, 1);
    deps.logger.error('shadow policies failed', { instanceId: vm.observation.instanceId, error });
    return undefined;
  }
}

/** For ordering alone: the payload is not verified yet. */
function claimedSequence(report: CapabilityReportDetail): number {
  const match = /"sequence":(\d{1,15})/.exec(report.payload);
  return match ? Number(match[1]) : 0;
}
