import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from '@jest/globals';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { type Api, RefusedError } from '../../../agent/api.ts';
import { type Caller, releaseKey } from '../../../agent/disks/pipeline.ts';
import { createRecipient } from '../../../agent/disks/recipient.ts';
import { createNitroTpm, type NitroTpm, NitroTpmError } from '../../../agent/nitro-tpm.ts';
import { signAsAgent } from '../../../lib/domain/signature.ts';
import { makeDocument, makeNitro, plain } from '../../domain/evidence/forge/nitro.ts';
import { createAgent, enrolled, sealReport, sendReport } from '../../world/agent.ts';
import { createApi } from '../../world/api.ts';
import { ACCOUNT, REGION } from '../../world/ec2.ts';
import { sealForRecipient } from '../../world/kms-envelope.ts';
import { RECORDED_VM } from '../../world/recorded.ts';
import { launch } from '../../world/vm.ts';
import { API_ORIGIN, createWorld, type World } from '../../world/world.ts';
import { aConfig, temporaryFolder } from '../harness.ts';

describe('a key that KMS sealed to the NitroTPM’s document', () => {
  const nitro = makeNitro();
  let world: World;
  let caller: Caller;
  let disk: string;
  /** What the agent sent to /releases, and what it was answered. */
  let sent: Record<string, unknown>[];
  let change: (answer: Record<string, unknown>) => object;

  /** The NitroTPM of an instance. */
  const tpmOf =
    (instanceId: string): NitroTpm =>
    async ({ userData, publicKey }) =>
      makeDocument(nitro, {
        instanceId,
        fields: {
          timestamp: world.now().getTime(),
          user_data: plain(userData),
          public_key: publicKey ? plain(publicKey) : null,
        },
      });

  beforeEach(async () => {
    world = createWorld({ mode: 'enforce' });
    const vm = launch(world, 1, { id: RECORDED_VM });
    world.stateChange(vm);
    await world.drain();
    const agent = createAgent(vm.id);
    enrolled(world, agent);
    sendReport(world, sealReport(world, agent, 1));
    await world.drain();
    disk = world.rows.get('disk#vol-b0000001')?.['disk'] as string;
    const functions = await createApi(world, 'embedded', API_ORIGIN, nitro.roots);
    sent = [];
    change = (answer) => answer;
    const api: Api = {
      async post(path, body, schema) {
        if (path === '/releases') sent.push(body as Record<string, unknown>);
        const answer = await functions.call(path as '/releases', body);
        if (answer.status >= 300) throw new RefusedError(answer.body['reason'], answer.body['message']);
        return schema.parse(path === '/releases' ? change(answer.body) : answer.body);
      },
    };
    caller = {
      config: aConfig('/nowhere', { apiUrl: `${API_ORIGIN}/v1` }),
      identity: { instanceId: vm.id, accountId: ACCOUNT, region: REGION },
      key: { publicKey: agent.spki, sign: async (bytes) => signAsAgent(agent.privateKey, bytes) },
      api,
      nitroTpm: tpmOf(vm.id),
    };
  });
  const wrapped = () =>
    (world.rows.get(`disk#${disk}`) as { generations: { wrappedKey: string }[] }).generations[0]?.wrappedKey;
  const plaintext = () => world.plaintextOf(wrapped() ?? '') as Buffer;

  test('is opened by the agent alone, with a key of that request', async () => {
    for (let i = 0; i < 2; i++) {
      using released = await releaseKey(caller, disk, 1);
      expect(released.key.equals(plaintext())).toBe(true);
    }
    const [first, second] = sent.map(({ document }) => String(document));
    expect(first).not.toBe(second);
    expect(world.kmsCalls.filter((call) => call === 'Decrypt')).toHaveLength(2);
  });

  test('is asked for without one where there is no NitroTPM', async () => {
    using released = await releaseKey({ ...caller, nitroTpm: undefined }, disk, 1);
    expect(released.key.equals(plaintext())).toBe(true);
    expect(sent[0]).not.toHaveProperty('document');
  });

  test('is asked for without one where the NitroTPM gives none: the pipeline says whether that will do', async () => {
    const broken = () => Promise.reject(new NitroTpmError('no document'));
    using released = await releaseKey({ ...caller, nitroTpm: broken }, disk, 1);
    expect(released.key.equals(plaintext())).toBe(true);
    expect(sent[0]).not.toHaveProperty('document');
  });

  test('is refused to the document of another instance', async () => {
    await expect(releaseKey({ ...caller, nitroTpm: tpmOf('i-0000000b') }, disk, 1)).rejects.toThrow(
      'RELEASE_REFUSED',
    );
    expect(world.kmsCalls).not.toContain('Decrypt');
  });

  test('is not taken when it was sealed to the request alone: the pipeline has seen it', async () => {
    change = (answer) => ({ ...answer, forRecipient: false });
    await expect(releaseKey(caller, disk, 1)).rejects.toThrow('something else than was asked for');
  });

  test('is not taken as one when no document was sent', async () => {
    change = (answer) => ({ ...answer, forRecipient: true });
    await expect(releaseKey({ ...caller, nitroTpm: undefined }, disk, 1)).rejects.toThrow(
      'something else than was asked for',
    );
  });
});

