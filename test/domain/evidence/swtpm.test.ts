import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import {
  credentialFile,
  ephemeralKeyFor,
  makeCredential,
  seedBytes,
} from '../../../lib/domain/evidence/tpm/credential.ts';
import { parsePublicKey, verifyTpm } from '../../../lib/domain/evidence/tpm/index.ts';
import { missingTools, startSoftwareTpm } from '../../world/software-tpm.ts';

const withTpm = missingTools.length === 0 ? test : test.skip;
const skipped = missingTools.length === 0 ? '' : `skipped: no ${missingTools.join(', ')} here: `;

interface Tpm {
  readonly folder: string;
  /** Runs a tool in a TPM that holds nothing of earlier ones: there is no resource manager. */
  readonly run: (tool: string, ...args: string[]) => Promise<void>;
  /** Runs a tool beside what the last one left, such as a session. */
  readonly go: (tool: string, ...args: string[]) => Promise<void>;
  readonly read: (name: string) => Promise<Buffer>;
}

/** A software TPM of its own for one test. */
async function useTpm(run: (tpm: Tpm) => Promise<void>): Promise<void> {
  const { folder, tcti, stop } = await startSoftwareTpm();
  const env = { ...process.env, TPM2TOOLS_TCTI: tcti };
  try {
    const go = async (name: string, ...args: string[]) => {
      await promisify(execFile)(name, args, { cwd: folder, env });
    };
    await run({
      folder,
      go,
      run: async (name, ...args) => {
        for (const kind of ['-t', '-l', '-s']) await go('tpm2_flushcontext', kind);
        await go(name, ...args);
      },
      read: (name) => readFile(join(folder, name)),
    });
  } finally {
    await stop();
  }
}

describe('with a TPM', () => {
  const kinds = [
    ['rsa', 'rsa', 'rsassa'],
    ['ecc', 'ecc', 'ecdsa'],
  ] as const;
  for (const [ek, ak, scheme] of kinds) {
    withTpm(
      `${skipped}a ${ak} quote is accepted, and a credential for its key is opened by that TPM alone`,
      async () => {
        const secret = randomBytes(32);
        const nonce = randomBytes(32);
        await useTpm(async ({ folder, run, go, read }) => {
          await run('tpm2_createek', '-G', ek, '-c', 'ek.ctx', '-u', 'ek.pem', '-f', 'pem');
          await run(
            'tpm2_createak',
            '-C',
            'ek.ctx',
            '-c',
            'ak.ctx',
            '-G',
            ak,
            '-g',
            'sha256',
            '-s',
            scheme,
            '-u',
            'ak.pem',
            '-f',
            'pem',
          );
          await run('tpm2_readpublic', '-c', 'ak.ctx', '-f', 'tss', '-o', 'ak.tss', '-n', 'ak.name');
          await run(
            'tpm2_quote',
            '-c',
            'ak.ctx',
            '-l',
            'sha256:0,4,7,12',
            '-q',
            nonce.toString('hex'),
            '-m',
            'q.msg',
            '-s',
            'q.sig',
            '-o',
            'q.pcrs',
            '-g',
            'sha256',
          );
          const [attest, signature, pcrs, pem, area] = await Promise.all(
            ['q.msg', 'q.sig', 'q.pcrs', 'ak.pem', 'ak.tss'].map(read),
          );
          if (!attest || !signature || !pcrs || !pem || !area) throw new Error('a file is missing');
          for (const key of [pem, area]) {
            const verdict = verifyTpm({
              attest,
              signature,
              pcrs,
              ak: key,
              at: new Date(),
              expected: { nonce },
            });
            expect(verdict.reasons).toEqual([]);
          }

          const name = parsePublicKey(area).area?.name ?? Buffer.alloc(0);
          expect(name).toEqual(await read('ak.name'));
          const endorsement = parsePublicKey(await read('ek.pem'));
          const random = {
            seed: randomBytes(seedBytes(endorsement)),
            ephemeral: ephemeralKeyFor(endorsement),
          };
          const answer = async (forName: Uint8Array) => {
            await writeFile(
              join(folder, 'credential'),
              credentialFile(makeCredential(endorsement, forName, secret, random)),
            );
            await run('tpm2_startauthsession', '--policy-session', '-S', 'session');
            await go('tpm2_policysecret', '-S', 'session', '-c', 'e');
            const files = ['-i', 'credential', '-o', 'secret', '-P', 'session:session'];
            await go('tpm2_activatecredential', '-c', 'ak.ctx', '-C', 'ek.ctx', ...files);
            return read('secret');
          };
          expect(await answer(name)).toEqual(secret);
          await expect(answer(Buffer.from(name).fill(7, 10))).rejects.toThrow('tpm2_activatecredential');
        });
      },
      60_000,
    );
  }
});
