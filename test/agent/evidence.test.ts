import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type Api, RefusedError } from '../../agent/api.ts';
import {
  collectEvidence,
  EvidenceError,
  type EvidenceParts,
  type EvidencePlaces,
  lookForSources,
  type SourceName,
} from '../../agent/evidence.ts';
import { loadOrCreateKey } from '../../agent/key.ts';
import { writeDurably } from '../../agent/state.ts';
import { transcript } from '../../lib/domain/transcript.ts';
import { aConfig } from './harness.ts';

const identity = { instanceId: 'i-0123456789abcdef0', accountId: '123456789012', region: 'eu-west-1' };
const nonce = Buffer.alloc(32, 7).toString('base64');

let folder: string;
let places: EvidencePlaces;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'casemate-evidence-'));
  places = {
    tsmFolder: join(folder, 'tsm'),
    sevGuest: join(folder, 'sev-guest'),
    nitroTpmAttest: join(folder, 'nitro-tpm-attest'),
  };
});
afterEach(() => rmSync(folder, { recursive: true }));

const collect = (
  sources: readonly SourceName[],
  tpm?: EvidenceParts['tpm'],
  refuse: (path: string) => void = () => undefined,
) => {
  const asked: { path: string; body: object }[] = [];
  const api: Api = {
    async post(path, body, schema) {
      asked.push({ path, body });
      refuse(path);
      return schema.parse({ nonce, expiresAt: '2026-11-24T08:01:00Z' });
    },
  };
  const key = loadOrCreateKey(folder, identity.instanceId);
  const t = transcript({
    purpose: 'report',
    apiOrigin: 'https://api.casemate.example',
    ...identity,
    nonce: Buffer.from(nonce, 'base64'),
    agentPublicKey: key.publicKey,
  });
  const config = aConfig(folder);
  return { t, asked, evidence: collectEvidence({ api, config, identity, key, sources, places, tpm }) };
};

/** A stand-in for AWS's tool: gives back what it was asked to sign. */
function installTool(script: string): void {
  writeFileSync(places.nitroTpmAttest, `#!/bin/sh\n${script}\n`);
  chmodSync(places.nitroTpmAttest, 0o755);
}
const ECHO = '[ "$1" = --user-data ] && cat "$2"';

/** A TPM that quotes what it was asked to, its key activated before. */
function aTpm(): NonNullable<EvidenceParts['tpm']> {
  const attestationKey = Buffer.from('an attestation key');
  const digest = createHash('sha256').update(attestationKey).digest('hex');
  writeDurably(join(folder, 'activated'), `${identity.instanceId} ${digest}\n`);
  return {
    attestationKey,
    endorsementKey: async () => Buffer.from('an endorsement key'),
    activate: async () => Buffer.alloc(32),
    quote: async (over) => ({
      attest: Buffer.from(over),
      signature: Buffer.from('signed'),
      pcrs: Buffer.from('PCRs'),
    }),
  };
}

describe('looking for what can sign', () => {
  test('says of each kind why it is not on this machine', () => {
    const found = lookForSources(places, `device:${join(folder, 'tpmrm0')}`);
    expect(found.map(({ name }) => name)).toEqual(['nitrotpm', 'tpm', 'configfs-tsm', 'sev-guest']);
    for (const { absent } of found) expect(absent).toMatch(/^no \//);
  });

  test('finds the tool of the NitroTPM', () => {
    installTool(ECHO);
    expect(lookForSources(places).find(({ name }) => name === 'nitrotpm')?.absent).toBeUndefined();
  });

  test('finds the driver of SEV-SNP guests where configfs gives no report', () => {
    writeFileSync(places.sevGuest, '');
    mkdirSync(places.tsmFolder); // an ordinary folder: no files appear in an entry
    const [, , tsm, device] = lookForSources(places);
    expect(tsm?.absent).toContain('gives no entry (ENOENT)');
    expect(device?.absent).toBeUndefined();
    expect(readdirSync(places.tsmFolder)).toEqual([]);
  });
});

describe('collecting evidence', () => {
  test('asks the NitroTPM to sign T over a fresh challenge for a report', async () => {
    installTool(ECHO);
    const { t, asked, evidence } = collect(['nitrotpm']);
    const collected = await evidence;
    expect(asked).toEqual([
      { path: '/challenges', body: { instanceId: identity.instanceId, purpose: 'report' } },
    ]);
    expect(collected).toEqual({ nonce, evidence: [{ format: 'nitro', document: t.toString('base64') }] });
  });

  test('asks the TPM for a quote over SHA-256 of T, once its key was activated', async () => {
    const { t, asked, evidence } = collect(['tpm'], aTpm());
    const [quote] = (await evidence).evidence;
    expect(asked).toHaveLength(1);
    expect(quote).toEqual({
      format: 'tpm',
      attest: createHash('sha256').update(t).digest('base64'),
      signature: Buffer.from('signed').toString('base64'),
      ak: Buffer.from('an attestation key').toString('base64'),
      pcrs: Buffer.from('PCRs').toString('base64'),
    });
  });

  test('sends no quote of a key that the pipeline refused, and the other evidence all the same', async () => {
    installTool(ECHO);
    const tpm = aTpm();
    rmSync(join(folder, 'activated'));
    const { asked, evidence } = collect(['tpm', 'nitrotpm'], tpm, (path) => {
      if (path === '/tpm-activations') throw new RefusedError('TPM_NOT_OF_INSTANCE', 'no');
    });
    expect((await evidence).evidence.map(({ format }) => format)).toEqual(['nitro']);
    expect(asked.map(({ path }) => path)).toEqual(['/challenges', '/tpm-activations', '/challenges']);
  });

  test.each<[string, SourceName, () => void]>([
    ['the NitroTPM gives nothing', 'nitrotpm', () => installTool('echo "TPM is busy" >&2; exit 1')],
    ['configfs gives no report', 'configfs-tsm', () => mkdirSync(places.tsmFolder)],
    ['the driver of SEV-SNP guests is none', 'sev-guest', () => writeFileSync(places.sevGuest, '')],
  ])('says so when %s, and leaves nothing behind', async (_, source, prepare) => {
    prepare();
    await expect(collect([source]).evidence).rejects.toThrow(EvidenceError);
    if (source === 'configfs-tsm') expect(readdirSync(places.tsmFolder)).toEqual([]);
  });
});
