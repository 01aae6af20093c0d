import { hex, sha256 } from './bytes.ts';
import type { Certificate } from './certificate.ts';
import { EvidenceError, isMalformed, type ReasonCode } from './reasons.ts';

export type EvidenceFormat = 'snp' | 'nitro' | 'tdx' | 'tpm' | 'identity';

export interface Check {
  /** What was looked at, for people. */
  readonly name: string;
  readonly outcome: 'pass' | 'fail' | 'skipped';
  readonly reason?: ReasonCode;
  readonly detail?: string;
}

/** What the signature hangs on. */
export interface Trust {
  /** SHA-256 of the pinned root certificate, or of the key that the caller vouched for. */
  readonly root: string;
  /** Subjects, leaf first. */
  readonly chain: readonly string[];
  /** ISO 8601 UTC: when all of the chain is valid; null where nothing limits it. */
  readonly notBefore: string | null;
  readonly notAfter: string | null;
}

export interface Verdict<Claims = object> {
  readonly accepted: boolean;
  /** The bytes are no evidence of this format at all; implies not accepted. */
  readonly malformed: boolean;
  readonly format: EvidenceFormat;
  readonly reasons: readonly ReasonCode[];
  /** What the evidence says; null until its signature and chain have held. */
  readonly claims: Claims | null;
  readonly trust: Trust | null;
  readonly checks: readonly Check[];
  /**
   * Hex SHA-256 of the signed bytes, to remember evidence by. Never of the signature: (r, n - s) is a valid
   * twin of every ECDSA signature (r, s), and would make a replay look new.
   */
  readonly evidenceId: string | null;
}

/** Notes what was looked at. `demand` ends the verification, `expect` goes on to find every reason. */
export interface Checklist {
  readonly demand: (name: string, holds: boolean, reason: ReasonCode, detail?: string) => void;
  readonly expect: (name: string, holds: boolean, reason: ReasonCode, detail?: string) => void;
  readonly skip: (name: string, why: string) => void;
}

/** One format: bytes to a typed value, then signature and chain, then what we demand of it. */
export interface Stages<Parsed, Claims> {
  readonly format: EvidenceFormat;
  readonly parse: () => Parsed;
  readonly verify: (parsed: Parsed, checks: Checklist) => Trust;
  readonly signedBytes: (parsed: Parsed) => Uint8Array;
  readonly claims: (parsed: Parsed) => Claims;
  readonly policy: (parsed: Parsed, checks: Checklist) => void;
}

/** Runs the three stages in order; a later one is skipped, and says so, when an earlier one fails. */
export function judge<Parsed, Claims>(stages: Stages<Parsed, Claims>): Verdict<Claims> {
  const checks: Check[] = [];
  const checklist = createChecklist(checks);
  const { format } = stages;
  let stage = 'bytes';
  let claims: Claims | null = null;
  let trust: Trust | null = null;
  let evidenceId: string | null = null;
  try {
    const parsed = stages.parse();
    checks.push({ name: stage, outcome: 'pass' });
    stage = 'signature and chain';
    trust = stages.verify(parsed, checklist);
    claims = stages.claims(parsed);
    evidenceId = hex(sha256(stages.signedBytes(parsed)));
    stage = 'policy';
    stages.policy(parsed, checklist);
  } catch (error) {
    const refusal = error instanceof EvidenceError ? error : unforeseen(error);
    const noted = checks.at(-1);
    if (noted?.outcome !== 'fail' || noted.reason !== refusal.code) {
      checks.push({ name: stage, outcome: 'fail', reason: refusal.code, detail: refusal.detail });
    }
    if (stage === 'bytes') checklist.skip('signature and chain', 'the bytes are not understood');
    if (stage !== 'policy') checklist.skip('policy', 'nothing is believed before signature and chain hold');
  }
  const reasons = [
    ...new Set(checks.flatMap(({ outcome, reason }) => (outcome === 'fail' && reason ? [reason] : []))),
  ];
  return {
    accepted: reasons.length === 0 && trust !== null && claims !== null,
    malformed: reasons.some(isMalformed),
    format,
    reasons,
    claims,
    trust,
    checks,
    evidenceId,
  };
}

/**
 * A library may throw what it likes on input that it was not made for. Evidence comes from whoever sends it, so
 * that is an answer about the evidence; thrown on, it would be retried as if the function had failed.
 */
function unforeseen(error: unknown): EvidenceError {
  const detail = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return new EvidenceError('UNFORESEEN', detail, { cause: error });
}

/** The trust of a verified chain, leaf first, the pinned root last. */
export function trustOf(chain: readonly Certificate[]): Trust {
  const latest = Math.max(...chain.map(({ notBefore }) => notBefore.getTime()));
  const earliest = Math.min(...chain.map(({ notAfter }) => notAfter.getTime()));
  return {
    root: chain.at(-1)?.fingerprint ?? '',
    chain: chain.map(({ subjectText }) => subjectText),
    notBefore: new Date(latest).toISOString(),
    notAfter: new Date(earliest).toISOString(),
  };
}

function createChecklist(checks: Check[]): Checklist {
  const note = (name: string, holds: boolean, reason: ReasonCode, detail?: string) => {
    const more = detail === undefined ? {} : { detail };
    checks.push(holds ? { name, outcome: 'pass', ...more } : { name, outcome: 'fail', reason, ...more });
  };
  return {
    expect: note,
    demand: (name, holds, reason, detail) => {
      note(name, holds, reason, detail);
      if (!holds) throw new EvidenceError(reason, detail ?? name);
    },
    skip: (name, why) => {
      checks.push({ name, outcome: 'skipped', detail: why });
    },
  };
}
