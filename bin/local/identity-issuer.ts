import 'reflect-metadata'; // @peculiar/x509 refuses to load without it
import { createHash, KeyObject, randomBytes, sign, type webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import * as asn1js from 'asn1js';

/** Issues instance identity documents for one Region, in place of the signer that EC2 has there. */
export interface IdentityIssuer {
  /** Self-signed RSA-2048 certificate, PEM: what verifiers of this Region's documents are to trust. */
  readonly certificatePem: string;
  /** The body of IMDS `/latest/dynamic/instance-identity/rsa2048` for `document`. */
  readonly issue: (document: object) => Promise<string>;
}

const oid = {
  data: '1.2.840.113549.1.7.1',
  signedData: '1.2.840.113549.1.7.2',
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingTime: '1.2.840.113549.1.9.5',
  algorithmProtection: '1.2.840.113549.1.9.52',
  sha256: '2.16.840.1.101.3.4.2.1',
  sha256WithRsa: '1.2.840.113549.1.1.11',
} as const;

const algorithm = {
  name: 'RSASSA-PKCS1-v1_5',
  hash: 'SHA-256',
  modulusLength: 2048,
  publicExponent: Uint8Array.of(1, 0, 1),
};

const lifetimeMs = 365 * 24 * 60 * 60 * 1000;

/**
 * Makes the issuer of identity documents for the embedded cloud and for tests. Its key lives in this
 * process alone. What it writes has EC2's shape: CMS SignedData in BER with indefinite lengths, the document
 * embedded, no certificates, one signer named by issuer and serial number.
 */
export async function createIdentityIssuer(region: string): Promise<IdentityIssuer> {
  const keys = (await crypto.subtle.generateKey(algorithm, true, [
    'sign',
    'verify',
  ])) as webcrypto.CryptoKeyPair;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    // The leading 01 keeps it positive and minimal whatever the random rest is.
    serialNumber: `01${randomBytes(8).toString('hex')}`,
    name: `C=US, ST=Washington State, L=Seattle, O=Casemate embedded cloud, CN=${region}`,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + lifetimeMs),
    signingAlgorithm: algorithm,
    keys,
  });
  const privateKey = KeyObject.from(keys.privateKey);
  const signer = new asn1js.Sequence({
    value: [
      asn1js.fromBER(certificate.issuerName.toArrayBuffer()).result,
      new asn1js.Integer({ valueHex: Buffer.from(certificate.serialNumber, 'hex') }),
    ],
  });

  return {
    certificatePem: `${certificate.toString('pem')}\n`,
    issue: async (document) => {
      const content = Buffer.from(JSON.stringify(document, null, 2));
      const attributes = sorted([
        attribute(oid.contentType, new asn1js.ObjectIdentifier({ value: oid.data })),
        attribute(oid.signingTime, new asn1js.UTCTime({ valueDate: new Date() })),
        attribute(oid.algorithmProtection, algorithmProtection()),
        attribute(
          oid.messageDigest,
          new asn1js.OctetString({ valueHex: createHash('sha256').update(content).digest() }),
        ),
      ]);
      const signature = sign(
        'sha256',
        new Uint8Array(new asn1js.Set({ value: attributes }).toBER()),
        privateKey,
      );
      const message = Buffer.from(signedData(content, signer, attributes, signature).toBER());
      return (message.toString('base64').match(/.{1,64}/g) ?? []).join('\n');
    },
  };
}

/** RFC 5652 §5; every constructed value around the signer's part has an indefinite length, as EC2 has it. */
function signedData(
  content: Uint8Array,
  signer: asn1js.Sequence,
  attributes: asn1js.AsnType[],
  signature: Uint8Array,
): asn1js.Sequence {
  const signerInfo = new asn1js.Sequence({
    value: [
      new asn1js.Integer({ value: 1 }),
      signer,
      algorithmIdentifier(oid.sha256),
      new asn1js.Constructed({ idBlock: { tagClass: 3, tagNumber: 0 }, value: attributes }),
      algorithmIdentifier(oid.sha256WithRsa),
      new asn1js.OctetString({ valueHex: signature }),
    ],
  });
  const encapsulated = indefinite([
    new asn1js.ObjectIdentifier({ value: oid.data }),
    explicitZero(
      new asn1js.OctetString({
        idBlock: { isConstructed: true },
        lenBlock: { isIndefiniteForm: true },
        isIndefiniteForm: true,
        isConstructed: true,
        value: [new asn1js.OctetString({ valueHex: content })],
      }),
    ),
  ]);
  return indefinite([
    new asn1js.ObjectIdentifier({ value: oid.signedData }),
    explicitZero(
      indefinite([
        new asn1js.Integer({ value: 1 }),
        new asn1js.Set({ value: [algorithmIdentifier(oid.sha256)] }),
        encapsulated,
        new asn1js.Set({ value: [signerInfo] }),
      ]),
    ),
  ]);
}

function indefinite(value: asn1js.AsnType[]): asn1js.Sequence {
  return new asn1js.Sequence({ lenBlock: { isIndefiniteForm: true }, isIndefiniteForm: true, value });
}

function explicitZero(value: asn1js.AsnType): asn1js.Constructed {
  return new asn1js.Constructed({
    idBlock: { tagClass: 3, tagNumber: 0 },
    lenBlock: { isIndefiniteForm: true },
    isIndefiniteForm: true,
    value: [value],
  });
}

function algorithmIdentifier(name: string): asn1js.Sequence {
  return new asn1js.Sequence({ value: [new asn1js.ObjectIdentifier({ value: name })] });
}

/** RFC 6211: what newer documents of EC2 sign of the algorithms that stand outside the signature. */
function algorithmProtection(): asn1js.Sequence {
  const signature = new asn1js.Constructed({
    idBlock: { tagClass: 3, tagNumber: 1 },
    value: [new asn1js.ObjectIdentifier({ value: oid.sha256WithRsa })],
  });
  return new asn1js.Sequence({ value: [algorithmIdentifier(oid.sha256), signature] });
}

/** DER orders the elements of a SET OF by their encodings (X.690 §11.6). */
function sorted(values: asn1js.AsnType[]): asn1js.AsnType[] {
  return values.toSorted((a, b) => Buffer.compare(Buffer.from(a.toBER()), Buffer.from(b.toBER())));
}

function attribute(type: string, value: asn1js.AsnType): asn1js.Sequence {
  return new asn1js.Sequence({
    value: [new asn1js.ObjectIdentifier({ value: type }), new asn1js.Set({ value: [value] })],
  });
}
