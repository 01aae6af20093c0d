import { constants, type KeyObject, verify } from 'node:crypto';
import { digest, equalBytes, hex, sha256 } from '../bytes.ts';
import type { Checklist, Trust } from '../verdict.ts';
import type { PcrSelection, TpmQuote, TpmSignature } from './bytes.ts';
import type { PcrBanks } from './pcrs.ts';
import type { TpmPublicKey } from './public-key.ts';

export interface TpmEvidence {
  readonly quote: TpmQuote;
  readonly signature: TpmSignature;
  readonly ak: TpmPublicKey;
  readonly pcrs: PcrBanks;
}

/** Whether the key signed this quote, and the quote covers exactly these PCR values. Whose key it is, see binding. */
export function verifyTpmEvidence({ quote, signature, ak, pcrs }: TpmEvidence, checks: Checklist): Trust {
  if (!ak.area) checks.skip('key is restricted to what its TPM made', 'only its public key is known');
  else {
    checks.demand(
      'key is restricted to what its TPM made',
      ak.area.isAttestationKey,
      'TPM_KEY_NOT_RESTRICTED',
    );
  }
  checks.demand(
    'signature over the quote',
    isSigned(quote.signed, signature, ak.key),
    'TPM_SIGNATURE_INVALID',
  );
  const missing = quote.selections.flatMap(({ bank, pcrs: indexes }) =>
    indexes.filter((index) => !pcrs.get(bank)?.has(index)).map((index) => `${bank}:${index}`),
  );
  checks.demand(
    'every quoted PCR is given',
    missing.length === 0,
    'TPM_PCR_MISSING',
    missing.join(', ') || undefined,
  );
  checks.demand(
    'no other PCR is given',
    count(pcrs) === countSelected(quote.selections),
    'TPM_PCR_NOT_QUOTED',
  );
  const values = quote.selections.flatMap(({ bank, pcrs: indexes }) =>
    indexes.map((index) => pcrs.get(bank)?.get(index) ?? new Uint8Array()),
  );
  // The digest is of the signing scheme's hash, whatever the bank's.
  const isCovered = equalBytes(digest(signature.hash, ...values), quote.pcrDigest);
  checks.demand('PCR digest', isCovered, 'TPM_PCR_DIGEST_MISMATCH');
  const spki = ak.key.export({ format: 'der', type: 'spki' });
  return { root: hex(sha256(spki)), chain: [], notBefore: null, notAfter: null };
}

function isSigned(signed: Uint8Array, signature: TpmSignature, key: KeyObject): boolean {
  const isRsa = key.asymmetricKeyType === 'rsa';
  switch (signature.scheme) {
    case 'plain': {
      const { hash, signature: bytes } = signature;
      if (isRsa)
        return verify(hash, signed, key, bytes) || isSigned(signed, { ...signature, scheme: 'rsapss' }, key);
      // r and s beside each other, or in DER.
      const dsaEncoding = bytes.length === 2 * coordinateBytes(key) ? 'ieee-p1363' : 'der';
      return verify(hash, signed, { key, dsaEncoding }, bytes);
    }
    case 'rsassa':
      return isRsa && verify(signature.hash, signed, key, signature.signature);
    case 'rsapss': {
      const padding = constants.RSA_PKCS1_PSS_PADDING;
      // A TPM salts with what fits or with the length of the hash (Part 1 §B.7).
      const saltLength = constants.RSA_PSS_SALTLEN_AUTO;
      return isRsa && verify(signature.hash, signed, { key, padding, saltLength }, signature.signature);
    }
    case 'ecdsa': {
      const length = coordinateBytes(key);
      if (isRsa || signature.r.length > length || signature.s.length > length) return false;
      const both = Buffer.concat([leftPadded(signature.r, length), leftPadded(signature.s, length)]);
      return verify(signature.hash, signed, { key, dsaEncoding: 'ieee-p1363' }, both);
    }
  }
}

function coordinateBytes(key: KeyObject): number {
  return key.asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 48 : 32;
}

/** A TPM leaves out leading zeros. */
function leftPadded(bytes: Uint8Array, length: number): Uint8Array {
  return Buffer.concat([new Uint8Array(length - bytes.length), bytes]);
}

function count(pcrs: PcrBanks): number {
  return [...pcrs.values()].reduce((sum, bank) => sum + bank.size, 0);
}

function countSelected(selections: readonly PcrSelection[]): number {
  return selections.reduce((sum, { pcrs }) => sum + pcrs.length, 0);
}
