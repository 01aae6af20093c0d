import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { activate, isActivated } from '../../agent/activation.ts';
import { RefusedError } from '../../agent/api.ts';
import { KeyError, loadOrCreateKey } from '../../agent/key.ts';
import { DEFAULT_PCRS, openTpm, type Tpm, TpmError, whyNoTpm } from '../../agent/tpm.ts';
import { parsePublicKey, verifyTpm } from '../../lib/domain/evidence/tpm/index.ts';
import { parseAgentPublicKey, verifyAgentSignature } from '../../lib/domain/signature.ts';
import { enrolled } from '../world/agent.ts';
import { createApi } from '../world/api.ts';
import { RECORDED_VM } from '../world/recorded.ts';
import { missingTools, type SoftwareTpm, startSoftwareTpm } from '../world/software-tpm.ts';
import { launch } from '../world/vm.ts';
import { createWorld } from '../world/world.ts';
import { aConfig, IDENTITY, temporaryFolder } from './harness.ts';

const withTpm = missingTools.length === 0 ? test : test.skip;
const skipped = missingTools.length === 0 ? '' : `skipped: no ${missingTools.join(', ')} here: `;
const SLOW = 120_000;

let own: SoftwareTpm;
let second: SoftwareTpm;
let folder: ReturnType<typeof temporaryFolder>;
beforeAll(async () => {
  if (missingTools.length > 0) return;
  [own, second] = [await startSoftwareTpm(), await startSoftwareTpm()];
}, SLOW);
afterAll(async () => {
  if (missingTools.length > 0) return;
  await own.stop();
  await second.stop();
});
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

const BYTES = Buffer.from('what an agent signs');

describe('the agent’s key in the TPM', () => {
  withTpm(
    `${skipped}signs as a key in a file does, and nothing of it is written`,
    async () => {
      const { agentKey } = await openTpm(folder.path, own.tcti);
      const key = parseAgentPublicKey(agentKey.publicKey);
      if (!key) throw new Error('no P-256 key in its one encoding');
      // At once, so that calls that met in the TPM would show; often enough for a leading zero now and then.
      const signatures = await Promise.all(
        Array.from({ length: 8 }, (_, i) => agentKey.sign(Buffer.concat([BYTES, Buffer.of(i)]))),
      );
      signatures.forEach((signature, i) => {
        expect(verifyAgentSignature(key, Buffer.concat([BYTES, Buffer.of(i)]), signature)).toBe(true);
      });
      expect(
        readdirSync(folder.path).filter((name) => !/^(agent|attestation)\.ctx$|^digest$/.test(name)),
      ).toEqual([]);
    },
    SLOW,
  );

  withTpm(
    `${skipped}is found again after a power cycle without any file, and is another in another TPM`,
    async () => {
      const first = await openTpm(join(folder.path, 'a'), own.tcti);
      await own.restart();
      const again = await openTpm(join(folder.path, 'b'), own.tcti);
      expect(again.agentKey.publicKey).toEqual(first.agentKey.publicKey);
      expect(again.attestationKey).toEqual(first.attestationKey);
      const elsewhere = await openTpm(join(folder.path, 'c'), second.tcti);
      expect(elsewhere.agentKey.publicKey).not.toEqual(first.agentKey.publicKey);
      expect(elsewhere.attestationKey).not.toEqual(first.attestationKey);
    },
    SLOW,
  );

  const inTpm = { agentKey: { publicKey: Buffer.from('of the TPM'), sign: async () => Buffer.alloc(64) } };

  test('is chosen for a new instance, and never replaced by one in a file', () => {
    const { path } = folder;
    expect(loadOrCreateKey(path, IDENTITY.instanceId, inTpm)).toBe(inTpm.agentKey);
    expect(loadOrCreateKey(path, IDENTITY.instanceId, inTpm)).toBe(inTpm.agentKey);
    expect(() => loadOrCreateKey(path, IDENTITY.instanceId)).toThrow(KeyError);
    // A clone of the root volume finds another TPM, or none.
    expect(loadOrCreateKey(path, 'i-00000002').publicKey).not.toEqual(inTpm.agentKey.publicKey);
  });

  test('does not take the place of a key in a file, which may be enrolled', () => {
    const inFile = loadOrCreateKey(folder.path, IDENTITY.instanceId);
    expect(loadOrCreateKey(folder.path, IDENTITY.instanceId, inTpm).publicKey).toEqual(inFile.publicKey);
  });
});

