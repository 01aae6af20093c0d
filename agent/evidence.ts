import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { challengeResponse } from '../lib/domain/enrolment.ts';
import { parseCertificateTable } from '../lib/domain/evidence/snp/certificate-table.ts';
import type { ReportPayload } from '../lib/domain/report.ts';
import { transcript } from '../lib/domain/transcript.ts';
import type { Api } from './api.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import type { Identity } from './metadata.ts';

/** The hardware could not be asked for evidence. Retryable; a report goes out without it. */
export class EvidenceError extends Error {
  override readonly name = 'EvidenceError';
}

type Evidence = NonNullable<ReportPayload['evidence']>;

/** Where this machine may have something that signs. */
export interface EvidenceSources {
  /** configfs-tsm: Linux Documentation/ABI/testing/configfs-tsm-report. */
  readonly tsmFolder: string;
  /** AWS's tool that asks the NitroTPM for an attestation document. */
  readonly nitroTpmAttest: string;
}

export const SOURCES: EvidenceSources = {
  tsmFolder: '/sys/kernel/config/tsm/report',
  nitroTpmAttest: '/usr/bin/nitro-tpm-attest',
};

/** Whether this machine has any hardware that signs for it. */
export function canAttest(sources: EvidenceSources): boolean {
  return existsSync(sources.tsmFolder) || existsSync(sources.nitroTpmAttest);
}

/** Asks for a fresh challenge and has the hardware of this machine sign T over it. */
export async function collectEvidence(
  api: Api,
  config: AgentConfig,
  identity: Identity,
  key: AgentKey,
  sources: EvidenceSources,
): Promise<{ readonly nonce: string; readonly evidence: Evidence }> {
  const { instanceId, accountId, region } = identity;
  const { nonce } = await api.post('/challenges', { instanceId, purpose: 'report' }, challengeResponse);
  const t = transcript({
    purpose: 'report',
    apiOrigin: new URL(config.apiUrl).origin,
    accountId,
    region,
    instanceId,
    nonce: Buffer.from(nonce, 'base64'),
    agentPublicKey: key.publicKey,
  });
  const evidence: Evidence = [];
  if (existsSync(sources.tsmFolder)) {
    const snp = readTsmReport(sources.tsmFolder, t);
    if (snp) evidence.push(snp);
  }
  if (existsSync(sources.nitroTpmAttest)) {
    evidence.push(await askNitroTpm(sources.nitroTpmAttest, join(config.stateDir, 'user-data'), t));
  }
  return { nonce, evidence };
}

/**
 * One report by configfs-tsm: a folder made, the 64 bytes written, the blob read. The generation says
 * whether somebody else wrote between.
 */
function readTsmReport(tsmFolder: string, t: Buffer): Evidence[number] | undefined {
  const entry = join(tsmFolder, `casemate-${process.pid}`);
  try {
    mkdirSync(entry);
    const provider = readFileSync(join(entry, 'provider'), 'utf8').trim();
    if (provider !== 'sev_guest') return undefined; // EC2 has no other; TDX is verified offline alone
    writeFileSync(join(entry, 'inblob'), t);
    const generation = readFileSync(join(entry, 'generation'), 'utf8');
    const report = readFileSync(join(entry, 'outblob'));
    const table = readFileSync(join(entry, 'auxblob'));
    if (readFileSync(join(entry, 'generation'), 'utf8') !== generation) {
      throw new EvidenceError('somebody else asked for a report at the same time');
    }
    return {
      format: 'snp',
      report: report.toString('base64'),
      certificates: parseCertificateTable(table).map((c) => Buffer.from(c).toString('base64')),
    };
  } catch (error) {
    if (error instanceof EvidenceError) throw error;
    throw new EvidenceError(`no SEV-SNP report from ${tsmFolder}`, { cause: error });
  } finally {
    if (existsSync(entry)) rmdirSync(entry); // configfs: the kernel removes the files with the folder
  }
}

/** The tool takes its user data from a file: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/attestation-get-doc.html */
async function askNitroTpm(tool: string, userData: string, t: Buffer): Promise<Evidence[number]> {
  try {
    writeFileSync(userData, t, { mode: 0o600 });
    const { stdout } = await promisify(execFile)(tool, ['--user-data', userData], {
      encoding: 'buffer',
      timeout: 10_000,
      maxBuffer: 64 * 1024,
    });
    return { format: 'nitro', document: stdout.toString('base64') };
  } catch (error) {
    throw new EvidenceError(`${tool} gave no attestation document`, { cause: error });
  }
}
