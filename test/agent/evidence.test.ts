import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Api } from '../../agent/api.ts';
import { configSchema } from '../../agent/config.ts';
import { canAttest, collectEvidence, EvidenceError, type EvidenceSources } from '../../agent/evidence.ts';
import { loadOrCreateKey } from '../../agent/key.ts';
import { transcript } from '../../lib/domain/transcript.ts';

const identity = { instanceId: 'i-0123456789abcdef0', accountId: '123456789012', region: 'eu-west-1' };
const nonce = Buffer.alloc(32, 7).toString('base64');

let folder: string;
let sources: EvidenceSources;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-evidence-'));
  sources = { tsmFolder: join(folder, 'tsm'), nitroTpmAttest: join(folder, 'nitro-tpm-attest') };
});
afterEach(() => rmSync(folder, { recursive: true }));

const collect = () => {
  const config = configSchema.parse({
    region: 'eu-west-1',
    apiUrl: 'https://api.casemate.example/v1',
    busName: 'casemate',
    stateDir: folder,
  });
  const asked: { path: string; body: object }[] = [];
  const api: Api = {
    async post(path, body, schema) {
      asked.push({ path, body });
      return schema.parse({ nonce, expiresAt: '2026-11-24T08:01:00Z' });
    },
  };
  const key = loadOrCreateKey(folder, identity.instanceId);
  return { key, asked, evidence: collectEvidence(api, config, identity, key, sources) };
};

/** A stand-in for AWS's tool: gives back what it was asked to sign. */
function installTool(script: string): void {
  writeFileSync(sources.nitroTpmAttest, `#!/bin/sh\n${script}\n`);
  chmodSync(sources.nitroTpmAttest, 0o755);
}

describe('collecting evidence', () => {
  test('is not possible on a machine without hardware that signs', () => {
    expect(canAttest(sources)).toBe(false);
  });

  test('asks the NitroTPM to sign T over a fresh challenge for a report', async () => {
    installTool('[ "$1" = --user-data ] && cat "$2"');
    expect(canAttest(sources)).toBe(true);
    const { key, asked, evidence } = collect();
    const collected = await evidence;
    expect(asked).toEqual([
      { path: '/challenges', body: { instanceId: identity.instanceId, purpose: 'report' } },
    ]);
    const t = transcript({
      purpose: 'report',
      apiOrigin: 'https://api.casemate.example',
      ...identity,
      nonce: Buffer.from(nonce, 'base64'),
      agentPublicKey: key.publicKey,
    });
    expect(collected).toEqual({ nonce, evidence: [{ format: 'nitro', document: t.toString('base64') }] });
  });

  test('says so when the NitroTPM gives nothing', async () => {
    installTool('echo "TPM is busy" >&2; exit 1');
    await expect(collect().evidence).rejects.toThrow(EvidenceError);
  });

  test('says so when configfs gives no report, and leaves no entry behind', async () => {
    mkdirSync(sources.tsmFolder); // an ordinary folder: no files appear in an entry
    await expect(collect().evidence).rejects.toThrow(EvidenceError);
    expect(readdirSync(sources.tsmFolder)).toEqual([]);
    expect(existsSync(sources.nitroTpmAttest)).toBe(false);
  });
});
