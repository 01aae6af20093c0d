/** The five questions that policy answers. */
export type PolicyAction = 'Manage' | 'IssueKey' | 'ReleaseKey' | 'LeaveProbation' | 'Quarantine';

export interface PolicyDecision {
  readonly allowed: boolean;
  /** Reason codes out of the `@reason` annotations of the determining policies; never empty. */
  readonly reasons: readonly string[];
  /** `@id`s of the determining policies. */
  readonly policies: readonly string[];
  /** Policies that failed to evaluate. Cedar skips them, so an erroring `forbid` would vanish. */
  readonly errors: readonly string[];
}
