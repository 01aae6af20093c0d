import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { parseSignature } from '../lib/domain/evidence/tpm/bytes.ts';
import { type Credential, credentialFile } from '../lib/domain/evidence/tpm/credential.ts';
import { parsePublicKey } from '../lib/domain/evidence/tpm/public-key.ts';
import type { AgentKey } from './key.ts';

/** The TPM did not do what it was asked for. Retryable; the tool's own words are in the message. */
export class TpmError extends Error {
  override readonly name = 'TpmError';
}

/** Where the TPM is, as tpm2-tools name it (TCTI): the kernel's resource manager. */
export const DEFAULT_TCTI = 'device:/dev/tpmrm0';

/** What is quoted unless configured: firmware, boot loader, Secure Boot, kernel and command line, not the debug PCRs. */
export const DEFAULT_PCRS = 'sha256:0,1,2,3,4,5,6,7,8,9,11,12,14';

const TOOLS = [
  'tpm2_activatecredential',
  'tpm2_createek',
  'tpm2_createprimary',
  'tpm2_flushcontext',
  'tpm2_policysecret',
  'tpm2_quote',
  'tpm2_readpublic',
  'tpm2_sign',
  'tpm2_startauthsession',
] as const;
type Tool = (typeof TOOLS)[number];

/** A TPM answers within a second; an RSA key of a slow one takes a minute. */
const TIMEOUT_MS = 90_000;

/** Why there is no TPM that this agent could use; undefined when there is one. */
export function whyNoTpm(tcti: string = DEFAULT_TCTI): string | undefined {
  const device = /^device:(.+)$/.exec(tcti)?.[1];
  if (device !== undefined) {
    if (!existsSync(device)) return `no ${device}: the machine has no TPM 2.0, or its driver is not loaded`;
    try {
      accessSync(device, constants.R_OK | constants.W_OK);
    } catch {
      return `${device} is there, and not for this user: run as root`;
    }
  }
  const missing = TOOLS.filter((tool) => !isInstalled(tool));
  return missing.length > 0 ? `no ${missing.join(', ')}: install tpm2-tools` : undefined;
}

function isInstalled(tool: Tool): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) => existsSync(join(folder, tool)));
}

export interface Quote {
  /** TPMS_ATTEST. */
  readonly attest: Buffer;
  /** TPMT_SIGNATURE. */
  readonly signature: Buffer;
  /** The file of PCR values that tpm2_quote writes. */
  readonly pcrs: Buffer;
}

/** The TPM of this machine, and two keys in it. */
export interface Tpm {
  /**
   * ECDSA P-256, in the TPM and never outside of it. The TPM derives it from its own seed and the template, so
   * that it is found again after a reboot and on a replaced root volume, and is another one in a clone of the VM.
   */
  readonly agentKey: AgentKey;
  /** TPM2B_PUBLIC of a key that signs nothing but what the TPM itself says; derived likewise. */
  readonly attestationKey: Buffer;
  /** TPM2B_PUBLIC of the RSA-2048 endorsement key. */
  endorsementKey(): Promise<Buffer>;
  /** The secret in a credential for the attestation key. */
  activate(credential: Credential): Promise<Buffer>;
  /** @param nonce at most 32 bytes */
  quote(nonce: Uint8Array, pcrs: string): Promise<Quote>;
}

/** In the endorsement hierarchy: its seed outlives TPM2_Clear. */
const HIERARCHY = ['-C', 'e', '-g', 'sha256'] as const;
const FIXED = 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth';

/**
 * Opens the TPM through tpm2-tools, and has it derive the two keys. Calls go one after another: without a
 * resource manager (a software TPM) they would find each other's keys in the few places there are.
 *
 * @param folder of this process: contexts, which only this TPM can load and only until it restarts
 * @throws TpmError
 */