describe('an envelope', () => {
  const key = randomBytes(64);

  test('gives the key into key memory, whatever its length', async () => {
    const recipient = await createRecipient();
    for (const bytes of [key, randomBytes(5), randomBytes(16)]) {
      using opened = recipient.open(sealForRecipient(recipient.publicKey, bytes));
      expect(opened.equals(bytes)).toBe(true);
    }
  });

  const openssl = spawnSync('openssl', ['version']).status === 0;
  (openssl ? test : test.skip)('of OpenSSL’s making opens too (skipped where there is none)', async () => {
    const recipient = await createRecipient();
    using folder = disposable();
    // A certificate for the recipient's key, which OpenSSL wants; it holds public halves alone.
    const issuer = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, false, [
      'sign',
      'verify',
    ]);
    const publicKey = await crypto.subtle.importKey(
      'spki',
      new Uint8Array(recipient.publicKey),
      { name: 'RSA-OAEP', hash: 'SHA-256' },
      true,
      ['encrypt'],
    );
    const certificate = await x509.X509CertificateGenerator.create({
      subject: 'CN=recipient',
      issuer: 'CN=issuer',
      signingKey: issuer.privateKey,
      publicKey,
      extensions: [await x509.SubjectKeyIdentifierExtension.create(publicKey)],
    });
    const file = (name: string) => join(folder.path, name);
    writeFileSync(file('certificate'), certificate.toString('pem'));
    writeFileSync(file('key'), key);
    const { status, stderr } = spawnSync('openssl', [
      ...['cms', '-encrypt', '-binary', '-keyid', '-aes-256-cbc', '-in', file('key')],
      ...['-stream', '-indef', '-outform', 'DER', '-out', file('envelope'), '-recip', file('certificate')],
      ...[
        '-keyopt',
        'rsa_padding_mode:oaep',
        '-keyopt',
        'rsa_oaep_md:sha256',
        '-keyopt',
        'rsa_mgf1_md:sha256',
      ],
    ]);
    expect([status, stderr.toString()]).toEqual([0, '']);
    using opened = recipient.open(readFileSync(file('envelope')));
    expect(opened.equals(key)).toBe(true);
  });

  test.each<[string, (publicKey: Buffer) => Buffer]>([
    ['is for another key', () => sealForRecipient(otherKey, key)],
    ['is none', () => randomBytes(400)],
    [
      'has a key that does not decrypt',
      (its) => sealForRecipient(its, key, { encryptedKey: randomBytes(256) }),
    ],
    [
      'has a content key of another size',
      (its) => sealForRecipient(its, key, { contentKey: randomBytes(16) }),
    ],
    ['is not padded', (its) => sealForRecipient(its, Buffer.alloc(64), { padding: false })],
    ['is padded wrongly', (its) => sealForRecipient(its, Buffer.alloc(64, 17), { padding: false })],
    ['holds nothing', (its) => sealForRecipient(its, Buffer.of())],
    ['has bytes behind it', (its) => Buffer.concat([sealForRecipient(its, key), Buffer.of(0, 0)])],
  ])('is refused for the same reason when it %s', async (_, make) => {
    const recipient = await createRecipient();
    let refused: unknown;
    try {
      recipient.open(make(recipient.publicKey)).release();
    } catch (error) {
      refused = error;
    }
    expect(refused).toMatchObject({ name: 'DiskError', reason: 'KEY_ENVELOPE_REFUSED' });
  });
  const otherKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({
    type: 'spki',
    format: 'der',
  });
});

describe('a document of the NitroTPM', () => {
  const tool = (folder: string, script: string) => {
    const path = join(folder, 'nitro-tpm-attest');
    writeFileSync(path, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    return path;
  };
  const request = { userData: Buffer.from('user data'), publicKey: Buffer.from('public key') };

  test('is asked for with user data and public key in files, which are gone then', async () => {
    using folder = disposable();
    const asking = tool(folder.path, 'echo "$1 $3 $#"; cat "$2" "$4"; ls "$(dirname "$2")" | wc -l');
    const document = await createNitroTpm(asking, folder.path)(request);
    expect(document.toString()).toBe('--user-data --public-key 4\nuser datapublic key2\n');
    expect(folder.entries().sort()).toEqual(['nitro-tpm-attest', 'nitro-tpm.lock']);
  });

  test('is asked for by one at a time', async () => {
    using folder = disposable();
    const mark = join(folder.path, 'asking');
    const asking = tool(folder.path, `mkdir ${mark} || exit 1; sleep 0.2; rmdir ${mark}; echo done`);
    const ask = createNitroTpm(asking, folder.path);
    const documents = await Promise.all([ask(request), ask(request)]);
    expect(documents.map(String)).toEqual(['done\n', 'done\n']);
  });

  test('that it does not give is an error of its own, and leaves nothing behind', async () => {
    using folder = disposable();
    await expect(createNitroTpm(tool(folder.path, 'exit 1'), folder.path)(request)).rejects.toThrow(
      NitroTpmError,
    );
    expect(folder.entries().sort()).toEqual(['nitro-tpm-attest', 'nitro-tpm.lock']);
  });
});

function disposable() {
  const { path, remove } = temporaryFolder();
  return { path, entries: () => readdirSync(path), [Symbol.dispose]: remove };
}
