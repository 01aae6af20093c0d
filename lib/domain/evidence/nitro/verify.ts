import { verify } from 'node:crypto';
import { type Certificate, parseCertificate } from '../certificate.ts';
import { type ChainCache, signatureAlgorithms, verifyChain } from '../chain.ts';
import { EvidenceError } from '../reasons.ts';
import { type Checklist, type Trust, trustOf } from '../verdict.ts';
import type { NitroDocument } from './bytes.ts';

/** SHA-256 of CN=aws.nitro-enclaves, 2019 to 2049: https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip */
export const nitroRoots: readonly string[] = [
  '641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b',
];

/** A document with its certificates read. */
export interface NitroEvidence {
  readonly document: NitroDocument;
  /** Leaf first, root last. */
  readonly chain: readonly Certificate[];
  /** Named by the leaf; undefined when the leaf is not this module's. */
  readonly region: string | undefined;
}

export function readNitroEvidence(document: NitroDocument, cache?: ChainCache): NitroEvidence {
  const chain = [document.certificate, ...document.cabundle.toReversed()].map(
    cache?.read ?? parseCertificate,
  );
  return { document, chain, region: regionOf(chain[0], document.moduleId) };
}

export interface NitroTrust {
  readonly at: Date;
  readonly roots: readonly string[];
  readonly cache?: ChainCache | undefined;
}

/** Whether the Nitro hypervisor signed this document for the module that it names. */
export function verifyNitroEvidence(evidence: NitroEvidence, trust: NitroTrust, checks: Checklist): Trust {
  const { document, chain, region } = evidence;
  const [leaf] = chain;
  if (leaf?.publicKey.asymmetricKeyDetails?.namedCurve !== 'secp384r1') {
    throw new EvidenceError('NITRO_ALGORITHM_UNKNOWN', 'the certificate has no P-384 key');
  }
  verifyChain(chain, {
    at: trust.at,
    roots: trust.roots,
    algorithms: [signatureAlgorithms.ecdsaSha384],
    leafKeyUsage: 'digitalSignature',
    cache: trust.cache,
  });
  checks.demand('chain to the pinned root', true, 'ROOT_NOT_PINNED');
  const key = { key: leaf.publicKey, dsaEncoding: 'ieee-p1363' } as const;
  checks.demand(
    'signature over the document',
    verify('sha384', document.signed, key, document.signature),
    'NITRO_SIGNATURE_INVALID',
  );
  checks.demand(
    'certificate is of the module',
    region !== undefined,
    'NITRO_MODULE_MISMATCH',
    `${document.moduleId}, ${leaf.commonName}`,
  );
  return trustOf(chain);
}

/** The leaf's common name is the module id, the Region and `aws`. */
function regionOf(leaf: Certificate | undefined, moduleId: string): string | undefined {
  const name = leaf?.commonName ?? '';
  if (!name.startsWith(`${moduleId}.`)) return undefined;
  return /^([a-z]{2,}(?:-[a-z]+)+-\d+)\.aws$/.exec(name.slice(moduleId.length + 1))?.[1];
}
