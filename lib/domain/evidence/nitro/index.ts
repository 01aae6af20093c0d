import { hex } from '../bytes.ts';
import type { ChainCache } from '../chain.ts';
import { judge, type Verdict } from '../verdict.ts';
import { parseNitroDocument } from './bytes.ts';
import { defaultNitroPolicy, judgeNitro, type NitroExpectation, type NitroPolicy } from './policy.ts';
import { type NitroEvidence, nitroRoots, readNitroEvidence, verifyNitroEvidence } from './verify.ts';

export { defaultNitroPolicy, type NitroExpectation, type NitroPolicy, pinsBoot } from './policy.ts';

export interface NitroInput {
  readonly document: Uint8Array;
  readonly at: Date;
  readonly policy?: NitroPolicy | undefined;
  readonly expected?: NitroExpectation | undefined;
  readonly roots?: readonly string[] | undefined;
  readonly cache?: ChainCache | undefined;
}

export interface NitroClaims {
  readonly kind: 'enclave' | 'nitrotpm';
  readonly moduleId: string;
  readonly instanceId: string;
  readonly region: string | null;
  /** ISO 8601 UTC, of the hypervisor. */
  readonly timestamp: string;
  readonly pcrs: Readonly<Record<string, string>>;
  /** Hex; opaque to Nitro: whoever asked for the document chose it. */
  readonly publicKey: string | null;
  readonly userData: string | null;
  readonly nonce: string | null;
}

/** Verifies a Nitro attestation document, of an enclave or a NitroTPM, as of `at`. */
export function verifyNitro(input: NitroInput): Verdict<NitroClaims> {
  const { at, roots = nitroRoots, cache, policy = defaultNitroPolicy, expected = {} } = input;
  return judge({
    format: 'nitro',
    parse: () => readNitroEvidence(parseNitroDocument(input.document), cache),
    verify: (evidence, checks) => verifyNitroEvidence(evidence, { at, roots, cache }, checks),
    signedBytes: ({ document }) => document.signed,
    claims,
    policy: (evidence, checks) => judgeNitro(evidence, policy, expected, at, checks),
  });
}

function claims({ document, region }: NitroEvidence): NitroClaims {
  const pcrs = [...document.pcrs].toSorted(([a], [b]) => a - b);
  return {
    kind: document.kind,
    moduleId: document.moduleId,
    instanceId: document.instanceId,
    region: region ?? null,
    timestamp: document.timestamp.toISOString(),
    pcrs: Object.fromEntries(pcrs.map(([index, digest]) => [`PCR${index}`, hex(digest)])),
    publicKey: document.publicKey && hex(document.publicKey),
    userData: document.userData && hex(document.userData),
    nonce: document.nonce && hex(document.nonce),
  };
}
