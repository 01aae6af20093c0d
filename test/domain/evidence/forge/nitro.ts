import { createHash, sign } from 'node:crypto';
import { encode } from 'cbor2';
import { type Faults, issue, keyPair, type Party } from './pki.ts';

export interface Nitro {
  readonly roots: readonly string[];
  readonly root: Party;
  readonly regional: Party;
  readonly zonal: Party;
  readonly instance: Party;
}

const keys = keyPair('P-384');
export const timestamp = new Date('2026-06-01T12:00:00Z');

/** The Nitro hierarchy, of our own. */
export function makeNitro(): Nitro {
  const root = issue('aws.nitro-enclaves', keyPair('P-384'), undefined);
  const regional = issue('0123.eu-west-1.aws.nitro-enclaves', keyPair('P-384'), root, { pathLength: 2 });
  const zonal = issue('4567.zonal.eu-west-1.aws.nitro-enclaves', keyPair('P-384'), regional, {
    pathLength: 1,
  });
  const instance = issue('i.eu-west-1.aws.nitro-enclaves', keyPair('P-384'), zonal, { pathLength: 0 });
  return { roots: [createHash('sha256').update(root.der).digest('hex')], root, regional, zonal, instance };
}

export interface DocumentOptions {
  readonly kind?: 'enclave' | 'nitrotpm';
  readonly instanceId?: string;
  /** Fields of the payload in place of the usual; undefined leaves one out. */
  readonly fields?: Readonly<Record<string, unknown>>;
  readonly pcrs?: ReadonlyMap<number, Uint8Array>;
  readonly leafName?: string;
  readonly leafFaults?: Faults;
  readonly leafKeys?: ReturnType<typeof keyPair>;
  readonly cabundle?: readonly Uint8Array[];
  readonly protectedHeader?: Uint8Array;
  readonly unprotected?: ReadonlyMap<unknown, unknown>;
  readonly payload?: (bytes: Uint8Array) => Uint8Array;
  readonly signature?: (bytes: Buffer) => Uint8Array;
}

export function usualPcrs(kind: 'enclave' | 'nitrotpm'): Map<number, Uint8Array> {
  const count = kind === 'enclave' ? 16 : 24;
  return new Map(Array.from({ length: count }, (_, index) => [index, new Uint8Array(48).fill(index + 1)]));
}

/** A document signed by the test's leaf. */
export function makeDocument(nitro: Nitro, options: DocumentOptions = {}): Buffer {
  const { kind = 'nitrotpm', instanceId = 'i-0123456789abcdef0', leafKeys = keys } = options;
  const moduleId = `${instanceId}-${kind === 'enclave' ? 'enc' : 'tpm'}0000000000000000`;
  const leaf = issue(options.leafName ?? `${moduleId}.eu-west-1.aws`, leafKeys, nitro.instance, {
    ca: false,
    ...options.leafFaults,
  });
  const { root, regional, zonal, instance } = nitro;
  const fields = {
    module_id: moduleId,
    digest: 'SHA384',
    timestamp: timestamp.getTime(),
    [kind === 'enclave' ? 'pcrs' : 'nitrotpm_pcrs']: options.pcrs ?? usualPcrs(kind),
    certificate: plain(leaf.der),
    cabundle:
      options.cabundle?.map(plain) ?? [root, regional, zonal, instance].map((party) => plain(party.der)),
    public_key: null,
    user_data: null,
    nonce: null,
    ...options.fields,
  };
  const map = new Map(Object.entries(fields).filter(([, value]) => value !== undefined));
  const usual = encode(map);
  const payload = options.payload?.(usual) ?? usual;
  const header = options.protectedHeader ?? Uint8Array.of(0xa1, 0x01, 0x38, 0x22);
  const toSign = encode(['Signature1', header, new Uint8Array(), plain(payload)]);
  const hash = leafKeys.publicKey.asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 'sha384' : 'sha256';
  const made = sign(hash, toSign, { key: leafKeys.privateKey, dsaEncoding: 'ieee-p1363' });
  const signature = plain(options.signature?.(made) ?? made);
  return Buffer.from(encode([header, options.unprotected ?? new Map(), plain(payload), signature]));
}

export function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}
