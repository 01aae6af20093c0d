import { cpSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeAtEnd } from '../../../bin/local/process.ts';
import { POLICY_FOLDER } from '../../../lib/constructs/policies.ts';

/** Nothing but what QEMU's firmware measures: PCR 12 is as it was at reset. */
const AS_BOOTED = { name: 'as-booted', measurements: { PCR12: '00'.repeat(32) } };
/** A policy of an operator's own. */
const QUOTE_DEMANDED = `@id("mine.quoted")
@reason("EVIDENCE_MISSING")
forbid (
  principal,
  action in [Casemate::Action::"LeaveProbation", Casemate::Action::"ReleaseKey"],
  resource
)
when { principal.hasTag("Name") && principal.getTag("Name") == "tpm" }
unless { context.facts["attest.tpm-quote"].source == "attested" };`;

/** The settings of a deployment that demands a quote of the VM with a TPM, and of no VM of another name. */
export function quotesDemanded(): Readonly<Record<string, string>> {
  const policiesFolder = mkdtempSync(join(tmpdir(), 'casemate-policies-'));
  removeAtEnd(policiesFolder);
  cpSync(POLICY_FOLDER, policiesFolder, { recursive: true });
  writeFileSync(join(policiesFolder, 'evidence.json'), JSON.stringify({ tpm: { generations: [AS_BOOTED] } }));
  writeFileSync(join(policiesFolder, 'quoted.cedar'), QUOTE_DEMANDED);
  return { policiesFolder };
}
