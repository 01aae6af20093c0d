import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { challengeResponse } from '../lib/domain/enrolment.ts';
import { parseCertificateTable } from '../lib/domain/evidence/snp/certificate-table.ts';
import type { ReportPayload } from '../lib/domain/report.ts';
import { transcript } from '../lib/domain/transcript.ts';
import { activate, isActivated } from './activation.ts';
import type { Api } from './api.ts';
import type { AgentConfig } from './config.ts';
import type { AgentKey } from './key.ts';
import { explain, log } from './log.ts';
import type { Identity } from './metadata.ts';
import { createNitroTpm, type NitroTpm } from './nitro-tpm.ts';
import { snpReport } from './probe.ts';
import { DEFAULT_PCRS, type Tpm, whyNoTpm } from './tpm.ts';

/** The hardware could not be asked for evidence. Retryable; a report goes out without it. */
export class EvidenceError extends Error {
  override readonly name = 'EvidenceError';
}

type Evidence = NonNullable<ReportPayload['evidence']>;

/** Where this machine may have something that signs. */
export interface EvidencePlaces {
  /** configfs-tsm: Linux Documentation/ABI/testing/configfs-tsm-report. */
  readonly tsmFolder: string;
  /** The driver of SEV-SNP guests, for kernels before configfs-tsm. */
  readonly sevGuest: string;
  /** AWS's tool that asks the NitroTPM for an attestation document. */
  readonly nitroTpmAttest: string;
}

export const PLACES: EvidencePlaces = {
  tsmFolder: '/sys/kernel/config/tsm/report',
  sevGuest: '/dev/sev-guest',
  nitroTpmAttest: '/usr/bin/nitro-tpm-attest',
};

export type SourceName = 'nitrotpm' | 'tpm' | 'configfs-tsm' | 'sev-guest';

/** One kind of hardware that may sign for this machine. */
export interface Source {
  readonly name: SourceName;
  readonly what: string;
  /** Why it is not on this machine, for people; undefined when it is. */
  readonly absent: string | undefined;
}

/** Looks for everything that could sign. Nothing is asked of the hardware. */
export function lookForSources(places: EvidencePlaces, tcti?: string): readonly Source[] {
  const tsm = whyNoTsm(places.tsmFolder);
  return [
    {
      name: 'nitrotpm',
      what: 'NitroTPM attestation document',
      absent: existsSync(places.nitroTpmAttest)
        ? undefined
        : `no ${places.nitroTpmAttest}: the instance has no NitroTPM, or its tools (aws-nitro-tpm-tools) are not installed`,
    },
    { name: 'tpm', what: 'TPM 2.0 quote', absent: whyNoTpm(tcti) },
    { name: 'configfs-tsm', what: 'SEV-SNP report by configfs-tsm', absent: tsm },
    {
      name: 'sev-guest',
      what: 'SEV-SNP report by its driver',
      absent:
        tsm === undefined ? 'not needed: configfs-tsm gives the same report' : whyNoDevice(places.sevGuest),
    },
  ];
}

/** The provider shows only in an entry, so one is made for the look; it asks nothing of the hardware. */
function whyNoTsm(tsmFolder: string): string | undefined {
  if (!existsSync(tsmFolder)) {
    return `no ${tsmFolder}: kernel before 6.7, no provider loaded (no SEV-SNP guest), or configfs not mounted`;
  }
  try {
    withEntry(tsmFolder, requireSevGuest);
    return undefined;
  } catch (error) {
    if (error instanceof EvidenceError) return error.message;
    return `${tsmFolder} is there, and gives no entry (${codeOf(error)}): run as root`;
  }
}

