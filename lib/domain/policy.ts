/** The questions that policy answers, and what each is about. */
export const POLICY_ACTIONS = {
  Manage: 'Fleet',
  IssueKey: 'Disk',
  ReleaseKey: 'Disk',
  AdoptDisk: 'Disk',
  LeaveProbation: 'Fleet',
  Quarantine: 'Fleet',
} as const;
export type PolicyAction = keyof typeof POLICY_ACTIONS;

export interface PolicyDecision {
  readonly allowed: boolean;
  /** Reason codes out of the `@reason` annotations of the determining policies; never empty. */
  readonly reasons: readonly string[];
  /** `@id`s of the determining policies. */
  readonly policies: readonly string[];
  /** Policies that failed to evaluate. Cedar skips them, so an erroring `forbid` would vanish. */
  readonly errors: readonly string[];
  /**
   * A denial that `observe` may overlook: no policy failed, and none that denied says `@observe("refuse")`.
   * False where the decision is to allow.
   */
  readonly postureAlone: boolean;
}
