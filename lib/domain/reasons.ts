/**
 * Every reason code that Casemate gives, with its meaning and what to do. Codes are stable: alarms and
 * runbooks match on them.
 */
export const REASONS = {
  // Scope
  IN_SCOPE: 'A policy puts the VM in scope.',
  NOT_IN_SCOPE: 'No policy puts the VM in scope: tag it casemate:protect=true to have it protected.',
  LEAVING_SCOPE: 'The tags no longer put the VM in scope. Fence and keys stay until an operator confirms.',
  VM_NOT_MANAGED: 'The VM is not in scope; it is left alone.',
  VM_NOT_LIVE: 'The VM is shutting down or terminated.',
  VM_GONE: 'The VM is terminated, or two sweeps 15 minutes apart did not see it. Its keys are kept.',
  // Volumes and keys
  ROOT_VOLUME: 'Root volumes are not covered: the agent that opens disks lives on them.',
  MULTI_ATTACH_VOLUME: 'Multi-Attach volumes are not covered: a disk belongs to one VM.',
  AWAITING_ADOPTION: 'The volume was made from a snapshot; it waits to be adopted by its LUKS UUID.',
  DETACHED: 'The volume is not attached to the VM now; its key is kept.',
  DISK_MOVED:
    'The key of the disk is wrapped for another VM; it waits for a re-encryption that policy agrees to.',
  KEY_ISSUED: 'A data key was issued.',
  KEY_NOT_ISSUED_YET: 'The volume is in scope and its key is on its way.',
  // Posture
  NO_REPORT: 'The agent has not reported yet.',
  NOT_ENROLLED: 'No agent is enrolled for the VM.',
  REPORT_STALE: 'The last accepted report is too old to hold the posture up.',
  POSTURE_PROVEN: 'Every condition for leaving probation holds.',
  NO_POLICY_PERMITS: 'No policy permits it: the default is to deny.',
  POLICY_ERROR: 'A policy failed to evaluate; an error denies. Check the policies and their schema.',
  SWAP_NOT_ENCRYPTED:
    'The VM swaps to plain storage: encrypt it (dm-crypt under it, or zram alone) or turn it off.',
  SWAP_UNKNOWN: 'Whether swap is encrypted could not be read; unknown does not count as good.',
  SNP_NOT_SHOWN: 'EC2 launched the VM with SEV-SNP, but the guest does not show it.',
  EVIDENCE_MISSING:
    'Hardware evidence is demanded of the VM (tag casemate:evidence=required) and none stands.',
  FACT_CONTRADICTED: 'The last report contradicted what EC2 asserts.',
  // Refused reports
  REPORT_MALFORMED: 'The report does not match its schema.',
  REPORT_TOO_LARGE: 'The report is larger than the bound.',
  REPORT_FOREIGN_INSTANCE: 'The signed report names another instance than the event.',
  REPORT_FOREIGN_ACCOUNT: 'The signed report names another account or Region than the VM lives in.',
  REPORT_UNKNOWN_KEY: 'The report is signed for a VM that has no enrolled key.',
  REPORT_BAD_SIGNATURE: 'The signature does not verify with the enrolled key.',
  REPORT_TIME_SKEW: 'The report was sent more than five minutes before or after it was received.',
  REPORT_UNKNOWN_VM: 'The VM was not observed yet, or is not in scope.',
  FACT_CONTRADICTS_EC2: 'A fact in the report contradicts what EC2 asserts of the VM.',
  // Events
  EVENT_NOT_JSON: 'The message is not JSON.',
  EVENT_TOO_LARGE: 'The message is larger than an EventBridge event can be.',
  EVENT_UNKNOWN: 'No function here understands an event of this source and type.',
  EVENT_MALFORMED: 'The event does not have the shape of its source and type.',
  // Challenge and enrolment
  REQUEST_MALFORMED: 'The request body does not match its schema.',
  CALLER_UNAUTHENTICATED: 'The request carries no IAM identity.',
  CALLER_FOREIGN: 'The caller is not the instance that the request names.',
  CHALLENGE_UNKNOWN: 'No such challenge was issued.',
  CHALLENGE_USED: 'The challenge was used before.',
  CHALLENGE_EXPIRED: 'The challenge is older than a minute.',
  CHALLENGE_FOREIGN: 'The challenge was issued to another VM or for another purpose.',
  IDENTITY_REFUSED: 'The identity document does not verify.',
  IDENTITY_FOREIGN: 'The identity document is of another instance, account or Region.',
  ENROL_BAD_KEY: 'The agent key is not an ECDSA P-256 public key.',
  ENROL_BAD_SIGNATURE: 'The request is not signed with the key that it wants to enrol.',
  ENROL_VM_UNKNOWN: 'The VM was not observed yet; try again shortly.',
  ENROL_VM_NOT_MANAGED: 'The VM is not in scope.',
  ENROL_VM_NOT_RUNNING: 'EC2 does not show the VM running.',
  ENROL_WINDOW_CLOSED: 'First enrolment ends 15 minutes after launch; an operator must allow it.',
  ENROL_OTHER_KEY: 'Another key is enrolled for the VM; an operator must allow a change.',
  ENROL_DISK_CONFIRMED: 'A disk of the VM is already confirmed: a first enrolment comes too late.',
  // Release, confirmation, rotation, adoption of disk keys
  REQUEST_UNKNOWN_VM: 'The VM was not observed yet; try again shortly.',
  REQUEST_BAD_SIGNATURE:
    'The request is not signed by the enrolled key for this purpose, disk and generation.',
  RELEASE_REFUSED: 'The key is not given now. An operator sees why: casemate explain.',
  RELEASED_IN_OBSERVE:
    'The key was given in observe mode although the posture refuses it; it is rotated once the VM is enforced.',
  KEY_NOT_UNWRAPPED:
    'KMS does not unwrap the stored key for this VM, disk and generation: the row of the table was changed.',
  HIBERNATION_CONFIGURED:
    'The VM may hibernate, which writes the keys in its memory to its root volume: launch it without.',
  HIBERNATION_UNKNOWN:
    'EC2 was not heard to say whether the VM may hibernate; unknown does not count as good.',
  DOCUMENT_REFUSED:
    'The NitroTPM document does not verify for this VM and request, or has no RSA-2048 key: see the log.',
  EPHEMERAL_KEY_INVALID: 'The ephemeral key is not a point on P-256.',
  DISK_NOT_ATTACHED: 'EC2 shows no volume with this disk attached to the VM.',
  GENERATION_UNKNOWN: 'The disk has no key of this generation.',
  GENERATION_RETIRED:
    'The generation was rotated out: it can be confirmed no more, and once retired not be given.',
  CONFIRMATION_MALFORMED: 'The signed payload of the confirmation does not match its schema.',
  HEADER_MALFORMED: 'The header backup is not gzip.',
  ADOPTION_NOT_RESTORED:
    'The volume was not made from a snapshot and does not carry this disk: there is nothing to adopt.',
  ADOPTION_NOT_ATTACHED: 'EC2 shows no such volume attached to the VM.',
  ADOPTION_OTHER_DISK: 'The volume carries another disk.',
  ADOPTION_DISK_UNKNOWN: 'No disk has this UUID.',
  ADOPTION_DISK_TWICE: 'The VM has another volume with this disk: two of one UUID cannot be told apart.',
  ADOPTION_NOT_PERMITTED:
    'No policy permits it; by default a VM adopts copies of its own disks, and others as an operator allows.',
  ADOPTION_PERMITTED: 'A policy permits the VM to adopt the disk.',
  ADOPTION_ALLOWED: 'An operator allowed the VM to adopt the disk.',
  DISK_ADOPTED: 'The disk was adopted, and another VM or volume knows the key: it is to be rotated.',
  ROTATION_OPEN: 'Another generation is issued and not confirmed: it is to be confirmed first.',
  ROTATION_WRONG_GENERATION: 'A rotation asks for the generation after the highest one, and for no other.',
  ROTATION_NOT_PERMITTED: 'No policy permits a new key for the disk.',
  WRITTEN_MEANWHILE: 'The disk was changed by another request at the same time; ask again.',
  ROTATION_LIMIT: 'The disk has as many generations as can be kept.',
  KEY_RETIRED:
    'No volume and no snapshot of the disk is left, and its delay is over: the wrapped key is gone.',
  KEY_KEPT: 'An operator keeps the keys of the disk: nothing of them is retired.',
  KEY_ROTATED: 'A newer generation was confirmed: this one retires.',
  // Disks on the host
  KEY_DOES_NOT_OPEN:
    'No released generation opens the disk. Use the recovery key: casemate-agent disk recover.',
  KEY_ENVELOPE_REFUSED:
    'The key came in an envelope that is not as KMS makes them, or not for this request: the pipeline changed it. Ask again, and look at its log.',
  DEVICE_MISSING: 'No device of this machine is the volume: attach it, and load the driver of its bus.',
  DEVICE_NOT_BLANK:
    'The device carries something already. To overwrite it: casemate-agent disk format --yes --replace NAME.',
  DEVICE_NOT_BITLOCKER: 'The volume is to be a BitLocker volume and carries none.',
  DEVICE_NOT_BY_SERIAL: 'The device is not known to be the volume by its NVMe serial: it is not formatted.',
  DEVICE_TOO_SMALL: 'The device is too small for a LUKS header and data: it takes at least 32 MiB.',
  DEVICE_FAILED: 'The device vanished, is in use, or fails to read or write: see the message and dmesg.',
  VOLUME_FROM_SNAPSHOT: 'A volume made from a snapshot is not formatted without a human.',
  DISK_BLANK_CONFIRMED:
    'ALARM: the disk had a confirmed key and is blank now, or its header is. It is not formatted. Was the volume swapped or wiped? Restore a snapshot, or the header backup.',
  RECOVERY_KEY_WRONG:
    'That is not the recovery key of the disk. An operator reads it with: casemate keys recover <disk>.',
  BITLOCKER_SECRET_WRONG: 'That recovery password or startup key does not open the BitLocker volume.',
  SECRET_NOT_ESCROWED: 'The BitLocker secret is not escrowed yet: casemate-agent disk escrow.',
  DISK_BUSY: 'Another casemate-agent is working on the disks of this machine; try again when it is done.',
  HEADER_UNREADABLE:
    'The LUKS header is truncated or corrupted. Restore it from its backup in the header bucket.',
  HEADER_OTHER_DISK: 'The LUKS header is of another disk than the one that this volume carries.',
  HEADER_CIPHER: 'The LUKS header asks for another cipher than aes-xts-plain64: it was tampered with.',
  HEADER_SEGMENTS: 'The LUKS header does not have exactly one plain data segment: it was tampered with.',
  HEADER_REENCRYPTION:
    'The LUKS header says that a re-encryption is under way that this agent did not start: it was tampered with.',
  HEADER_REQUIREMENTS: 'The LUKS header has requirements or flags that this agent does not set.',
  HEADER_GEOMETRY: 'The LUKS header has sizes or offsets that do not fit the device.',
  HEADER_DIGEST: 'The digests of the LUKS header do not cover its data as they must.',
  HEADER_KEYSLOTS: 'The LUKS header has keyslots that this agent does not try.',
  HEADER_FOREIGN_TOKEN: 'The LUKS header carries a token that is not ours. If you put it there, remove it.',
  MOUNT_POINT_REFUSED:
    'The mount point is not below the mountPrefixes of the agent, not empty, or reached by a link.',
  FILESYSTEM_REFUSED: 'The file system asked for is not one of ext4 and xfs.',
  FILESYSTEM_UNEXPECTED: 'The opened disk carries no file system, or another one than its tag says.',
  // Ingest of disk images
  INGEST_DOES_NOT_FIT: 'The disk in the image is larger than the target: grow the volume first.',
  INGEST_UNENCRYPTED:
    'The target does not encrypt. Name the opened volume below /dev/mapper, or say --unencrypted.',
  INGEST_TARGET_NOT_EMPTY: 'The target carries something. To overwrite it, name it: --replace NAME.',
  INGEST_TARGET_BUSY: 'The target is mounted or something else holds it: unmount it first.',
  INGEST_TARGET_MISSING: 'The target is no block device and no file: open the volume first.',
  INGEST_TARGET_FAILED: 'The target vanished, or fails to read or write: see the message and dmesg.',
  INGEST_OTHER_IMAGE:
    'Another image, or a changed one, was half copied to the target. To begin anew: --restart.',
  INGEST_IMAGE_REFUSED: 'The image cannot be taken as it is: see the message. Convert it with qemu-img.',
  INGEST_IMAGE_CHANGED:
    'The image was written to while it was copied: the target holds neither. Stop who writes it, and begin anew: --restart.',
  INGEST_MISMATCH: 'What was read back is not what was written: do not use the volume. See dmesg.',
  // Swap
  SWAP_HIBERNATION:
    'Hibernation needs the swap area readable at the next boot. Take resume= away first, or leave it plain.',
  SWAP_NOT_OURS:
    'The device does not carry a swap signature alone, nor the mark of this agent: it is not touched.',
  SWAP_FAILED: 'The swap area could not be taken out of use, encrypted or put into use: see the message.',
  // Operators
  OPERATOR_HOLD: 'An operator holds the keys of the VM back: casemate keys unhold.',
  OPERATOR_QUARANTINE: 'An operator contained the VM: casemate restore takes that back.',
  LEAVE_SCOPE_ALLOWED: 'An operator let the VM leave scope, as its tags say.',
  OPERATOR_ASKED: 'An operator asked for it.',
  // Evidence in the pipeline
  TPM_KEY_UNFIT:
    'The key cannot attest: it must be restricted, sign, and be fixed to its TPM; endorsement keys are RSA-2048 or P-384.',
  TPM_NOT_REPORTED: 'EC2 reports no TPM for the instance: launch it from an AMI with TPM support v2.0.',
  TPM_NOT_OF_INSTANCE:
    'The TPM is not the one that EC2 reports for the instance: it has another endorsement key, or it could not open the credential.',
  // Policies: hardware-aware rules
  UNKNOWN_REQUIREMENT:
    'The tag casemate:require or casemate:evidence demands something that Casemate does not know: correct it (docs/policies.md).',
  NESTED_PAGING_MISSING:
    'VT-x or AMD-V with nested paging is demanded: use a .metal type, or one with NestedVirtualization enabled, and run the agent as root.',
  IOMMU_INACTIVE: 'An active IOMMU is demanded: use a type that shows one, and boot with it switched on.',
  SMT_ACTIVE:
    'Threads that share no core are demanded: launch with CpuOptions ThreadsPerCore=1, or boot with nosmt.',
  SNP_NOT_ATTESTED: 'Attested SEV-SNP is demanded, and no fresh report of the VM was verified.',
  MEMORY_ENCRYPTION_NOT_ASSERTED:
    'Memory that the platform encrypts is demanded, and AWS does not say so of this instance type.',
  MEMORY_MAY_REACH_DISK:
    'Memory must not reach a disk in the clear: encrypt swap or turn it off, and boot with nohibernate.',
  MITIGATION_MISSING:
    'A mitigation that is demanded is not active, or could not be read: update kernel and microcode; drop mitigations=off.',
  // Isolation
  REQUESTER_MANAGED: 'Another AWS service manages the interface; it is reported, not changed.',
  NO_GROUPS_IN_VPC:
    'The security groups of Casemate could not be made in the VPC of the interface: see its logs.',
  PROFILE_OVER_QUOTA:
    'The profile comes to more groups than an interface takes in this account: it carries as many as fit, and lets through less than the profile says. Raise the quota "Security groups per network interface", or use fewer rules.',
  NO_ORIGINAL_GROUPS:
    'The interface has no groups of its own to be given back: casemate restore i-… --groups eni-…=sg-… names them.',
  DRIFT_PUT_BACK: 'Somebody else changed the groups of a fenced interface; they were put back.',
  DRIFT_REPORTED: 'Somebody changed the groups of an interface in workload. That is theirs to do.',
  DRIFT_FOUGHT:
    'The groups of an interface were put back three times within ten minutes and changed again: find out who does it (CloudTrail, ModifyNetworkInterfaceAttribute). It is put back again ten minutes later.',
  GUARD_REACHED:
    'Policy contained as many VMs of the VPC, Auto Scaling group or tenant as it may; this one waits where it is. Look at casemate guard list, then casemate quarantine, or casemate guard open.',
  PROTECTED_FROM_POLICY: 'The VM is on the list that policy never contains. An operator can.',
  STANDBY_FAILED:
    'The Auto Scaling group could not be told that the VM is contained: it may end it, and its evidence with it.',
  REPLACEMENTS_HALTED:
    'Too many VMs of the Auto Scaling group were replaced within an hour: this one is contained and no other is started in its place. Raise the desired capacity once the cause is known.',
  TENANT_CHANGED:
    'The tenant tag names another than before; the former counts until an operator confirms: casemate tenant.',
  CUT_REFUSED_PUBLIC:
    'Tracked flows of an interface with a public address are not cut: it would be open to everybody meanwhile.',
  CUT_FAILED:
    'Tracked flows could not be cut: the interface is closed to new ones, established ones may live on.',
  CREDENTIALS_NO_ROOM:
    'The inline policies of the role are as long as IAM takes: credentials of contained VMs work on. Take other inline policies away, or revoke the sessions of the role by hand.',
  CREDENTIALS_NO_ROLE: 'There is no such role to deny credentials in: correct denyCredentialsOfRoles.',
  ADDRESS_ELSEWHERE:
    'An Elastic IP address that was to be given back is on another interface now, and stays there.',
  ORIGINAL_GROUP_GONE:
    'A group that the interface had was deleted, so the fence stays: casemate restore i-… --groups eni-…=sg-… names what it gets.',
} as const;

export type Reason = keyof typeof REASONS;
