/**
 * Every reason for which evidence is turned away: a closed list. `malformed` means that the bytes are not
 * what they claim to be and nothing was judged; `refused` means that they were understood and did not
 * convince. docs/evidence.md is checked against this table.
 */
export interface ReasonInfo {
  readonly kind: 'malformed' | 'refused';
  readonly meaning: string;
  /** What the person in front of it can do. */
  readonly action: string;
}

const malformed = (meaning: string, action: string): ReasonInfo => ({ kind: 'malformed', meaning, action });
const refused = (meaning: string, action: string): ReasonInfo => ({ kind: 'refused', meaning, action });

export const REASONS = {
  // any format
  INPUT_EMPTY: malformed('There are no bytes.', 'Check the file or field that the evidence was read from.'),
  INPUT_TOO_LARGE: malformed(
    'The input is larger than this format can ever be; it was not parsed.',
    'Send one piece of evidence at a time, without what a tool printed around it.',
  ),
  BASE64_INVALID: malformed(
    'The text is not strict base64 (alphabet, padding, line breaks).',
    'Send the text exactly as the metadata service or tool printed it.',
  ),

  // DER, BER and certificates
  ASN1_MALFORMED: malformed(
    'The ASN.1 cannot be read, is cut short, or is followed by other bytes.',
    'Fetch the evidence again; it was damaged on the way.',
  ),
  ASN1_UNEXPECTED: malformed(
    'The ASN.1 has another element than the format has at that place.',
    'Check that the file is of the named format.',
  ),
  ASN1_LENGTH_NOT_MINIMAL: malformed(
    'A length is encoded with more bytes than it needs.',
    'Whoever wrote this does not write DER; use the original bytes.',
  ),
  ASN1_INDEFINITE_LENGTH: malformed(
    'An indefinite length stands where DER is required.',
    'Whoever wrote this does not write DER; use the original bytes.',
  ),
  ASN1_NOT_CANONICAL: malformed(
    'Reading the ASN.1 and writing it again gives other bytes: something unread is hidden in it.',
    'Use the original bytes.',
  ),
  ASN1_TOO_COMPLEX: malformed(
    'The ASN.1 nests deeper or has more elements than any genuine evidence.',
    'Use the original bytes.',
  ),
  CERTIFICATE_MALFORMED: malformed(
    'A certificate is not a well-formed X.509 v3 certificate.',
    'Fetch the certificate again, as DER or one PEM block.',
  ),
  CERTIFICATE_NOT_YET_VALID: refused(
    'A certificate is not valid yet at the time of verification.',
    'Check the clock, or pass the time at which the evidence was made.',
  ),
  CERTIFICATE_EXPIRED: refused(
    'A certificate is no longer valid at the time of verification.',
    'Ask for fresh evidence; for an archived one pass the time at which it was made.',
  ),

  // EC2 instance identity documents
  IDENTITY_MALFORMED: malformed(
    'The CMS structure is not what EC2 writes for an instance identity document.',
    'Send the body of /latest/dynamic/instance-identity/rsa2048 as it is.',
  ),
  IDENTITY_DOCUMENT_MALFORMED: malformed(
    'The signed content is not an instance identity document.',
    'Send the body of /latest/dynamic/instance-identity/rsa2048 as it is.',
  ),
  IDENTITY_NOT_RSA2048: refused(
    'This is the signature (RSA-1024) or pkcs7 (DSA, SHA-1) form, whose keys are too weak.',
    'Read /latest/dynamic/instance-identity/rsa2048 instead.',
  ),
  IDENTITY_REGION_UNKNOWN: refused(
    'No trusted issuer is configured for the Region that the document names.',
    'Add the Region’s rsa2048 certificate to the trusted issuers, if you use that Region.',
  ),
  IDENTITY_REGION_MISMATCH: refused(
    'The document names another Region than the expected one.',
    'Check which VM sent it; a document of another Region proves nothing here.',
  ),
  IDENTITY_INSTANCE_MISMATCH: refused(
    'The document names another instance than the expected one.',
    'Treat it as a borrowed document: find out which VM sent it.',
  ),
  IDENTITY_ACCOUNT_MISMATCH: refused(
    'The document names another AWS account than the expected one.',
    'Treat it as a borrowed document: find out which VM sent it.',
  ),
  IDENTITY_SIGNER_NOT_PINNED: refused(
    'The signer is not the pinned certificate of the Region that the document names.',
    'Compare the pinned certificate with the one that AWS publishes for the Region.',
  ),
  IDENTITY_DIGEST_MISMATCH: refused(
    'The document is not the one that was signed: its digest differs.',
    'Fetch the document again; somebody changed it.',
  ),
  IDENTITY_SIGNATURE_INVALID: refused(
    'The signature does not verify under the Region’s certificate.',
    'Fetch the document again; somebody changed it, or it was never AWS’s.',
  ),
} as const satisfies Record<string, ReasonInfo>;

export type ReasonCode = keyof typeof REASONS;

/** Whether the code says "these bytes are no evidence" rather than "this evidence does not convince". */
export function isMalformed(code: ReasonCode): boolean {
  return REASONS[code].kind === 'malformed';
}

/** Thrown by parsers and verifiers, and turned into a verdict at the door of each format. Not retryable. */
export class EvidenceError extends Error {
  readonly code: ReasonCode;
  /** For people: what exactly was seen. Never holds key material. */
  readonly detail: string;

  constructor(code: ReasonCode, detail: string, options?: ErrorOptions) {
    super(`${code}: ${detail}`, options);
    this.name = 'EvidenceError';
    this.code = code;
    this.detail = detail;
  }
}
