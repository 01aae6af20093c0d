import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type EvidencePolicies, parsePolicyFile } from '../domain/evidence/policy-file.ts';
import { type ProbationEgress, type Profiles, parseProfiles } from '../domain/profiles.ts';
import { compilePolicies, readPolicySources } from '../policy/compile.ts';
import type { CompiledPolicies } from '../policy/engine.ts';

/** The policies and their schema, as they are deployed where nobody has a folder of their own. */
export const POLICY_FOLDER = fileURLToPath(new URL('../../policies/', import.meta.url));

/** Cedar itself: the build that the functions import, which cannot be resolved without importing it. */
export const CEDAR_WASM = join(
  dirname(createRequire(import.meta.url).resolve('@cedar-policy/cedar-wasm/nodejs')),
  '../web/cedar_wasm_bg.wasm',
);

/** The isolation profiles, as they are deployed where nobody has a file of their own. */
export const PROFILES_FILE = join(POLICY_FOLDER, 'profiles.json');

/**
 * Profiles that cannot be used would leave every VM where it is.
 *
 * @throws ProfilesError naming every fault
 */
export function validateProfiles(file: string, egress: ProbationEgress): Profiles {
  return parseProfiles(JSON.parse(readFileSync(file, 'utf8')), egress);
}

/**
 * What is demanded of evidence, which a function could not start without.
 *
 * @throws PolicyFileError naming every fault
 */
export function validateEvidencePolicies(folder: string): EvidencePolicies {
  return parsePolicyFile(JSON.parse(readFileSync(join(folder, 'evidence.json'), 'utf8')));
}

/**
 * Policies that do not parse, or that the schema refuses, would deny everything once they are deployed.
 *
 * @throws PolicySetError naming the file and the fault
 */
export function validatePolicies(folder: string = POLICY_FOLDER): CompiledPolicies {
  return compilePolicies(readFileSync(CEDAR_WASM), readPolicySources(pathToFileURL(join(folder, '/'))));
}
