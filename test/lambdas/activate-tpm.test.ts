import { createHash, type KeyObject, randomBytes } from 'node:crypto';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { parsePublicKey } from '../../lib/domain/evidence/tpm/index.ts';
import { signAsAgent } from '../../lib/domain/signature.ts';
import { signedBytes, transcript } from '../../lib/domain/transcript.ts';
import { keyPair } from '../domain/evidence/forge/pki.ts';
import {
  akKeys,
  makeAttest,
  makePublicArea,
  makeSignature,
  openWithSeed,
  pcrJson,
  rsaKeys,
  seedByRsa,
} from '../domain/evidence/forge/tpm.ts';
import { createAgent, enrolled, GOOD_FACTS, sealReport, sendReport, type TestAgent } from '../world/agent.ts';
import { createApi } from '../world/api.ts';
import { ACCOUNT, REGION, type WorldVm } from '../world/ec2.ts';
import { RECORDED_VM } from '../world/recorded.ts';
import { launch } from '../world/vm.ts';
import { API_ORIGIN, createWorld, type World } from '../world/world.ts';

/** A restricted key that decrypts, as endorsement keys are: TPMA_OBJECT of TCG's template L-1. */
const ENDORSEMENT_ATTRIBUTES = 0x000300b2;
const ekArea = makePublicArea(rsaKeys.publicKey, ENDORSEMENT_ATTRIBUTES);
const akArea = makePublicArea();
const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');

let world: World;
let vm: WorldVm;
let agent: TestAgent;
let api: Awaited<ReturnType<typeof createApi>>;
beforeEach(async () => {
  world = createWorld();
  vm = launch(world, 1, { id: RECORDED_VM, endorsementKeys: { 'rsa-2048': ekArea } });
  world.stateChange(vm);
  await world.drain();
  world.announced.length = 0;
  agent = createAgent(vm.id);
  enrolled(world, agent);
  api = await createApi(world);
});

const send = (
  nonce: string,
  payload: object | string,
  overrides: {
    readonly signer?: KeyObject;
    readonly purpose?: 'enrol' | 'report';
    readonly origin?: string;
  } = {},
) => {
  const text = typeof payload === 'string' ? payload : JSON.stringify(payload);
  const parts = {
    purpose: overrides.purpose ?? 'enrol',
    apiOrigin: overrides.origin ?? API_ORIGIN,
    accountId: ACCOUNT,
    region: REGION,
    instanceId: vm.id,
    nonce: Buffer.from(nonce, 'base64'),
    agentPublicKey: agent.spki,
  };
  return api.call('/tpm-activations', {
    instanceId: vm.id,
    nonce,
    payload: text,
    signature: base64(signAsAgent(overrides.signer ?? agent.privateKey, signedBytes(parts, text))),
  });
};
const askPayload = (ak: Uint8Array = akArea, ek: Uint8Array = ekArea) => ({
  step: 'credential',
  attestationKey: base64(ak),
  endorsementKey: base64(ek),
});
const ask = async (...parts: Parameters<typeof askPayload>) =>
  send(await api.challenge(vm.id), askPayload(...parts));
const bringBack = (secret: Uint8Array, ak: Uint8Array = akArea) =>
  send(base64(secret), { step: 'activation', attestationKey: base64(ak) });

/** What the TPM with the endorsement key does, while it holds the attestation key. */
function open(body: Record<string, string>, ak: Uint8Array = akArea): Buffer {
  const name = parsePublicKey(ak).area?.name ?? Buffer.alloc(0);
  const seed = seedByRsa(Buffer.from(body['encryptedSecret'] ?? '', 'base64'));
  return openWithSeed(seed, 'sha256', 128, name, Buffer.from(body['credentialBlob'] ?? '', 'base64'));
}

const refused = (reason: string) => ({
  status: 403,
  body: { reason, message: expect.stringMatching(/\.$/) },
});
const announcedReasons = () => world.announced.map((e) => [e.detailType, e.detail['reason']]);

describe('an attestation key in the VM’s own TPM', () => {
  test('is activated by the secret that only that TPM can read', async () => {
    const { status, body } = await ask();
    expect(status).toBe(201);
    await expect(bringBack(open(body))).resolves.toEqual({
      status: 201,
      body: { status: 'activated', instanceId: vm.id },
    });
    expect(world.rows.get(`tpm#${vm.id}`)).toEqual({
      pk: `tpm#${vm.id}`,
      version: 1,
      instanceId: vm.id,
      attestationKey: base64(akKeys.publicKey.export({ format: 'der', type: 'spki' })),
      activatedAt: world.now().toISOString(),
    });
    expect(world.announced).toEqual([]);
  });

  test('takes the place of an earlier one, since both were proven', async () => {
    await bringBack(open((await ask()).body));
    const second = makePublicArea(keyPair('P-256').publicKey);
    await bringBack(open((await ask(second)).body, second), second);
    expect(world.rows.get(`tpm#${vm.id}`)).toMatchObject({ version: 2 });
  });

  test('may be under an endorsement key on P-384', async () => {
    const ek = makePublicArea(keyPair('P-384').publicKey, ENDORSEMENT_ATTRIBUTES);
    world.vms.set(vm.id, { ...vm, endorsementKeys: { 'ecc-sec-p384': ek } });
    await expect(ask(akArea, ek)).resolves.toMatchObject({ status: 201 });
  });

  test('has its secret neither in the table nor in the answer', async () => {
    const { body } = await ask();
    const secret = open(body);
    const everything = JSON.stringify([[...world.rows], body]);
    for (const encoding of ['base64', 'base64url', 'hex'] as const) {
      expect(everything).not.toContain(secret.toString(encoding));
    }
  });

  test('makes a quote count without any NitroTPM document', async () => {
    const nonceText = await api.challenge(vm.id, 'report');
    const t = transcript({
      purpose: 'report',
      apiOrigin: API_ORIGIN,
      accountId: ACCOUNT,
      region: REGION,
      instanceId: vm.id,
      nonce: Buffer.from(nonceText, 'base64'),
      agentPublicKey: agent.spki,
    });
    const attest = makeAttest({ nonce: createHash('sha256').update(t).digest() });
    const evidence = [
      {
        format: 'tpm' as const,
        attest: base64(attest),
        signature: base64(makeSignature(attest)),
        ak: base64(akArea),
        pcrs: base64(pcrJson()),
      },
    ];
    await bringBack(open((await ask()).body));
    sendReport(world, sealReport(world, agent, 1, { facts: [...GOOD_FACTS], nonce: nonceText, evidence }));
    await world.drain();
    expect((await world.record(vm.id))?.posture).toMatchObject({
      evidenceRefusal: null,
      attestations: [{ format: 'tpm' }],
    });
  });
});

