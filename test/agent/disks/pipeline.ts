import {
  constants,
  createHash,
  generateKeyPairSync,
  privateDecrypt,
  randomBytes,
  randomUUID,
} from 'node:crypto';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Aes256Gcm, CipherSuite, DhkemP256HkdfSha256, HkdfSha256 } from '@hpke/core';
import { type Api, RefusedError, UnreachableError } from '../../../agent/api.ts';
import type { AgentConfig } from '../../../agent/config.ts';
import { createDiskParts, type DiskParts } from '../../../agent/disks/parts.ts';
import { type RunTool, runTool } from '../../../agent/disks/tool.ts';
import { loadOrCreateKey } from '../../../agent/key.ts';
import type { DiskListResponse, ListedVolume } from '../../../lib/domain/disk-api.ts';
import * as wire from '../../../lib/domain/disk-api.ts';
import { parseAgentPublicKey, verifyAgentSignature } from '../../../lib/domain/signature.ts';
import { type Purpose, signedBytes, transcript } from '../../../lib/domain/transcript.ts';
import { aConfig, IDENTITY, temporaryFolder } from '../harness.ts';

const suite = new CipherSuite({
  kem: new DhkemP256HkdfSha256(),
  kdf: new HkdfSha256(),
  aead: new Aes256Gcm(),
});
export const VOLUME = 'vol-0123456789abcdef0';
const recoveryPair = generateKeyPairSync('rsa', { modulusLength: 2048 });

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/**
 * The disk API by its wire schemas, with one volume in it: challenges are used once, signatures are verified over T,
 * keys go out sealed. What the pipeline decides is set by the test; the real functions have tests of their own.
 */
