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
  UNFORESEEN: malformed(
    'The verifier stumbled over something that it did not foresee; that is never an acceptance.',
    'Report it with the evidence: it is a defect of Casemate.',
  ),
  BASE64_INVALID: malformed(
    'The text is not strict base64 (alphabet, padding, line breaks).',
    'Send the text exactly as the metadata service or tool printed it.',
  ),

  // DER, BER and certificates
  JSON_DUPLICATE_KEY: malformed(
    'A member of the JSON is there twice, or has a name that would be passed over.',
    'Say each value once; use the file as the tool wrote it.',
  ),
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
    'A certificate or revocation list has a critical extension that this verifier does not know.',
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
  CERTIFICATE_REVOKED: refused(
    'Its issuer revoked a certificate.',
    'Treat the platform as compromised until its owner has repaired it.',
  ),
  REVOCATION_LIST_MALFORMED: malformed(
    'A revocation list is not one of X.509 version 2.',
    'Fetch the list again from the vendor, in DER.',
  ),
  REVOCATION_LIST_INVALID: refused(
    'A revocation list is not signed by the authority whose certificates it is to name.',
    'Pass the list of this very product and authority, fetched from the vendor.',
  ),
  REVOCATION_LIST_EXPIRED: refused(
    'A revocation list is not current at the time of verification.',
    'Fetch the list again from the vendor.',
  ),
  REVOCATION_LIST_MISSING: refused(
    'The policy demands a current revocation list, and there is none.',
    'Pass the list with --crl; in the pipeline, see why refresh-collateral cannot fetch it.',
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
  SNP_CERTIFICATE_TABLE_MALFORMED: malformed(
    'The table of certificates that came with the report does not hold together.',
    'Pass the certificates one by one; the host wrote the table.',
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

  // TPM 2.0 quotes
  TPM_QUOTE_MALFORMED: malformed(
    'The attest bytes are not a whole TPMS_ATTEST.',
    'Pass the file that tpm2_quote -m wrote.',
  ),
  TPM_MAGIC_WRONG: malformed(
    'The bytes do not start with TPM_GENERATED: they were not made inside a TPM.',
    'Pass the file that tpm2_quote -m wrote; a key that signs anything else cannot attest.',
  ),
  TPM_NOT_A_QUOTE: refused('The TPM attested something else than PCRs.', 'Ask the TPM for a quote.'),
  TPM_HASH_WEAK: refused(
    'A bank or a signature uses SHA-1.',
    'Quote the sha256 or sha384 bank, signed with SHA-256.',
  ),
  TPM_HASH_UNKNOWN: malformed(
    'A hash algorithm that quotes do not have.',
    'Quote the sha256 or sha384 bank, signed with SHA-256.',
  ),
  TPM_SIGNATURE_MALFORMED: malformed(
    'The signature is not a whole TPMT_SIGNATURE.',
    'Pass the file that tpm2_quote -s wrote.',
  ),
  TPM_PCRS_MALFORMED: malformed(
    'The PCR values are neither JSON nor a file of tpm2_quote.',
    'Pass the file that tpm2_quote -o wrote, or {"sha256": {"0": hex, …}}.',
  ),
  TPM_KEY_MALFORMED: malformed(
    'The attestation key is neither a TPM public area nor an SPKI.',
    'Pass the key as PEM, DER, or as tpm2_readpublic -f tss writes it.',
  ),
  TPM_KEY_WEAK: refused(
    'The key is not RSA from 2048 bits on, P-256 or P-384.',
    'Make a stronger attestation key.',
  ),
  TPM_KEY_NOT_RESTRICTED: refused(
    'The key may sign what its TPM did not make, or can leave it.',
    'Make the key with tpm2_createak: fixedtpm, restricted, sign.',
  ),
  TPM_KEY_NOT_BOUND: refused(
    'Nothing says that the key is of this VM’s TPM; anybody can have a TPM.',
    'Enrol the key by credential activation, or send a NitroTPM document with the key in it.',
  ),
  TPM_SIGNATURE_INVALID: refused(
    'The quote’s signature does not verify under the attestation key.',
    'Pass the key that made the quote; else somebody changed it.',
  ),
  TPM_PCR_MISSING: refused('A quoted PCR has no value.', 'Pass the values of all quoted PCRs.'),
  TPM_PCR_NOT_QUOTED: refused(
    'A PCR value is given that the quote does not cover.',
    'Pass the values of the quoted PCRs alone.',
  ),
  TPM_PCR_DIGEST_MISMATCH: refused(
    'The PCR values are not the ones that the TPM signed.',
    'Read the values together with the quote; PCRs change.',
  ),
  TPM_BANK: refused('The policy does not allow this bank, or no bank is quoted.', 'Quote an allowed bank.'),
  TPM_PCR_SELECTION: refused(
    'The quote does not select exactly the PCRs that the policy names, or selects none.',
    'Quote the PCRs that the policy names.',
  ),

  // Intel TDX
  TDX_MALFORMED: malformed('The quote’s sizes or types do not fit.', 'Pass the quote alone, as raw bytes.'),
  TDX_VERSION_UNKNOWN: malformed(
    'This is not a TDX quote of version 4 or 5 with an ECDSA P-256 key.',
    'Check that the file is a TDX quote; an SGX quote is not one.',
  ),
  TDX_TRAILING_BYTES: malformed('After the quote stands something else than zeros.', 'Pass the quote alone.'),
  TDX_CERTIFICATION_TYPE: refused(
    'The quote names its platform without bringing Intel’s certificates for it.',
    'The platform has to be provisioned with Intel’s certificate chain (certification data of type 5).',
  ),
  TDX_PCK_MALFORMED: malformed(
    'The first certificate in the quote is not a PCK certificate.',
    'The platform has to be provisioned with Intel’s certificate chain.',
  ),
  TDX_QE_VENDOR: refused(
    'The quoting enclave is of another vendor than Intel.',
    'Treat the quote as forged.',
  ),
  TDX_QE_SIGNATURE_INVALID: refused(
    'The quoting enclave’s report is not signed by the platform’s PCK.',
    'Fetch the quote again; somebody changed it.',
  ),
  TDX_KEY_NOT_BOUND: refused(
    'The attestation key is not the one that the quoting enclave vouches for.',
    'Fetch the quote again; somebody changed it.',
  ),
  TDX_SIGNATURE_INVALID: refused(
    'The quote’s signature does not verify under its attestation key.',
    'Fetch the quote again; somebody changed it.',
  ),
  TDX_DEBUG: refused('The guest may be debugged: its host can read its memory.', 'Launch it without DEBUG.'),
  TDX_ATTRIBUTES: refused(
    'Reserved attributes are set, or XFAM lacks x87 and SSE.',
    'Treat the quote as forged.',
  ),
  TDX_SEPT_VE: refused('SEPT_VE_DISABLE is not set.', 'Launch the guest with SEPT_VE_DISABLE.'),
  TDX_MIGRATABLE: refused(
    'The guest may be migrated.',
    'Launch it as not migratable, or allow it in the policy.',
  ),
  TDX_MODULE: refused('The TDX module is not signed by Intel.', 'The platform has to be repaired.'),
  TDX_SERVICE_TD: refused(
    'A service TD is bound that the policy does not name, or the named one is not.',
    'Name its MRSERVICETD in the policy if you trust it.',
  ),
  TDX_QE_IDENTITY: refused(
    'The quoting enclave is not Intel’s, or is a debug build.',
    'Treat the quote as forged.',
  ),
  TDX_COLLATERAL_MALFORMED: malformed(
    'The collateral is not TCB info, QE identity and revocation lists as Intel publishes them.',
    'Fetch the collateral again, and keep the signed texts byte for byte.',
  ),
  TDX_COLLATERAL_INVALID: refused(
    'The collateral is not signed by Intel.',
    'Fetch the collateral again from Intel.',
  ),
  TDX_COLLATERAL_EXPIRED: refused(
    'The collateral is not current at the time of verification.',
    'Fetch the collateral again from Intel.',
  ),
  TDX_COLLATERAL_MISSING: refused(
    'Without collateral nobody knows whether the platform has known holes.',
    'Pass --collateral, or say in the policy that you can do without.',
  ),
  TDX_TCB_UNKNOWN: refused(
    'Platform, module or quoting enclave match no level that Intel lists.',
    'Update the platform, or fetch the collateral for this platform.',
  ),
  TDX_TCB_STATUS: refused(
    'Intel lists platform, module or quoting enclave as not up to date.',
    'Update the platform; SWHardeningNeeded can be allowed in the policy.',
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