describe('an activation is refused as', () => {
  const refusals: readonly (readonly [string, string, () => Promise<unknown>])[] = [
    [
      'TPM_NOT_OF_INSTANCE',
      'another endorsement key than EC2 reports',
      () => ask(akArea, makePublicArea(keyPair('RSA').publicKey, ENDORSEMENT_ATTRIBUTES)),
    ],
    [
      'TPM_NOT_OF_INSTANCE',
      'a secret that was guessed, by a TPM that only claims the endorsement key',
      async () => {
        await ask();
        return bringBack(randomBytes(32));
      },
    ],
    [
      'CHALLENGE_FOREIGN',
      'the secret for one attestation key, brought back for another',
      async () => bringBack(open((await ask()).body), makePublicArea(keyPair('P-256').publicKey)),
    ],
    [
      'CHALLENGE_FOREIGN',
      'a challenge in place of a secret',
      async () => bringBack(Buffer.from(await api.challenge(vm.id), 'base64')),
    ],
    [
      'CHALLENGE_FOREIGN',
      'a challenge for a report',
      async () => send(await api.challenge(vm.id, 'report'), askPayload()),
    ],
    [
      'CHALLENGE_EXPIRED',
      'a secret that came back after a minute',
      async () => {
        const secret = open((await ask()).body);
        world.advance(60);
        return bringBack(secret);
      },
    ],
    [
      'CHALLENGE_USED',
      'a secret that came back before',
      async () => {
        const secret = open((await ask()).body);
        await bringBack(secret);
        return bringBack(secret);
      },
    ],
    [
      'CHALLENGE_UNKNOWN',
      'a challenge that nobody issued',
      () => send(base64(randomBytes(32)), askPayload()),
    ],
    [
      'TPM_NOT_REPORTED',
      'an instance without a TPM',
      () => {
        world.vms.set(vm.id, { ...vm, endorsementKeys: {} });
        return ask();
      },
    ],
    ['TPM_KEY_UNFIT', 'a key that signs anything', () => ask(makePublicArea(akKeys.publicKey, 0x00040072))],
    [
      'TPM_KEY_UNFIT',
      'a key that can leave its TPM',
      () => ask(makePublicArea(akKeys.publicKey, 0x00050060)),
    ],
    ['TPM_KEY_UNFIT', 'a key that also decrypts', () => ask(makePublicArea(akKeys.publicKey, 0x00070072))],
    [
      'TPM_KEY_UNFIT',
      'a bare public key, which says nothing of a TPM',
      () => ask(akKeys.publicKey.export({ format: 'der', type: 'spki' })),
    ],
    ['TPM_KEY_UNFIT', 'bytes that are no key', () => ask(randomBytes(90))],
    [
      'TPM_KEY_UNFIT',
      'an endorsement key of a kind that EC2 does not report',
      () => ask(akArea, makePublicArea(akKeys.publicKey, ENDORSEMENT_ATTRIBUTES)),
    ],
    [
      'REQUEST_BAD_SIGNATURE',
      'another key than the enrolled one',
      async () => send(await api.challenge(vm.id), askPayload(), { signer: createAgent(vm.id).privateKey }),
    ],
    [
      'REQUEST_BAD_SIGNATURE',
      'a signature for another purpose',
      async () => send(await api.challenge(vm.id), askPayload(), { purpose: 'report' }),
    ],
    [
      'REQUEST_BAD_SIGNATURE',
      'a signature for another API',
      async () => send(await api.challenge(vm.id), askPayload(), { origin: 'https://evil.example' }),
    ],
    ['REQUEST_MALFORMED', 'no JSON', async () => send(await api.challenge(vm.id), '{')],
    [
      'REQUEST_MALFORMED',
      'another step',
      async () => send(await api.challenge(vm.id), { ...askPayload(), step: 'both' }),
    ],
    [
      'NOT_ENROLLED',
      'no enrolled agent',
      () => {
        world.rows.delete(`enrol#${vm.id}`);
        return ask();
      },
    ],
  ];
  test.each(refusals)('%s with %s, announced, and nothing is stored', async (reason, _, attempt) => {
    const before = world.rows.get(`tpm#${vm.id}`);
    await expect(attempt()).resolves.toEqual(refused(reason));
    expect(announcedReasons()).toEqual([['Enrolment Refused', reason]]);
    const after = world.rows.get(`tpm#${vm.id}`);
    if (reason !== 'CHALLENGE_USED') expect(after).toEqual(before);
    else expect(after).toMatchObject({ version: 1 });
  });

  test('no reason of its own when EC2 throttles: the agent tries again', async () => {
    const name = 'RequestLimitExceeded';
    world.fail('GetInstanceTpmEkPub', Object.assign(new Error(name), { name }));
    await expect(ask()).rejects.toThrow(name);
  });
});