export function createPipeline(publicKey: () => Buffer) {
  const volume: Mutable<ListedVolume> = {
    volumeId: VOLUME,
    sizeGiB: 1,
    notCovered: null,
    disk: randomUUID(),
    kind: 'luks2',
    fromSnapshot: false,
    confirmed: false,
    generations: [{ generation: 1, state: 'issued' }],
    rotate: null,
    mountPoint: null,
    filesystem: null,
  };
  const keys = new Map<number, Buffer>([[1, randomBytes(64)]]);
  const challenges = new Map<string, Purpose>();
  const state = {
    volume,
    keys,
    calls: [] as string[],
    /** Refuses releases with this reason. */
    refuses: undefined as string | undefined,
    away: false,
    escrow: null as string | null,
    recoveryKey: undefined as string | undefined,
    headers: [] as Buffer[],
    withRecovery: true,
    withHeaders: true,
  };

  const verify = (
    purpose: Purpose,
    body: { nonce: string; signature: string },
    subject: { disk?: string; generation?: number; ephemeralPublicKey?: string },
    payload?: string,
  ) => {
    if (challenges.get(body.nonce) !== purpose) throw new RefusedError('CHALLENGE_UNKNOWN', body.nonce);
    challenges.delete(body.nonce);
    const { ephemeralPublicKey, ...rest } = subject;
    const parts = {
      purpose,
      apiOrigin: 'https://api.casemate.example',
      ...IDENTITY,
      ...rest,
      ...(ephemeralPublicKey ? { ephemeralPublicKey: Buffer.from(ephemeralPublicKey, 'base64') } : {}),
      nonce: Buffer.from(body.nonce, 'base64'),
      agentPublicKey: publicKey(),
    };
    const key = parseAgentPublicKey(publicKey());
    const signature = Buffer.from(body.signature, 'base64');
    if (!key || !verifyAgentSignature(key, signedBytes(parts, payload), signature)) {
      throw new RefusedError('SIGNATURE_WRONG', purpose);
    }
    return transcript(parts);
  };
  const list = (): DiskListResponse => ({
    mode: 'enforce',
    recoveryPublicKey: state.withRecovery
      ? recoveryPair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
      : null,
    volumes: [{ ...volume, generations: volume.generations.map((g) => ({ ...g })) }],
  });
  const set = (generation: number, to: 'active' | 'retiring' | 'issued') => {
    volume.generations = volume.generations.map((g) =>
      g.generation === generation ? { ...g, state: to } : g,
    );
  };
  const routes: Record<string, (body: never) => unknown> = {
    '/challenges': ({ purpose }: { purpose: Purpose }) => {
      const nonce = randomBytes(32).toString('base64');
      challenges.set(nonce, purpose);
      return { nonce, expiresAt: new Date(Date.now() + 60_000).toISOString() };
    },
    '/disks': (raw) => {
      const body = wire.diskListRequest.parse(raw);
      verify('release', body, {});
      return list();
    },
    '/releases': async (raw) => {
      const body = wire.releaseRequest.parse(raw);
      const { disk, generation, ephemeralPublicKey } = body;
      const info = verify('release', body, { disk, generation, ephemeralPublicKey });
      const key = keys.get(generation);
      if (state.refuses || !key || disk !== volume.disk)
        throw new RefusedError(state.refuses ?? 'RELEASE_REFUSED', 'no');
      const point = await suite.kem.deserializePublicKey(Buffer.from(ephemeralPublicKey, 'base64'));
      const { enc, ct } = await suite.seal({ recipientPublicKey: point, info }, key);
      return {
        disk,
        generation,
        enc: Buffer.from(enc).toString('base64'),
        ciphertext: Buffer.from(ct).toString('base64'),
        forRecipient: false,
        escrow: state.escrow,
      };
    },
    '/confirmations': (raw) => {
      const body = wire.confirmationRequest.parse(raw);
      const { disk, generation } = body;
      verify('confirm', body, { disk, generation }, body.payload);
      const sealed = wire.confirmationPayload.parse(JSON.parse(body.payload));
      const older = volume.generations.filter((g) => g.state === 'active' && g.generation < generation);
      set(generation, 'active');
      for (const g of older) set(g.generation, 'retiring');
      volume.confirmed = true;
      volume.rotate = null;
      state.recoveryKey = sealed.recoveryKey ?? state.recoveryKey;
      state.escrow = sealed.escrow ?? state.escrow;
      return { disk, generation, state: 'active', retiring: older.map((g) => g.generation) };
    },
    '/rotations': (raw) => {
      const body = wire.rotationRequest.parse(raw);
      const { disk, generation } = body;
      verify('rotate', body, { disk, generation });
      if (!keys.has(generation)) {
        keys.set(generation, randomBytes(64));
        volume.generations = [...volume.generations, { generation, state: 'issued' }];
      }
      return { disk, generation, state: 'issued' };
    },
    '/adoptions': (raw) => {
      const body = wire.adoptionRequest.parse(raw);
      verify('recover', body, { disk: body.disk });
      volume.disk = body.disk;
      volume.notCovered = null;
      return { disk: body.disk, volumeId: body.volumeId, generations: volume.generations };
    },
    '/headers': (raw) => {
      if (!state.withHeaders) throw new UnreachableError('no such route');
      const body = wire.headerRequest.parse(raw);
      const { disk, generation, payload } = body;
      verify('confirm', body, { disk, generation }, payload);
      state.headers.push(Buffer.from(payload, 'base64'));
      return { disk, key: `headers/${disk}/${generation}/1` };
    },
  };
  const api: Api = {
    async post(path, body, schema) {
      if (state.away) throw new UnreachableError('https://api.casemate.example does not answer');
      if (path !== '/challenges') state.calls.push(path);
      const answer = await routes[path]?.(JSON.parse(JSON.stringify(body)) as never);
      return schema.parse(JSON.parse(JSON.stringify(answer)));
    },
  };
  return { api, ...{ state, list } };
}

/** Opens a sealed recovery key, as an operator does with the private key in KMS. */
export function openRecoveryKey(sealed: string): Buffer {
  return privateDecrypt(
    { key: recoveryPair.privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' },
    Buffer.from(sealed, 'base64'),
  );
}

/** A machine with one volume, for which a sparse file stands, and an agent on it. */
export function createMachine(settings: Partial<AgentConfig> = {}, bytes = 64 * 1024 * 1024) {
  const folder = temporaryFolder();
  const device = join(folder.path, 'volume.img');
  writeFileSync(device, '');
  truncateSync(device, bytes);
  const stateDir = folder.path;
  const config = aConfig(stateDir, {
    runtimeDir: join(folder.path, 'run'),
    devices: { [VOLUME]: device },
    ...settings,
  });
  const key = loadOrCreateKey(stateDir, IDENTITY.instanceId);
  const pipeline = createPipeline(() => key.publicKey);
  const said: string[] = [];
  /** An agent that was just started: it remembers nothing but what is on the disk. */
  const start = (api: Api = pipeline.api, run: RunTool = runTool): DiskParts =>
    createDiskParts({ config, identity: IDENTITY, key, api }, run, (line) => said.push(line));
  return { folder, device, config, ...pipeline, start, said };
}
export type Machine = ReturnType<typeof createMachine>;

export const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
