import { readFileSync } from 'node:fs';
import type { Deps } from '../../lambdas/apply-isolation/handler.ts';
import type { Mode } from '../../lib/domain/isolation.ts';
import { parseProfiles } from '../../lib/domain/profiles.ts';

export const ISOLATION_QUEUE_URL = 'https://sqs.eu-west-1.amazonaws.com/123456789012/apply-isolation';

export type IsolationSettings = Omit<
  Deps,
  'ec2' | 'table' | 'announce' | 'sqs' | 'rejectedQueueUrl' | 'logger' | 'metrics' | 'now'
>;

/** The project's own profiles. */
export const SHIPPED = JSON.parse(
  readFileSync(new URL('../../policies/profiles.json', import.meta.url), 'utf8'),
) as { readonly profiles: object };

/** The project's own profiles; guards that hold nothing back; none of the steps beyond groups. */
export function isolationSettings(mode: Mode, overrides: Partial<IsolationSettings> = {}): IsolationSettings {
  const probationEgress = overrides.probationEgress ?? { kind: 'https-anywhere' as const };
  return {
    enforcement: { mode, share: 1 },
    probationEgress,
    profiles: overrides.profiles ?? parseProfiles(SHIPPED, probationEgress),
    guards: {
      share: 1,
      minimum: 1_000_000,
      windowSeconds: 3600,
      protected: { instanceIds: [], autoScalingGroups: [] },
    },
    cutTrackedFlows: false,
    detachElasticIps: false,
    replacementsPerHour: 3,
    ownQueueUrl: ISOLATION_QUEUE_URL,
    ...overrides,
  };
}
