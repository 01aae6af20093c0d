import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { withLock } from './lock.ts';

/** The NitroTPM gave no attestation document. Retryable. */
export class NitroTpmError extends Error {
  override readonly name = 'NitroTpmError';
}

/** What a document is to carry beside what the machine is. */
export interface DocumentRequest {
  readonly userData: Uint8Array;
  /** A key that others may seal to, SPKI DER. */
  readonly publicKey?: Uint8Array;
}

/** Has the NitroTPM of this instance sign a document: COSE_Sign1. @throws NitroTpmError */
export type NitroTpm = (request: DocumentRequest) => Promise<Buffer>;

/** A document takes a fraction of a second; two of our processes may want one at the same time. */
const TIMEOUT_MS = 10_000;
const LOCK_WAIT_SECONDS = 30;

/**
 * The NitroTPM by AWS's tool, which takes what a document is to carry from files and writes it to standard output:
 * https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/attestation-get-doc.html
 * https://github.com/aws/NitroTPM-Tools/blob/main/nitro-tpm-attest/README.md
 *
 * One at a time on this machine: question and answer lie in the TPM's memory between the commands of the tool.
 *
 * @param stateDir where the files are for that long; nothing in them is a secret
 */
export function createNitroTpm(tool: string, stateDir: string): NitroTpm {
  return async ({ userData, publicKey }) => {
    const folder = mkdtempSync(join(stateDir, 'nitro-tpm-'));
    const file = (name: string, bytes: Uint8Array) => {
      const path = join(folder, name);
      writeFileSync(path, bytes, { mode: 0o600 });
      return path;
    };
    try {
      const args = ['--user-data', file('user-data', userData)];
      if (publicKey) args.push('--public-key', file('public-key', publicKey));
      return await withLock(join(stateDir, 'nitro-tpm.lock'), LOCK_WAIT_SECONDS, async () => {
        const { stdout } = await promisify(execFile)(tool, args, {
          encoding: 'buffer',
          timeout: TIMEOUT_MS,
          maxBuffer: 64 * 1024,
        });
        return stdout;
      });
    } catch (error) {
      throw new NitroTpmError(`${tool} gave no attestation document`, { cause: error });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  };
}
