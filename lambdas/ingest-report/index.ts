import { bundledAuthorities, bundledEvidencePolicies, bundledPolicyEngine } from '../bundled-policies.ts';
import { realQueueDeps } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

export const handler = createHandler({
  ...realQueueDeps(config),
  policy: bundledPolicyEngine(),
  authorities: bundledAuthorities(),
  evidencePolicies: bundledEvidencePolicies(),
  evidenceMaxAgeSeconds: config.EVIDENCE_MAX_AGE_SECONDS,
  apiOrigin: config.API_ORIGIN,
  reportMaxAgeSeconds: config.REPORT_MAX_AGE_SECONDS,
});
