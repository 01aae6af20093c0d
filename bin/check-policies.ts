/** Checks that the policies parse and fit their schema, and that what is demanded of evidence is readable. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { POLICY_FOLDER, validatePolicies } from '../lib/constructs/policies.ts';
import { parsePolicyFile } from '../lib/domain/evidence/policy-file.ts';

try {
  validatePolicies();
  parsePolicyFile(JSON.parse(readFileSync(join(POLICY_FOLDER, 'evidence.json'), 'utf8')));
} catch (error) {
  process.stderr.write(`policies: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
