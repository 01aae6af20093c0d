import {
  bundledAuthorities,
  bundledEvidencePolicies,
  bundledPolicyEngine,
  bundledShadowEngine,
} from '../bundled-policies.ts';
import { realQueueDeps } from '../deps.ts';
import { readConfig } from './config.ts';
import { createHandler } from './handler.ts';

const config = readConfig();

const common = realQueueDeps(config);

/** A shadow set that cannot be used is told, and the function starts without it. */
function shadowEngine() {
  try {
    return bundledShadowEngine();
  } catch (error) {
    common.logger.error('shadow policies cannot be used', { error });
    return undefined;
  }
}

export const handler = createHandler({
  ...common,
  policy: bundledPolicyEngine(),
  shadowPolicy: shadowEngine(),
  authorities: bundledAuthorities(),
  evidencePolicies: bundledEvidencePolicies(),
  evidenceMaxAgeSeconds: config.EVIDENCE_MAX_AGE_SECONDS,
  apiOrigin: config.API_ORIGIN,
  reportMaxAgeSeconds: config.REPORT_MAX_AGE_SECONDS,
});