describe('a quote', () => {
  withTpm(
    `${skipped}is of the configured PCRs over the nonce, by a key that attests and nothing else`,
    async () => {
      const tpm = await openTpm(folder.path, own.tcti);
      const nonce = Buffer.alloc(32, 7);
      const quote = await tpm.quote(nonce, DEFAULT_PCRS);
      const verdict = verifyTpm({ ...quote, ak: tpm.attestationKey, at: new Date(), expected: { nonce } });
      expect(verdict.reasons).toEqual([]);
      expect(Object.keys(verdict.claims?.pcrs.sha256 ?? {})).toHaveLength(13);
      expect(parsePublicKey(tpm.attestationKey).area?.isAttestationKey).toBe(true);
    },
    SLOW,
  );

  withTpm(
    `${skipped}that the TPM refuses says what the TPM said`,
    async () => {
      const tpm = await openTpm(folder.path, own.tcti);
      await expect(tpm.quote(Buffer.alloc(200), DEFAULT_PCRS)).rejects.toThrow(TpmError);
      await expect(tpm.quote(Buffer.alloc(32), DEFAULT_PCRS)).resolves.toBeDefined();
    },
    SLOW,
  );
});

describe('credential activation', () => {
  /** A pipeline whose EC2 reports the endorsement key of this TPM for the VM. */
  const pipeline = async (reported: Tpm, agentKey: Tpm['agentKey']) => {
    const world = createWorld();
    const endorsementKey = (await reported.endorsementKey()).subarray(2);
    const vm = launch(world, 1, { id: RECORDED_VM, endorsementKeys: { 'rsa-2048': endorsementKey } });
    world.stateChange(vm);
    await world.drain();
    enrolled(world, { instanceId: vm.id, spki: agentKey.publicKey } as never);
    const api = await createApi(world);
    return {
      world,
      post: async (path: string, body: object, schema: { parse(value: unknown): unknown }) => {
        const answer = await api.call(path as '/challenges', body);
        if (answer.status >= 400) throw new RefusedError(answer.body['reason'] ?? '', '');
        return schema.parse(answer.body);
      },
    };
  };
  const identity = { ...IDENTITY, instanceId: RECORDED_VM };

  withTpm(
    `${skipped}succeeds with the TPM that EC2 reports, and is remembered for this key alone`,
    async () => {
      const tpm = await openTpm(join(folder.path, 'tpm'), own.tcti);
      const config = aConfig(folder.path);
      const api = await pipeline(tpm, tpm.agentKey);
      expect(isActivated(config, identity, tpm)).toBe(false);
      await activate(api as never, config, identity, tpm.agentKey, tpm);
      expect(api.world.rows.get(`tpm#${RECORDED_VM}`)).toMatchObject({
        attestationKey: parsePublicKey(tpm.attestationKey)
          .key.export({ format: 'der', type: 'spki' })
          .toString('base64'),
      });
      expect(isActivated(config, identity, tpm)).toBe(true);
      expect(isActivated(config, { ...identity, instanceId: 'i-00000002' }, tpm)).toBe(false);
      expect(isActivated(config, identity, { ...tpm, attestationKey: Buffer.alloc(90) })).toBe(false);
    },
    SLOW,
  );

  withTpm(
    `${skipped}fails for a second, self-made TPM, whether it says its endorsement key or claims the other’s`,
    async () => {
      const [real, fake] = [
        await openTpm(join(folder.path, 'real'), own.tcti),
        await openTpm(join(folder.path, 'fake'), second.tcti),
      ];
      const config = aConfig(folder.path);
      const api = await pipeline(real, fake.agentKey);
      await expect(activate(api as never, config, identity, fake.agentKey, fake)).rejects.toThrow(
        'TPM_NOT_OF_INSTANCE',
      );
      await fake.endorsementKey(); // its own is loaded, whatever it says
      const lying = { ...fake, endorsementKey: () => real.endorsementKey() };
      await expect(activate(api as never, config, identity, fake.agentKey, lying)).rejects.toThrow(
        'tpm2_activatecredential',
      );
      expect(isActivated(config, identity, fake)).toBe(false);
      expect(api.world.rows.has(`tpm#${RECORDED_VM}`)).toBe(false);
    },
    SLOW,
  );
});

describe('a machine without a TPM', () => {
  test('says which part is missing', () => {
    expect(whyNoTpm(`device:${join(folder.path, 'tpmrm0')}`)).toContain('no TPM 2.0');
    const path = process.env['PATH'];
    try {
      process.env['PATH'] = folder.path;
      const device = join(folder.path, 'tpmrm0');
      writeFileSync(device, '');
      expect(whyNoTpm(`device:${device}`)).toContain('install tpm2-tools');
    } finally {
      process.env['PATH'] = path;
    }
  });

  test('says that a TPM cannot be reached, and with what it was tried', async () => {
    const gone = `device:${join(folder.path, 'gone')}`;
    await expect(openTpm(join(folder.path, 'tpm'), gone)).rejects.toThrow(/^tpm2_\w+: /);
    expect(statSync(join(folder.path, 'tpm')).mode & 0o777).toBe(0o700);
  });
});
