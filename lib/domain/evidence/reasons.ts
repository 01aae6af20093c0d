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

  CERTIFICATE_SIGNATURE_INVALID: refused(
    'A certificate is not signed by the one above it.',
    'Fetch the chain again; somebody changed it, or it is not the vendor’s.',
  ),
  CERTIFICATE_ALGORITHM_WEAK: refused(
    'A certificate is signed with another algorithm than the vendor uses.',
    'Fetch the chain again from the vendor.',
  ),
  CERTIFICATE_USAGE_WRONG: refused(
    'A certificate is used for what it does not allow: an authority that is none, or a leaf that is one.',
    'Fetch the chain again from the vendor.',
  ),
  CERTIFICATE_PATH_TOO_LONG: refused(
    'There are more authorities below a certificate than its path length allows.',
    'Fetch the chain again from the vendor.',
  ),
  CERTIFICATE_CRITICAL_EXTENSION: refused(
    'A certificate has a critical extension that this verifier does not know.',
    'Look for a newer version of Casemate.',
  ),
  CHAIN_INCOMPLETE: refused(
    'Certificates between the leaf and the root are missing, or there are too many.',
    'Pass the whole chain: leaf, intermediates, root.',
  ),
  CHAIN_OUT_OF_ORDER: refused(
    'A certificate’s issuer is not the next certificate.',
    'Pass the chain in order, each certificate followed by its issuer.',
  ),
  ROOT_NOT_PINNED: refused(
    'The chain does not end in a root that is pinned by its fingerprint.',
    'If the root is the vendor’s new one, update Casemate; else treat the evidence as forged.',
  ),

  // measurements and bindings, any format
  MEASUREMENT_UNKNOWN: refused(
    'The measured values are of no generation that the policy names.',
    'If the image is yours, add its generation to the policy before it ships.',
  ),
  MEASUREMENT_OUTDATED: refused(
    'The measured values are of a generation whose date has passed.',
    'Update the VM’s image, or move the date.',
  ),
  MEASUREMENT_EARLY: refused(
    'The measured values are of a generation that does not count yet.',
    'Wait, or move the date from which it counts.',
  ),
  REPORT_DATA_MISMATCH: refused(
    'The caller’s bytes in the report are not the expected ones: it was made for something else.',
    'Ask for evidence over this transcript; if that repeats, evidence is being replayed.',
  ),

  NONCE_MISMATCH: refused(
    'The evidence does not carry the expected nonce.',
    'Ask for evidence over the nonce that was issued; if that repeats, evidence is being replayed.',
  ),
  USER_DATA_MISMATCH: refused(
    'The evidence does not carry the expected user data: it was made for something else.',
    'Ask for evidence over this transcript; if that repeats, evidence is being replayed.',
  ),

  // AMD SEV-SNP
  SNP_SIZE_WRONG: malformed(
    'A report has 1184 bytes.',
    'Send the report alone, without a header or certificates.',
  ),
  SNP_VERSION_UNKNOWN: malformed(
    'The report’s version is not 2, 3, 4 or 5.',
    'Check that the file is a report; if it is newer, look for a newer version of Casemate.',
  ),
  SNP_RESERVED_NOT_ZERO: malformed(
    'Bytes or bits that must be zero are not.',
    'Fetch the report again; it was damaged, or padding was used to hide something.',
  ),
  SNP_KEY_CERTIFICATE_MALFORMED: malformed(
    'The first certificate is not a VCEK or VLEK.',
    'Pass the VCEK or VLEK first, then ASK or ASVK, then ARK.',
  ),
  SNP_PRODUCT_UNKNOWN: refused(
    'The processor is of no product with a public chain of certificates, or does not fit the report’s version.',
    'Look for a newer version of Casemate.',
  ),
  SNP_PRODUCT_MISMATCH: refused(
    'Report and key certificate are of different products.',
    'Fetch the certificate of the very chip that made the report.',
  ),
  SNP_NOT_SIGNED: refused(
    'The host masked the chip key, or asked for no signature.',
    'The platform has to be configured otherwise; on EC2 report it.',
  ),
  SNP_ALGORITHM_UNKNOWN: refused(
    'The report is not signed with ECDSA P-384 and SHA-384.',
    'Fetch the report again.',
  ),
  SNP_KEY_KIND_MISMATCH: refused(
    'The report says that another kind of key signed it than the certificate is for.',
    'Pass the VLEK for a report signed with a VLEK, the VCEK for a VCEK.',
  ),
  SNP_AUTHORITY_MISMATCH: refused(
    'A VCEK must be issued by the product’s ASK, a VLEK by its ASVK.',
    'Pass the intermediate that fits the key.',
  ),
  SNP_SIGNATURE_INVALID: refused(
    'The report’s signature does not verify under its key.',
    'Fetch report and certificate again, of the same moment; firmware updates change the key.',
  ),
  SNP_TCB_MISMATCH: refused(
    'The reported TCB is not the one that the key was made for.',
    'Fetch the certificate for the reported TCB.',
  ),
  SNP_TCB_INCONSISTENT: refused(
    'The reported or committed TCB is above the current one.',
    'No genuine platform says that: treat the report as forged.',
  ),
  SNP_CHIP_MISMATCH: refused(
    'The report is of another chip than the VCEK.',
    'Fetch the certificate of the very chip that made the report.',
  ),
  SNP_DEBUG: refused('The guest may be debugged: its host can read its memory.', 'Launch it without DEBUG.'),
  SNP_MIGRATION_AGENT: refused(
    'A migration agent may move the guest.',
    'Launch it without MIGRATE_MA, or allow it in the policy.',
  ),
  SNP_SMT: refused('The guest may run beside another one on a core.', 'Launch it without SMT, or allow it.'),
  SNP_VMPL: refused(
    'The report was asked for at a privilege level that the policy does not allow.',
    'Name the level in the policy if a paravisor runs at VMPL 0 and you trust it.',
  ),
  SNP_KEY_KIND: refused('The policy does not allow this kind of key.', 'Allow VCEK or VLEK in the policy.'),
  SNP_GUEST_SVN: refused('The guest’s security version is below the minimum.', 'Update the VM’s image.'),
  SNP_ALIAS_CHECK: refused(
    'The firmware did not check memory for aliases (BadRAM).',
    'The platform’s firmware has to be updated.',
  ),
  SNP_VLEK_NOT_AWS: refused('The VLEK is of another cloud than AWS.', 'The VM does not run on EC2.'),
  SNP_REGION_MISMATCH: refused(
    'The VLEK is of another AWS Region than the expected one.',
    'Treat the report as borrowed: find out where it was made.',
  ),
  SNP_TCB_TOO_OLD: refused(
    'A component of the reported TCB is below the minimum for the processor.',
    'Wait for the platform’s update, move the VM, or lower the minimum deliberately.',
  ),
  SNP_NOT_ASSERTED: refused(
    'EC2 does not say that this instance runs with SEV-SNP, so the report is another machine’s.',
    'Launch the instance with AmdSevSnp enabled; else find out where the report was made.',
  ),

  // CBOR and Nitro attestation documents
  CBOR_MALFORMED: malformed(
    'The CBOR cannot be read, is cut short, or is followed by other bytes.',
    'Fetch the document again, as raw bytes: not base64, not hex.',
  ),
  CBOR_LENGTH_NOT_MINIMAL: malformed(
    'A CBOR length or number is longer than it needs to be.',
    'Use the original bytes.',
  ),
  CBOR_INDEFINITE_LENGTH: malformed(
    'An indefinite CBOR length stands elsewhere than around the payload’s map.',
    'Use the original bytes.',
  ),
  CBOR_DUPLICATE_KEY: malformed('A CBOR map has a key twice.', 'Use the original bytes.'),
  CBOR_TYPE_UNKNOWN: malformed(
    'A CBOR type that documents do not have: tags, floats, booleans.',
    'Use the original bytes.',
  ),
  CBOR_TOO_DEEP: malformed('The CBOR nests deeper than any document.', 'Use the original bytes.'),
  NITRO_MALFORMED: malformed(
    'This is CBOR, but not an attestation document.',
    'Check that the file is the document alone, as the module returned it.',
  ),
  NITRO_ALGORITHM_UNKNOWN: refused(
    'The document is not signed with ECDSA P-384 and SHA-384.',
    'Fetch the document again.',
  ),
  NITRO_SIGNATURE_INVALID: refused(
    'The document’s signature does not verify under its certificate.',
    'Fetch the document again; somebody changed it.',
  ),
  NITRO_MODULE_MISMATCH: refused(
    'The certificate is of another module than the document names.',
    'No genuine module does that: treat the document as forged.',
  ),
  NITRO_KIND: refused(
    'The policy does not allow this kind of module.',
    'Allow enclave or nitrotpm in the policy.',
  ),
  NITRO_STALE: refused(
    'The document is older than the policy allows, or of the future.',
    'Ask for a fresh document; for an archived one pass the time at which it was made.',
  ),
  NITRO_DEBUG: refused(
    'PCR0, PCR1 or PCR2 is zero: an enclave in debug mode, whose memory its parent reads.',
    'Start the enclave without debug mode.',
  ),
  NITRO_REGION_MISMATCH: refused(
    'The module is in another AWS Region than the expected one.',
    'Treat the document as borrowed: find out where it was made.',
  ),
  NITRO_INSTANCE_MISMATCH: refused(
    'The module belongs to another instance than the expected one.',
    'Treat the document as borrowed: find out which VM it is of.',
  ),
  NITRO_PCRS_INSUFFICIENT: refused(
    'A generation of the policy leaves open what boots: it pins neither PCR7 nor both PCR4 and PCR12.',
    'Add PCR12 to PCR4, or pin PCR7 with Secure Boot.',
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
