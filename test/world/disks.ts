import type { KeyObject } from 'node:crypto';
import { Aes256Gcm, CipherSuite, DhkemP256HkdfSha256, HkdfSha256 } from '@hpke/core';
import { signAsAgent } from '../../lib/domain/signature.ts';
import { type Purpose, signedBytes, transcript } from '../../lib/domain/transcript.ts';
import type { TestAgent } from './agent.ts';
import type { ApiAnswer, createApi } from './api.ts';
import { ACCOUNT, REGION } from './ec2.ts';
import { API_ORIGIN } from './world.ts';

type Api = Awaited<ReturnType<typeof createApi>>;
type Path = '/disks' | '/releases' | '/confirmations' | '/rotations' | '/adoptions' | '/headers';
type Caller = Parameters<Api['call']>[2];

const PURPOSES: Record<Path, Purpose> = {
  '/disks': 'release',
  '/releases': 'release',
  '/confirmations': 'confirm',
  '/rotations': 'rotate',
  '/adoptions': 'recover',
  '/headers': 'confirm',
};

const suite = new CipherSuite({
  kem: new DhkemP256HkdfSha256(),
  kdf: new HkdfSha256(),
  aead: new Aes256Gcm(),
});

/** What a test makes wrong in a request. */
export interface Wrong {
  readonly nonce?: string;
  readonly signer?: KeyObject;
  /** Of the signature; the challenge keeps its own. */
  readonly purpose?: Purpose;
  readonly apiOrigin?: string;
  readonly instanceId?: string;
  /** Signed in place of what is sent. */
  readonly over?: {
    readonly disk?: string;
    readonly generation?: number;
    readonly ephemeralPublicKey?: Buffer;
  };
  readonly signedPayload?: string;
  readonly body?: object;
}

export interface Wanted {
  readonly disk?: string;
  readonly generation?: number;
  readonly ephemeralPublicKey?: Buffer;
  readonly payload?: string;
}

/** An agent's side of the disk API: requests that are right in every part unless told otherwise. */
export function diskAgent(api: Api, agent: TestAgent, caller: Caller = 'instance') {
  const { instanceId } = agent;

  const request = async (path: Path, wanted: Wanted, wrong: Wrong = {}) => {
    const nonce = wrong.nonce ?? (await api.challenge(instanceId, PURPOSES[path]));
    const { payload, ...parts } = wanted;
    const bytes = signedBytes(
      {
        purpose: wrong.purpose ?? PURPOSES[path],
        apiOrigin: wrong.apiOrigin ?? API_ORIGIN,
        accountId: ACCOUNT,
        region: REGION,
        instanceId: wrong.instanceId ?? instanceId,
        ...parts,
        ...wrong.over,
        nonce: Buffer.from(nonce, 'base64'),
        agentPublicKey: agent.spki,
      },
      wrong.signedPayload ?? payload,
    );
    return {
      instanceId,
      nonce,
      signature: signAsAgent(wrong.signer ?? agent.privateKey, bytes).toString('base64'),
      ...wanted,
      ...(wanted.ephemeralPublicKey
        ? { ephemeralPublicKey: wanted.ephemeralPublicKey.toString('base64') }
        : {}),
      ...wrong.body,
    };
  };
  const send = async (path: Path, wanted: Wanted, wrong?: Wrong): Promise<ApiAnswer> =>
    api.call(path, await request(path, wanted, wrong), caller);

  return {
    request,
    list: (wrong?: Wrong) => send('/disks', {}, wrong),
    confirm: (disk: string, generation: number, payload: object = {}, wrong?: Wrong) =>
      send('/confirmations', { disk, generation, payload: JSON.stringify(payload) }, wrong),
    rotate: (disk: string, generation: number, wrong?: Wrong) =>
      send('/rotations', { disk, generation }, wrong),
    adopt: (disk: string, volumeId: string, wrong: Wrong = {}) =>
      send('/adoptions', { disk }, { ...wrong, body: { volumeId, ...wrong.body } }),
    header: (disk: string, generation: number, payload: string, wrong?: Wrong) =>
      send('/headers', { disk, generation, payload }, wrong),
    /** Asks for a key and opens what comes; `key` is undefined where it was refused. */
    async release(disk: string, generation: number, wrong: Wrong = {}, documentFor?: (t: Buffer) => Buffer) {
      const pair = await suite.kem.generateKeyPair();
      const ephemeralPublicKey = Buffer.from(await suite.kem.serializePublicKey(pair.publicKey));
      const body: Record<string, unknown> & { nonce: string } = await request(
        '/releases',
        { disk, generation, ephemeralPublicKey },
        wrong,
      );
      const info = transcript({
        purpose: 'release',
        apiOrigin: API_ORIGIN,
        accountId: ACCOUNT,
        region: REGION,
        instanceId,
        disk,
        generation,
        nonce: Buffer.from(body.nonce, 'base64'),
        agentPublicKey: agent.spki,
        ephemeralPublicKey,
      });
      if (documentFor) body['document'] = documentFor(info).toString('base64');
      const answer = await api.call('/releases', body, caller);
      if (answer.status !== 200) return { ...answer, key: undefined };
      const recipient = await suite.createRecipientContext({
        recipientKey: pair.privateKey,
        enc: Buffer.from(answer.body['enc'], 'base64'),
        info,
      });
      const key = Buffer.from(await recipient.open(Buffer.from(answer.body['ciphertext'], 'base64')));
      return { ...answer, key };
    },
  };
}
