import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { type EvidencePolicies, parsePolicyFile } from '../lib/domain/evidence/policy-file.ts';
import { type CompiledPolicies, createPolicyEngine, type PolicyEngine } from '../lib/policy/engine.ts';

/** The engine out of the files that lie beside the bundle: Cedar's wasm, and the policies as compiled at synth. */
export function bundledPolicyEngine(): PolicyEngine {
  return createPolicyEngine(
    readFileSync(new URL('./cedar_wasm_bg.wasm', import.meta.url)),
    JSON.parse(readFileSync(new URL('./policies.json', import.meta.url), 'utf8')) as CompiledPolicies,
  );
}

/** The policies that are asked beside and decide nothing, where the deployment has some. @throws PolicySetError */
export function bundledShadowEngine(): PolicyEngine | undefined {
  const file = new URL('./policies-shadow.json', import.meta.url);
  if (!existsSync(file)) return undefined;
  return createPolicyEngine(
    readFileSync(new URL('./cedar_wasm_bg.wasm', import.meta.url)),
    JSON.parse(readFileSync(file, 'utf8')) as CompiledPolicies,
  );
}

/** What is demanded of evidence: policies/evidence.json over safe defaults. @throws PolicyFileError */
export function bundledEvidencePolicies(): EvidencePolicies {
  return parsePolicyFile(
    JSON.parse(readFileSync(new URL('./policies/evidence.json', import.meta.url), 'utf8')),
  );
}

/** The certificates of policies/ca: a file may hold several. */
export function bundledAuthorities(): readonly X509Certificate[] {
  const folder = new URL('./policies/ca/', import.meta.url);
  return readdirSync(folder)
    .filter((name) => name.endsWith('.pem'))
    .flatMap(
      (name) =>
        readFileSync(new URL(name, folder), 'utf8').match(
          /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g,
        ) ?? [],
    )
    .map((pem) => new X509Certificate(pem));
}