function whyNoDevice(device: string): string | undefined {
  if (!existsSync(device)) return `no ${device}: no SEV-SNP guest, or its driver is not loaded`;
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return `${device} is there, and not for this user (${codeOf(error)}): run as root`;
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

/** The sources that are on this machine, with what asking them takes. */
export interface EvidenceParts {
  readonly api: Api;
  readonly config: AgentConfig;
  readonly identity: Identity;
  readonly key: AgentKey;
  readonly sources: readonly SourceName[];
  readonly places: EvidencePlaces;
  /** There when `tpm` is a source. */
  readonly tpm?: Pick<Tpm, 'attestationKey' | 'endorsementKey' | 'activate' | 'quote'> | undefined;
}

/**
 * Asks for a fresh challenge and has all hardware of this machine sign T over it. What fails is logged, and the
 * others' evidence goes out.
 *
 * @throws EvidenceError when all fail
 */
export async function collectEvidence(
  parts: EvidenceParts,
): Promise<{ readonly nonce: string; readonly evidence: Evidence }> {
  const { api, config, identity, key, tpm } = parts;
  const { instanceId, accountId, region } = identity;
  const failures: unknown[] = [];
  const attempt = async <T>(name: SourceName, work: () => Promise<T> | T): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      failures.push(error);
      log(`no evidence from ${name}: ${explain(error)}`);
      return undefined;
    }
  };
  // Before the challenge, which lives a minute: a quote counts only once its key was activated.
  const quoting =
    tpm &&
    parts.sources.includes('tpm') &&
    (await attempt('tpm', async () => {
      if (!isActivated(config, identity, tpm)) await activate(api, config, identity, key, tpm);
      return tpm;
    }));
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
  for (const source of parts.sources) {
    const signed = await attempt(source, () => {
      switch (source) {
        case 'nitrotpm':
          return askNitroTpm(createNitroTpm(parts.places.nitroTpmAttest, config.stateDir), t);
        case 'tpm':
          return quoting && askTpm(quoting, t, config);
        case 'configfs-tsm':
          return askTsm(parts.places.tsmFolder, t);
        case 'sev-guest':
          return askSevGuest(parts.places.sevGuest, t);
      }
    });
    if (signed) evidence.push(signed);
  }
  if (evidence.length === 0) {
    throw new EvidenceError('nothing on this machine signed', { cause: failures[0] });
  }
  return { nonce, evidence };
}

/**
 * One report by configfs-tsm: a folder made, the 64 bytes written, the blob read. The generation says
 * whether somebody else wrote between.
 */
function askTsm(tsmFolder: string, t: Buffer): Evidence[number] {
  try {
    return withEntry(tsmFolder, (entry) => {
      requireSevGuest(entry);
      writeFileSync(join(entry, 'inblob'), t);
      const generation = readFileSync(join(entry, 'generation'), 'utf8');
      const report = readFileSync(join(entry, 'outblob'));
      const table = readFileSync(join(entry, 'auxblob'));
      if (readFileSync(join(entry, 'generation'), 'utf8') !== generation) {
        throw new EvidenceError('somebody else asked for a report at the same time');
      }
      return snpEvidence(report, table);
    });
  } catch (error) {
    if (error instanceof EvidenceError) throw error;
    throw new EvidenceError(`no SEV-SNP report from ${tsmFolder}`, { cause: error });
  }
}

/** EC2 has no other provider; TDX is verified offline alone. */
function requireSevGuest(entry: string): void {
  const provider = readFileSync(join(entry, 'provider'), 'utf8').trim();
  if (provider !== 'sev_guest')
    throw new EvidenceError(`configfs-tsm is for ${provider} here, not sev_guest`);
}

function withEntry<T>(tsmFolder: string, use: (entry: string) => T): T {
  const entry = join(tsmFolder, `casemate-${process.pid}`);
  mkdirSync(entry);
  try {
    return use(entry);
  } finally {
    rmdirSync(entry); // configfs: the kernel removes the files with the folder
  }
}

function askSevGuest(device: string, t: Buffer): Evidence[number] {
  const { report, certificates } = snpReport(device, t);
  return snpEvidence(report, certificates);
}

function snpEvidence(report: Buffer, table: Buffer): Evidence[number] {
  return {
    format: 'snp',
    report: report.toString('base64'),
    certificates: parseCertificateTable(table).map((c) => Buffer.from(c).toString('base64')),
  };
}

async function askNitroTpm(nitroTpm: NitroTpm, t: Buffer): Promise<Evidence[number]> {
  return { format: 'nitro', document: (await nitroTpm({ userData: t })).toString('base64') };
}

/** A quote's nonce has room for a digest alone: SHA-256(T), as lib/domain/evidence/binding.ts wants it. */
async function askTpm(
  tpm: Pick<Tpm, 'quote' | 'attestationKey'>,
  t: Buffer,
  config: AgentConfig,
): Promise<Evidence[number]> {
  const { pcrs = DEFAULT_PCRS } = config.tpm || {};
  const quote = await tpm.quote(createHash('sha256').update(t).digest(), pcrs);
  return {
    format: 'tpm',
    attest: quote.attest.toString('base64'),
    signature: quote.signature.toString('base64'),
    ak: tpm.attestationKey.toString('base64'),
    pcrs: quote.pcrs.toString('base64'),
  };
}
