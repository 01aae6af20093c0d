import { constants, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';

/**
 * A certificate authority for tests that can also do everything wrong. It writes DER directly: libraries
 * refuse to make most of what the verifiers must refuse to read.
 */
export interface Party {
  readonly der: Buffer;
  readonly name: Buffer;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

export interface Faults {
  readonly serial?: number;
  readonly ca?: boolean;
  readonly pathLength?: number;
  readonly keyUsage?: 'digitalSignature' | 'keyCertSign' | 'none';
  readonly notBefore?: string;
  readonly notAfter?: string;
  readonly signature?: keyof typeof algorithms;
  readonly extensions?: readonly {
    readonly oid: string;
    readonly critical?: boolean;
    readonly value: Uint8Array;
  }[];
  readonly version?: number;
  readonly issuerName?: Buffer;
  readonly subjectName?: Buffer;
  /** The signature algorithm that stands outside the signed part, when it should differ. */
  readonly outerSignature?: keyof typeof algorithms;
  readonly flipSignature?: boolean;
  readonly unusedBits?: number;
}

const algorithms = {
  ecdsaSha256: '300a06082a8648ce3d040302',
  ecdsaSha384: '300a06082a8648ce3d040303',
  pssSha384:
    '304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130',
};

export function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const header =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Uint8Array.of(tag, ...header), content]);
}

export function integer(value: number): Buffer {
  const digits = value.toString(16);
  const bytes = Buffer.from(digits.length % 2 === 0 ? digits : `0${digits}`, 'hex');
  return (bytes[0] ?? 0) >= 0x80 ? der(2, Uint8Array.of(0), bytes) : der(2, bytes);
}

export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [40 * first + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return der(6, Uint8Array.from(bytes));
}

export function keyPair(kind: 'P-384' | 'P-256' | 'RSA' | 'P-521'): {
  privateKey: KeyObject;
  publicKey: KeyObject;
} {
  return kind === 'RSA'
    ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: kind });
}

export function issue(
  commonName: string,
  keys: { privateKey: KeyObject; publicKey: KeyObject },
  issuer: Party | undefined,
  faults: Faults = {},
): Party {
  const { ca = true, keyUsage = ca ? 'keyCertSign' : 'digitalSignature', signature = 'ecdsaSha384' } = faults;
  const name =
    faults.subjectName ?? der(0x30, der(0x31, der(0x30, oid('2.5.4.3'), der(0x0c, Buffer.from(commonName)))));
  const constraints = ca
    ? der(
        0x30,
        der(1, Uint8Array.of(0xff)),
        ...(faults.pathLength === undefined ? [] : [integer(faults.pathLength)]),
      )
    : der(0x30);
  const usage = { digitalSignature: 0x80, keyCertSign: 0x04, none: 0 }[keyUsage];
  const extensions = [
    { oid: '2.5.29.19', critical: true, value: constraints },
    ...(keyUsage === 'none'
      ? []
      : [{ oid: '2.5.29.15', critical: true, value: der(3, Uint8Array.of(0, usage)) }]),
    ...(faults.extensions ?? []),
  ];
  const algorithm = Buffer.from(algorithms[signature], 'hex');
  const tbs = der(
    0x30,
    der(0xa0, integer(faults.version ?? 2)),
    integer(faults.serial ?? 7),
    algorithm,
    faults.issuerName ?? issuer?.name ?? name,
    der(0x30, time(faults.notBefore ?? '20200101000000Z'), time(faults.notAfter ?? '20490101000000Z')),
    name,
    keys.publicKey.export({ format: 'der', type: 'spki' }),
    der(0xa3, der(0x30, ...extensions.map(extension))),
  );
  const bits = signed(tbs, issuer?.privateKey ?? keys.privateKey, signature);
  if (faults.flipSignature) bits[bits.length - 1] = (bits.at(-1) ?? 0) ^ 1;
  const outer = Buffer.from(algorithms[faults.outerSignature ?? signature], 'hex');
  return { ...keys, name, der: der(0x30, tbs, outer, der(3, Uint8Array.of(faults.unusedBits ?? 0), bits)) };
}

export interface ListFaults {
  readonly from?: string | undefined;
  readonly until?: string | undefined;
  readonly version?: number;
  readonly signature?: keyof typeof algorithms;
  readonly outerSignature?: keyof typeof algorithms;
  readonly unusedBits?: number;
  readonly date?: Buffer;
  readonly extensions?: Faults['extensions'];
  readonly entryExtensions?: Faults['extensions'];
  /** What stands behind everything that a list has. */
  readonly after?: Buffer;
}

/** A revocation list of `issuer` that names `serials`. */
export function crl(issuer: Party, serials: readonly number[], faults: ListFaults = {}): Buffer {
  const { signature = 'ecdsaSha256' } = faults;
  const algorithm = Buffer.from(algorithms[signature], 'hex');
  const ofEntry = faults.entryExtensions ? [der(0x30, ...faults.entryExtensions.map(extension))] : [];
  const entries = serials.map((serial) =>
    der(0x30, integer(serial), faults.date ?? time('20260101000000Z'), ...ofEntry),
  );
  const tbs = der(
    0x30,
    integer(faults.version ?? 1),
    algorithm,
    issuer.name,
    time(faults.from ?? '20260501000000Z'),
    time(faults.until ?? '20260701000000Z'),
    ...(entries.length === 0 ? [] : [der(0x30, ...entries)]),
    ...(faults.extensions ? [der(0xa0, der(0x30, ...faults.extensions.map(extension)))] : []),
    ...(faults.after ? [faults.after] : []),
  );
  const outer = Buffer.from(algorithms[faults.outerSignature ?? signature], 'hex');
  const bits = signed(tbs, issuer.privateKey, signature);
  return der(0x30, tbs, outer, der(3, Uint8Array.of(faults.unusedBits ?? 0), bits));
}

export function pem(...certificates: readonly Uint8Array[]): string {
  return certificates
    .map((bytes) =>
      Buffer.from(bytes)
        .toString('base64')
        .replace(/.{64}(?=.)/g, '$&\n'),
    )
    .map((lines) => `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`)
    .join('');
}

export function signed(bytes: Uint8Array, key: KeyObject, algorithm: keyof typeof algorithms): Buffer {
  if (algorithm === 'ecdsaSha256') return sign('sha256', bytes, key);
  if (algorithm === 'ecdsaSha384') return sign('sha384', bytes, key);
  return sign('sha384', bytes, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 48 });
}

export function time(text: string): Buffer {
  return der(0x18, Buffer.from(text));
}

function extension({ oid: id, critical, value }: NonNullable<Faults['extensions']>[number]): Buffer {
  return der(0x30, oid(id), ...(critical ? [der(1, Uint8Array.of(0xff))] : []), der(4, value));
}
