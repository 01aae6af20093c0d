import * as z from 'zod';
import { hex, requireSize, sha256 } from '../bytes.ts';
import { type Certificate, parsePem } from '../certificate.ts';
import { type ChainCache, isLinked, signatureAlgorithms, verifyChain } from '../chain.ts';
import { countValues, parseJson } from '../json.ts';
import { EvidenceError } from '../reasons.ts';
import { parseRevocationList, type RevocationList, requireNotRevoked } from '../revocation-list.ts';
import { isSigned, type TdxTrust } from './verify.ts';

// Recorded files have below 20 kB.
const maxCollateralBytes = 262_144;
const maxCollateralValues = 20_000;

const hexText = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-fA-F]{${2 * bytes}}$`));
// In one case: a letter in the other one would be a change that no signature covers.
const unsignedHex = z.string().regex(/^(?:(?:[0-9a-f]{2})+|(?:[0-9A-F]{2})+)$/);
const instant = z.iso.datetime().transform((value) => new Date(value));

/** The file that Intel's PCS answers are commonly kept in: texts as they were signed, signatures and lists in hex. */
const fileSchema = z.strictObject({
  pck_crl_issuer_chain: z.string(),
  root_ca_crl: unsignedHex,
  pck_crl: unsignedHex,
  tcb_info_issuer_chain: z.string(),
  tcb_info: z.string(),
  tcb_info_signature: unsignedHex.length(128),
  qe_identity_issuer_chain: z.string(),
  qe_identity: z.string(),
  qe_identity_signature: unsignedHex.length(128),
});

const svn = z.int().min(0).max(65_535);
const components = z.array(z.object({ svn })).length(16);
const moduleLevels = z.array(z.object({ tcb: z.object({ isvsvn: svn }), tcbStatus: z.string() }));

/** Intel PCS API 4.0, TCB info version 3 for TDX. */
const tcbInfoSchema = z.object({
  id: z.literal('TDX'),
  version: z.literal(3),
  issueDate: instant,
  nextUpdate: instant,
  fmspc: hexText(6),
  pceId: hexText(2),
  tdxModule: z.object({ mrsigner: hexText(48), attributes: hexText(8), attributesMask: hexText(8) }),
  tdxModuleIdentities: z
    .array(
      z.object({
        id: z.string(),
        mrsigner: hexText(48),
        attributes: hexText(8),
        attributesMask: hexText(8),
        tcbLevels: moduleLevels,
      }),
    )
    .default([]),
  tcbLevels: z.array(
    z.object({
      tcb: z.object({ sgxtcbcomponents: components, tdxtcbcomponents: components, pcesvn: svn }),
      tcbStatus: z.string(),
    }),
  ),
});

/** Intel PCS API 4.0, identity of the TD quoting enclave, version 2. */
const qeIdentitySchema = z.object({
  id: z.literal('TD_QE'),
  version: z.literal(2),
  issueDate: instant,
  nextUpdate: instant,
  miscselect: hexText(4),
  miscselectMask: hexText(4),
  attributes: hexText(16),
  attributesMask: hexText(16),
  mrsigner: hexText(32),
  isvprodid: svn,
  tcbLevels: moduleLevels,
});

export type TcbInfo = z.infer<typeof tcbInfoSchema>;
export type QeIdentity = z.infer<typeof qeIdentitySchema>;

interface SignedText {
  readonly text: string;
  readonly signature: Uint8Array;
  readonly chain: readonly Certificate[];
}

/** What Intel publishes about platforms, as parsed; nothing in it is believed yet. */
export interface Collateral {
  readonly tcbInfo: TcbInfo;
  readonly qeIdentity: QeIdentity;
  readonly signed: readonly SignedText[];
  readonly pckCrl: RevocationList;
  /** Of the authority that issued the PCK certificate, and the list. */
  readonly pckCrlChain: readonly Certificate[];
  readonly rootCrl: RevocationList;
}

/** Reads collateral; each text is kept exactly as it stands, since that is what Intel signed. */
export function parseCollateral(bytes: Uint8Array): Collateral {
  requireSize(bytes, maxCollateralBytes);
  const file = checked(fileSchema, parseJson(bytes, 'TDX_COLLATERAL_MALFORMED'), 'the file');
  return {
    tcbInfo: parse(tcbInfoSchema, file.tcb_info, 'TCB info'),
    qeIdentity: parse(qeIdentitySchema, file.qe_identity, 'QE identity'),
    signed: [
      {
        text: file.tcb_info,
        signature: Buffer.from(file.tcb_info_signature, 'hex'),
        chain: parsePem(file.tcb_info_issuer_chain),
      },
      {
        text: file.qe_identity,
        signature: Buffer.from(file.qe_identity_signature, 'hex'),
        chain: parsePem(file.qe_identity_issuer_chain),
      },
    ],
    pckCrlChain: parsePem(file.pck_crl_issuer_chain),
    pckCrl: parseRevocationList(Buffer.from(file.pck_crl, 'hex')),
    rootCrl: parseRevocationList(Buffer.from(file.root_ca_crl, 'hex')),
  };
}

/** Whether Intel signed the collateral, it is current, and it revokes nothing of the quote's or its own chains. */
export function verifyCollateral(
  collateral: Collateral,
  pckChain: readonly Certificate[],
  trust: TdxTrust,
): void {
  const { at, cache } = trust;
  const algorithms = [signatureAlgorithms.ecdsaSha256];
  const listRules = { at, algorithms, cache };
  const [pck, platformCa] = pckChain;
  const root = pckChain.at(-1);
  if (!pck || !platformCa || !root) throw new EvidenceError('CHAIN_INCOMPLETE', 'PCK chain');
  const signers: Certificate[] = [];
  for (const { text, signature, chain } of collateral.signed) {
    verifyChain(chain, {
      at,
      roots: trust.roots,
      algorithms,
      leafKeyUsage: 'digitalSignature',
      cache,
    });
    const [signer] = chain;
    const isIntels = signer !== undefined && isSignedText(text, signature, signer, cache);
    // Any certificate of Intel's would chain; only this one speaks for collateral.
    if (!isIntels || signer.commonName !== 'Intel SGX TCB Signing') {
      throw new EvidenceError('TDX_COLLATERAL_INVALID', `signed by ${signer?.subjectText}`);
    }
    signers.push(signer);
  }
  for (const { issueDate, nextUpdate } of [collateral.tcbInfo, collateral.qeIdentity]) {
    if (!(at >= issueDate && at <= nextUpdate)) {
      throw new EvidenceError(
        'TDX_COLLATERAL_EXPIRED',
        `${issueDate.toISOString()} to ${nextUpdate.toISOString()}`,
      );
    }
  }
  for (const signer of signers) requireNotRevoked(collateral.rootCrl, root, signer, listRules);
  // The list's own chain, below which the PCK certificate stands as well as below the quote's.
  verifyChain([pck, ...collateral.pckCrlChain], {
    at,
    roots: trust.roots,
    algorithms,
    leafKeyUsage: 'digitalSignature',
    cache,
  });
  requireNotRevoked(collateral.pckCrl, platformCa, pck, listRules);
  requireNotRevoked(collateral.rootCrl, root, platformCa, listRules);
}

function isSignedText(
  text: string,
  signature: Uint8Array,
  signer: Certificate,
  cache: ChainCache | undefined,
): boolean {
  const bytes = Buffer.from(text);
  const fingerprint = hex(sha256(bytes, signature));
  return isLinked(fingerprint, signer, cache, () => isSigned(bytes, signer.publicKey, signature));
}

function parse<T>(schema: z.ZodType<T>, text: string, what: string): T {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new EvidenceError('TDX_COLLATERAL_MALFORMED', `${what} is not JSON`, { cause });
  }
  return checked(schema, json, what);
}

function checked<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  // The schema describes each fault, and each of a hundred thousand would cost.
  if (countValues(json, maxCollateralValues) >= maxCollateralValues) {
    throw new EvidenceError('TDX_COLLATERAL_MALFORMED', `${what} has more values than any has`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const fields = [...new Set(parsed.error.issues.map(({ path }) => path.join('.')))].slice(0, 5);
  throw new EvidenceError('TDX_COLLATERAL_MALFORMED', `${what}: ${fields.join(', ')}`);
}