export async function openTpm(folder: string, tcti: string = DEFAULT_TCTI): Promise<Tpm> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = (name: string) => join(folder, name);
  const environment = { ...process.env, TPM2TOOLS_TCTI: tcti };
  const managed = /^device:\/dev\/tpmrm\d+$/.test(tcti);

  /** Runs a tool beside what the last one left, such as a session. */
  const run = async (tool: Tool, ...args: string[]): Promise<void> => {
    try {
      await promisify(execFile)(tool, args, { cwd: folder, env: environment, timeout: TIMEOUT_MS });
    } catch (error) {
      // Last of all each tool says that it could not be run; what the TPM said stands before.
      const said = /^ERROR: (?!Unable to run )(.+)$/m.exec((error as { stderr?: string }).stderr ?? '');
      throw new TpmError(`${tool}: ${said?.[1] ?? (error as Error).message}`, { cause: error });
    }
  };
  let last: Promise<unknown> = Promise.resolve();
  const alone = <T>(work: () => Promise<T>): Promise<T> => {
    const next = last.then(async () => {
      // What earlier tools loaded stays loaded where no resource manager takes it away.
      if (!managed) for (const kind of ['-t', '-l', '-s']) await run('tpm2_flushcontext', kind);
      return work();
    });
    last = next.catch(() => undefined);
    return next;
  };
  /** Reads what a tool wrote, and takes it away: none of it is needed twice. */
  const take = (name: string): Buffer => {
    const content = readFileSync(file(name));
    rmSync(file(name));
    return content;
  };

  /** TPM2_CreatePrimary gives the same key each time: only the contexts are new. */
  const derive = (name: string, attributes: string): Promise<Buffer> =>
    alone(async () => {
      const context = `${name}.ctx`;
      await run(
        'tpm2_createprimary',
        ...HIERARCHY,
        '-G',
        'ecc256:ecdsa-sha256:null',
        '-a',
        attributes,
        '-c',
        context,
      );
      await run('tpm2_readpublic', '-c', context, '-f', 'tss', '-o', `${name}.pub`);
      return take(`${name}.pub`);
    });
  const agentArea = await derive('agent', `sign|${FIXED}`);
  const attestationKey = await derive('attestation', `restricted|sign|${FIXED}`);

  return {
    attestationKey,
    agentKey: {
      publicKey: parsePublicKey(agentArea).key.export({ format: 'der', type: 'spki' }),
      sign: (bytes) =>
        alone(async () => {
          writeFileSync(file('digest'), createHash('sha256').update(bytes).digest());
          // biome-ignore format: one option a line says nothing more
          await run('tpm2_sign', '-c', 'agent.ctx', '-g', 'sha256', '-s', 'ecdsa', '-d', '-o', 'signature', 'digest');
          return flatSignature(take('signature'));
        }),
    },
    endorsementKey: () =>
      alone(async () => {
        await run('tpm2_createek', '-G', 'rsa', '-c', 'ek.ctx', '-u', 'ek.pub', '-f', 'tss');
        return take('ek.pub');
      }),
    activate: (credential) =>
      alone(async () => {
        writeFileSync(file('credential'), credentialFile(credential));
        // The endorsement key's policy asks for the authorisation of its hierarchy (TCG EK Credential Profile B.3.3).
        await run('tpm2_startauthsession', '--policy-session', '-S', 'session');
        await run('tpm2_policysecret', '-S', 'session', '-c', 'e');
        const files = ['-i', 'credential', '-o', 'secret', '-P', 'session:session'];
        await run('tpm2_activatecredential', '-c', 'attestation.ctx', '-C', 'ek.ctx', ...files);
        return take('secret');
      }),
    quote: (nonce, pcrs) =>
      alone(async () => {
        const qualifying = Buffer.from(nonce).toString('hex');
        // biome-ignore format: one option a line says nothing more
        await run('tpm2_quote', '-c', 'attestation.ctx', '-l', pcrs, '-q', qualifying, '-m', 'attest', '-s', 'signature', '-o', 'pcrs', '-g', 'sha256');
        return { attest: take('attest'), signature: take('signature'), pcrs: take('pcrs') };
      }),
  };
}

/** A TPMT_SIGNATURE of ECDSA on P-256 as R || S. */
function flatSignature(bytes: Uint8Array): Buffer {
  const signature = parseSignature(bytes);
  if (signature.scheme !== 'ecdsa') throw new TpmError(`the TPM signed with ${signature.scheme}`);
  const flat = Buffer.alloc(64);
  // A TPM leaves out leading zeros.
  flat.set(signature.r, 32 - signature.r.length);
  flat.set(signature.s, 64 - signature.s.length);
  return flat;
}
